"""The edges of any graph that can be cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from converter.edges import Edges, is_random
from converter.onnxfile import OnnxFile

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["edges_of"]


def edges_of(graph: ir.Model | OnnxFile) -> Edges:
    """The edges of the main graph, whose nodes are in running order."""
    return graph.edges if isinstance(graph, OnnxFile) else _edges_of_model(graph)


def _edges_of_model(model: ir.Model) -> Edges:
    import onnx_ir as ir
    from onnx_ir.analysis import analyze_implicit_usage

    from converter.surgery.sizes import symbol_of

    edges = Edges()
    for value in model.graph.inputs:
        if not value.is_initializer():
            symbols = [d.value for d in value.shape or () if isinstance(d, ir.SymbolicDim) and d.value]
            edges.add_input(value.name or "", symbols)
    captured = analyze_implicit_usage(model.graph)
    for node in model.graph:
        outer = {
            value.name or ""
            for inner in _inner_graphs(node)
            for value in captured.get(inner, ())
            if value.graph is model.graph
        }
        reads = [value.name or "" for value in node.inputs if value is not None]
        number = edges.add_node([*reads, *sorted(outer)], [value.name or "" for value in node.outputs])
        if is_random(node.op_type, reads):
            edges.random.add(number)
        symbol = symbol_of(node)
        if symbol is not None:
            edges.sizes[number] = symbol
    return edges


def _inner_graphs(node: ir.Node) -> Iterable[ir.Graph]:
    """Bodies of loops and branches, at any depth."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies: Sequence[ir.Graph] = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = attribute.as_graphs()
        else:
            continue
        for body in bodies:
            yield body
            for inner in body:
                yield from _inner_graphs(inner)
