"""Operators that ONNX itself defines by others, spelled out in place.

Requires: types of the values that the nodes read, which definitions that depend on them look at. Ensures: the
same values by ONNX's own definition; the nodes bear the layer of the one that they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from converter.finish.graphs import replace_uses

__all__ = ["expand"]

# A definition may use operators that have definitions themselves.
_DEPTH = 8


def expand(model: ir.Model, wanted: Callable[[ir.Node], bool]) -> None:
    """Replace nodes of the main graph by the definitions of the installed onnx, in place.

    Nodes that have no definition, or none for these types, stay.

    Args:
        model: the model.
        wanted: whether to spell a node out.
    """
    names = _Names(model)
    for _ in range(_DEPTH):
        changed = False
        for node in list(model.graph):
            if wanted(node):
                changed |= _expand(model, node, names)
        if not changed:
            return


class _Names:
    """Names for new values."""

    def __init__(self, model: ir.Model) -> None:
        made = [value for node in model.graph.all_nodes() for value in node.outputs]
        values = [*model.graph.initializers.values(), *model.graph.inputs, *made]
        self._taken = {value.name for value in values}

    def fresh(self, wanted: str) -> str:
        name, copy = wanted, 0
        while name in self._taken:
            copy += 1
            name = f"{wanted}_{copy}"
        self._taken.add(name)
        return name


def _expand(model: ir.Model, node: ir.Node, names: _Names) -> bool:
    opset = node.version or model.opset_imports.get(node.domain)
    function = None if opset is None else _definition(node, opset)
    if function is None or node.graph is not model.graph or _has_bodies(function):
        return False
    inside: dict[str, ir.Value | None] = {}
    for place, formal in enumerate(function.input):
        inside[formal] = node.inputs[place] if place < len(node.inputs) else None
    versions = {imported.domain: imported.version for imported in function.opset_import}
    attributes = _attributes(node, function, opset or 1)
    made: list[ir.Node] = []
    for proto in function.node:
        made.append(_copied(proto, inside, attributes, versions, names, node))
    for domain, version in versions.items():
        model.opset_imports.setdefault(domain, version)
    model.graph.insert_before(node, made)
    for formal, output in zip(function.output, node.outputs, strict=False):
        value = inside.get(formal)
        if value is None:  # an optional output that this node does not ask for
            continue
        value.type, value.shape = output.type or value.type, output.shape or value.shape
        replace_uses(output, value)
    model.graph.remove(node, safe=True)
    return True


def _has_bodies(function: onnx.FunctionProto) -> bool:
    """Whether it branches or loops, which frameworks' graphs are rebuilt without."""
    return any(a.type == onnx.AttributeProto.GRAPH for node in function.node for a in node.attribute)


def _definition(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The node's definition at its opset; None where it has none."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)  # its stub lacks functions
    except onnx.defs.SchemaError:
        return None
    function = onnx.FunctionProto()
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        if versions:
            function.ParseFromString(schema.get_function_with_opset_version(max(versions)))
            return function if function.node else None
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        types = _types(node)
        if versions and types is not None:
            proto = ir.to_proto(node)
            built = schema.get_context_dependent_function_with_opset_version(
                max(versions), proto.SerializeToString(), types
            )
            function.ParseFromString(built)
            return function if function.node else None
    return None


def _types(node: ir.Node) -> Sequence[bytes] | None:
    """The types of a node's inputs, as onnx takes them; None where one is not known."""
    found = []
    for value in node.inputs:
        info = onnx.TypeProto()
        if value is not None:
            dtype = value.dtype or (None if value.const_value is None else value.const_value.dtype)
            shape = (
                value.shape
                if value.shape is not None or value.const_value is None
                else value.const_value.shape
            )
            if dtype is None:
                return None
            info.tensor_type.elem_type = int(dtype)
            if shape is not None:
                info.tensor_type.shape.SetInParent()
                for size in shape:
                    dim = info.tensor_type.shape.dim.add()
                    if isinstance(size, int):
                        dim.dim_value = size
                    elif size.value is not None:
                        dim.dim_param = str(size.value)
        found.append(info.SerializeToString())
    return found


def _attributes(node: ir.Node, function: onnx.FunctionProto, opset: int) -> dict[str, ir.Attr]:
    """What attributes of the definition's nodes refer to: the node's own, else the declared defaults."""
    found = {attribute.name: ir.from_proto(attribute) for attribute in function.attribute_proto}
    declared = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
    found |= {n: ir.from_proto(a.default_value) for n, a in declared.items() if a.default_value.type}
    return found | dict(node.attributes.items())


def _copied(
    proto: onnx.NodeProto,
    inside: dict[str, ir.Value | None],
    attributes: Mapping[str, ir.Attr],
    versions: Mapping[str, int],
    names: _Names,
    origin: ir.Node,
) -> ir.Node:
    given = []
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            given.append(ir.from_proto(attribute))
        elif attribute.ref_attr_name in attributes:
            known = attributes[attribute.ref_attr_name]
            given.append(ir.Attr(attribute.name, known.type, known.value))
    node = ir.Node(
        proto.domain,
        proto.op_type,
        [inside[name] if name else None for name in proto.input],
        given,
        num_outputs=len(proto.output),
        version=versions.get(proto.domain),
        name=names.fresh(f"{origin.name or origin.op_type}/{proto.op_type}"),
        metadata_props=dict(origin.metadata_props),
    )
    for name, value in zip(proto.output, node.outputs, strict=True):
        value.name = names.fresh(f"{origin.name or origin.op_type}/{name}") if name else ""
        inside[name] = value
    return node
