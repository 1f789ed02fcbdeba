"""Whether an operator may have another dtype, and whether ONNX Runtime has a kernel: it is loaded alone."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from converter.runtime import loads
from converter.schemas import schema_of

__all__ = ["allows", "has_kernel"]

_WORDS = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def allows(node: ir.Node, index: int, kind: str, dtype: ir.DataType, opset: int) -> bool:
    """Whether the operator's definition lets an input (`i`) or output (`o`) be of a half precision dtype."""
    schema = schema_of("" if node.domain == "ai.onnx" else node.domain, node.op_type, opset)
    formal = () if schema is None else schema.inputs if kind == "i" else schema.outputs
    return bool(formal) and f"tensor({_WORDS[dtype]})" in formal[min(index, len(formal) - 1)].types


def has_kernel(node: ir.Node, dtype: ir.DataType, provider: str, opset: int) -> bool:
    """Whether the node loads with its float32 tensors in a half precision dtype.

    Args:
        node: a node without inner graphs, whose values have types.
        dtype: what float32 becomes where the operator's definition allows it.
        provider: ONNX Runtime's execution provider.
        opset: the version of ONNX's operators.
    """
    alone = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and not attribute.is_ref():
            alone.attribute.append(ir.to_proto(_retyped(node, attribute, dtype)))
    types: list[tuple[str, int, int | None]] = []
    for kind, values, names in (("i", node.inputs, alone.input), ("o", node.outputs, alone.output)):
        for index, value in enumerate(values):
            if value is None or (kind == "o" and not (value.uses() or value.is_graph_output())):
                names.append("")
                continue
            element = value.dtype or ir.DataType.FLOAT
            if element == ir.DataType.FLOAT and allows(node, index, kind, dtype, opset):
                element = dtype
            names.append(f"{kind}{index}")
            rank = None if value.shape is None or kind == "o" else len(value.shape)
            types.append((f"{kind}{index}", int(element), rank))
    return _loads(alone.SerializeToString(deterministic=True), tuple(types), provider, opset)


def _retyped(node: ir.Node, attribute: ir.Attr, dtype: ir.DataType) -> ir.Attr:
    """The attribute; a Cast to float32 is one to half precision."""
    if node.op_type == "Cast" and attribute.name == "to" and attribute.as_int() == ir.DataType.FLOAT:
        return ir.AttrInt64("to", int(dtype))
    return attribute


@functools.cache
def _loads(
    serialised: bytes, types: tuple[tuple[str, int, int | None], ...], provider: str, opset: int
) -> bool:
    node = onnx.NodeProto.FromString(serialised)
    infos = {
        name: onnx.helper.make_tensor_value_info(
            name, element, None if rank is None else [f"{name}_{axis}" for axis in range(rank)]
        )
        for name, element, rank in types
    }
    graph = onnx.helper.make_graph(
        [node],
        "alone",
        [infos[name] for name in node.input if name],
        [infos[name] for name in node.output if name],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    if node.domain not in ("", "ai.onnx"):
        imports.append(onnx.helper.make_opsetid(node.domain, 1))
    model = onnx.helper.make_model(graph, opset_imports=imports)
    model.ir_version = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return loads(model.SerializeToString(), provider)
