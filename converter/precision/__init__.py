"""Pieces in less precision: half, integers, some layers in float; each by what is measured on samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.precision.settings import INT4_OPSET, IO, METHODS, PRECISIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converter.model import Piece
    from converter.precision.ends import Scale
    from converter.precision.lowering import Lowered
    from converter.precision.measure import Feeds

__all__ = ["INT4_OPSET", "IO", "METHODS", "PRECISIONS", "Precision", "lower"]


def lower(
    piece: Piece,
    precision: Precision,
    feeds: Feeds,
    provider: str,
    scales: Mapping[str, Scale] | None = None,
) -> Lowered:
    """Make a finished piece one of less precision (see `converter.precision.lowering`)."""
    from converter.precision.lowering import lower as run  # onnx_ir takes half a second to import

    return run(piece, precision, feeds, provider, scales)
