"""Making a piece ready to ship: optimised, named, in the asked-for opset."""

from __future__ import annotations

from collections.abc import Callable, Collection

from converter.model import Piece, Plain

__all__ = ["OPSETS", "finish", "name_by_layer", "opened", "plainly", "restate"]

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


def opened(piece: Piece, opset: int | None) -> None:
    """Make a piece of an ONNX file a graph in memory that can be finished as one that was exported; its
    nodes are its layers.

    Raises:
        TargetError: the graph cannot be expressed in this opset.
    """
    from converter.finish.passes import opened as run

    run(piece, opset)


def name_by_layer(piece: Piece) -> None:
    """Name the nodes of a piece that is yet to be finished by their layers and operators."""
    from converter.finish.cleanup import by_layer

    by_layer(piece)


def plainly(
    piece: Piece,
    weights: Collection[str] | None,
    trainable: Collection[str] | None,
    known: Callable[[tuple[str, str, int]], bool],
    *,
    channels_last: bool,
    native_layout: bool,
) -> Plain:
    """Draw a piece as the author of a model would (see `converter.finish.plain`)."""
    from converter.finish.plain import plain as run

    return run(piece, weights, trainable, known, channels_last=channels_last, native_layout=native_layout)
