"""Cutting a graph in memory: prune what is not needed, rewire inputs and outputs. Touches no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from converter.model import Boundary, LayeredModel, Piece, TensorSpec
from converter.surgery.sizes import read_from

__all__ = ["cut_graph"]


def cut_graph(model: LayeredModel, role: str, starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Piece:
    """`cut` of an onnx_ir model."""
    assert isinstance(model.graph, ir.Model)
    graph = model.graph.clone()
    main = graph.graph
    named = _values_by_name(graph)
    outputs = [named[b.value] for b in ends]
    begun = {b.value: _input(b) for b in starts}
    for boundary in starts:
        old = named[boundary.value]
        new = begun[boundary.value]
        old.name = f"{boundary.value}#before"
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        main.inputs.append(new)
    read_from(main, [(b, begun[b.value]) for b in starts])
    main.outputs.clear()
    for value, boundary in zip(outputs, ends, strict=True):
        ended = begun.get(boundary.value, value)
        if ended.is_graph_input() or ended.is_graph_output():
            copy = ir.node("Identity", [ended])
            main.append(copy)
            ended = copy.outputs[0]
        main.outputs.append(ended)
    common.RemoveUnusedNodesPass()(graph)
    for value in [v for v in main.inputs if not v.uses() and v not in begun.values()]:
        main.inputs.remove(value)
    outputs_named = _name(main, ends)
    inputs = tuple(s for s in model.inputs if any(v.name == s.name for v in main.inputs))
    return Piece(
        role=role,
        graph=graph,
        inputs=(*inputs, *(b.spec for b in starts)),
        outputs=outputs_named,
        starts=tuple(starts),
        ends=tuple(ends),
    )


def _values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """The main graph's values by name."""
    graph = model.graph
    named = {value.name: value for node in graph for value in node.outputs}
    named |= {value.name: value for value in graph.inputs}
    return {name: value for name, value in named.items() if name}


def _input(boundary: Boundary) -> ir.Value:
    return ir.Value(name=boundary.name, shape=ir.Shape(boundary.spec.shape), type=boundary.spec.onnx_type)


def _name(graph: ir.Graph, ends: Sequence[Boundary]) -> tuple[TensorSpec, ...]:
    """Give outputs their names and types; whoever bears such a name already steps aside."""
    starts = {value.name for value in graph.inputs}
    # A tensor may pass through a head untouched: then its two ends cannot bear one name.
    specs = tuple(
        dataclasses.replace(b.spec, name=f"{b.name}:out") if b.name in starts else b.spec for b in ends
    )
    taken = starts | {spec.name for spec in specs}
    for value in (value for node in graph for value in node.outputs):
        if value.name in taken:
            value.name = f"{value.name}#inner"
    for name in [name for name in graph.initializers if name in taken]:
        weight = graph.initializers.pop(name)
        weight.name = f"{name}#weight"
        graph.register_initializer(weight)
    for value, spec in zip(graph.outputs, specs, strict=True):
        value.name = spec.name
        value.shape, value.type = ir.Shape(spec.shape), spec.onnx_type
    return specs
