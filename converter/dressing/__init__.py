"""What stands around a piece: layout, fixed sizes, images in and classes out, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converter.dressing.dress import AXES, Dress
from converter.dressing.dressed import Dressed, dress

if TYPE_CHECKING:
    from converter.model import Piece

__all__ = ["AXES", "Dress", "Dressed", "dress", "settle"]


def settle(piece: Piece) -> None:
    """Give a finished piece's outputs their sizes (see `converter.dressing.static`)."""
    from converter.dressing.static import settle as run  # onnx_ir takes half a second to import

    run(piece)
