"""Cutting a graph: prune what is not needed, rewire inputs and outputs. Touches no weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from converter.model import Boundary, LayeredModel, Piece, TensorSpec
from converter.surgery.frontier import values_by_name
from converter.surgery.sizes import read_from

__all__ = ["cut"]


def cut(model: LayeredModel, role: str, starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Piece:
    """The part of a model that computes `ends` from `starts` and the model's own inputs.

    Args:
        model: the layered model; it is not changed.
        role: what to call the piece (`trunk`, `head`, `segment`, `model`).
        starts: boundaries that become inputs. They must be all that crosses (see `frontier`): what is
            not given here is computed from the model's inputs.
        ends: boundaries that become outputs, in this order.

    Returns:
        A piece with a graph of its own, in time linear in the nodes; initializers are shared.
    """
    graph = model.graph.clone()
    main = graph.graph
    named = values_by_name(graph)
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
