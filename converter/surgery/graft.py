"""Putting a graph onto a value of another, and one value into the place of another; in place."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from converter.errors import TargetError

__all__ = ["bypass", "graft", "values_of"]


def values_of(model: ir.Model) -> dict[str, ir.Value]:
    """The values of the main graph by name."""
    graph = model.graph
    found = {value.name: value for value in (*graph.inputs, *graph.initializers.values()) if value.name}
    found |= {value.name: value for node in graph for value in node.outputs if value.name}
    return found


def graft(model: ir.Model, at: Mapping[str, ir.Value], scion: onnx.ModelProto, prefix: str) -> list[ir.Value]:
    """Let a graph compute from values of another.

    Args:
        model: gets the nodes, weights and functions of the other.
        at: name of each input of the other → the value that it reads instead.
        scion: the other graph, in the model's opset.
        prefix: what its names begin with from now on.

    Returns:
        The values that are its outputs.

    Raises:
        TargetError: the two need different versions of a set of operators.
    """
    other = ir.from_proto(scion)
    for domain, version in other.opset_imports.items():
        if model.opset_imports.setdefault(domain, version) != version:
            raise TargetError(
                f"the head is written in opset {version} of {domain or 'ai.onnx'}, "
                f"the model in {model.opset_imports[domain]}"
            )
    model.ir_version = max(model.ir_version, other.ir_version)
    for identifier, function in other.functions.items():
        if identifier in model.functions:
            raise TargetError(f"both the head and the model have a function {identifier[1]!r}")
        model.functions[identifier] = function
    graph = other.graph
    _rename(graph, prefix)
    for value in list(graph.inputs):
        name = (value.name or "").removeprefix(prefix)
        if name in at:
            value.replace_all_uses_with(at[name])
    ends = [at.get((end.name or "").removeprefix(prefix), end) for end in graph.outputs]
    graph.outputs.clear()
    for node in list(graph):
        graph.remove(node)
        model.graph.append(node)
    for name in list(graph.initializers):
        value = graph.initializers.pop(name)
        if not value.is_graph_input():
            model.graph.register_initializer(value)
    return ends


def _rename(graph: ir.Graph, prefix: str) -> None:
    """Begin the names of all values and nodes with a prefix, those of inner graphs included."""
    renamed: set[ir.Value] = set()
    for inner in [graph, *{node.graph for node in ir.traversal.RecursiveGraphIterator(graph)} - {graph}]:
        assert isinstance(inner, ir.Graph)
        held = list(inner.initializers.values())
        inner.initializers.clear()
        for value in (*inner.inputs, *held, *(v for node in inner for v in node.outputs)):
            if value not in renamed and value.name:
                value.name = prefix + value.name
                renamed.add(value)
        for value in held:
            inner.register_initializer(value)
        for node in inner:
            if node.name:
                node.name = prefix + node.name


def bypass(model: ir.Model, old: ir.Value, new: ir.Value, *, grafted: bool) -> None:
    """Let everything that reads one value read another, in place; an output keeps its name.

    Args:
        model: the model.
        old: what was read.
        new: what is read from now on; nothing that it is computed from reads `old`.
        grafted: the new value was grafted on, and takes over the old one's name.
    """
    graph = model.graph
    for user, index in list(old.uses()):
        user.replace_input_with(index, new)
    is_output = any(end is old for end in graph.outputs)
    if is_output or grafted:
        name = old.name
        old.name = f"{name}:before"
        if not grafted:
            node = ir.node("Identity", [new], name=f"{name}/copy")
            node.outputs[0].type, node.outputs[0].shape = new.type, new.shape
            graph.append(node)
            new = node.outputs[0]
        new.name = name
        graph.outputs[:] = [new if end is old else end for end in graph.outputs]
    graph.sort()
