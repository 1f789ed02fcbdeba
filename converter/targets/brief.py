"""What a target is told besides the model that it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from converter.model import Array, Piece

__all__ = ["Brief", "Run"]

# An artifact, loaded again: the piece's inputs by name → its outputs by name.
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Brief:
    """What a target is told besides the model that it is made of.

    Attributes:
        piece: the piece, whose inputs and outputs the artifact has, by name and in this order.
        calibration: inputs of the piece by name, as the framework has them there; called by targets that
            measure the range of values.
        trust: the source was opened with trust; its native models may need it, too.
    """

    piece: Piece
    calibration: Callable[[], Sequence[Mapping[str, Array]]]
    trust: bool = False
