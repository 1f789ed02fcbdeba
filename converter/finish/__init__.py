"""Making a piece ready to ship: optimised, named, in the asked-for opset."""

from __future__ import annotations

from converter.model import Piece

__all__ = ["OPSETS", "finish", "name_by_layer", "restate"]

OPSETS = range(15, 24)


def finish(piece: Piece, opset: int) -> None:
    """Optimise a piece's graph in place for inference (see `converter.finish.passes`).

    Raises:
        TargetError: the graph cannot be expressed in this opset.
    """
    from converter.finish.passes import run_passes  # onnxscript takes half a second to import

    run_passes(piece, opset)


def restate(piece: Piece, opset: int | None) -> None:
    """Make a piece of an ONNX file a graph in memory, in another opset if one is given, the same otherwise.

    Raises:
        TargetError: the graph cannot be expressed in this opset.
    """
    from converter.finish.opset import restate as run

    run(piece, opset)


def name_by_layer(piece: Piece) -> None:
    """Name the nodes of a piece that is yet to be finished by their layers and operators."""
    from converter.finish.cleanup import by_layer

    by_layer(piece)
