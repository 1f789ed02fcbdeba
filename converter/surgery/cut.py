"""Cutting: the part of a model between two cuts. Touches names and edges, never weights."""

from __future__ import annotations

from collections.abc import Sequence

from converter.model import Boundary, LayeredModel, Piece
from converter.onnxfile import OnnxFile
from converter.surgery.cut_file import cut_file

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
    if isinstance(model.graph, OnnxFile):
        return cut_file(model, role, starts, ends)
    from converter.surgery.cut_graph import cut_graph  # half a second to import onnx_ir

    return cut_graph(model, role, starts, ends)
