"""Sizes of the model's inputs, which any tensor that has the same symbolic size can tell as well.

An exported graph computes with the batch size of the model's input all along. Read as data, that
would tie everything after a cut to the input; read as a size, it is there in what crosses the cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from converter.model import Boundary

__all__ = ["read_from", "symbol_of"]


def symbol_of(node: ir.Node) -> str | None:
    """The symbolic size that the node reads from an input of the graph (`Shape` of one axis); else None."""
    if node.op_type != "Shape" or node.domain not in ("", "ai.onnx"):
        return None
    value = node.inputs[0]
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", -1)
    if value is None or not value.is_graph_input() or value.shape is None or end != start + 1:
        return None
    size = value.shape[start]
    return size.value if isinstance(size, ir.SymbolicDim) else None


def read_from(graph: ir.Graph, starts: Sequence[tuple[Boundary, ir.Value]]) -> None:
    """Let the graph read sizes from its new inputs wherever these have them, in place."""
    axes: dict[str, tuple[ir.Value, int]] = {}
    for boundary, value in starts:
        for axis, size in enumerate(boundary.spec.shape):
            if isinstance(size, str):
                axes.setdefault(size, (value, axis))
    for node in graph:
        symbol = symbol_of(node)
        if symbol in axes:
            value, axis = axes[symbol]
            node.replace_input_with(0, value)
            node.attributes["start"] = ir.AttrInt64("start", axis)
            node.attributes["end"] = ir.AttrInt64("end", axis + 1)
