"""Sizes that are not known before a model runs: what ONNX's `Shape` gives, while a Keras model is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Size", "as_sizes", "is_sizes", "settled"]


@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """The length of an axis of a KerasTensor, or a number computed from such lengths (then no tensor).

    Attributes:
        tensor: the tensor, None where only that it is a number is known.
        axis: the axis.
        symbol: the graph's name for the length: lengths of the same name are equal.
    """

    tensor: Any = None
    axis: int = 0
    symbol: str | None = None

    def same(self, other: Any) -> bool:
        """Whether two sizes are certainly equal."""
        if not isinstance(other, Size):
            return False
        if self.symbol is not None and self.symbol == other.symbol:
            return True
        return self.tensor is not None and self.tensor is other.tensor and self.axis == other.axis

    # Arithmetic: what leaves the number as it is keeps knowing it.
    def __add__(self, other: Any) -> Size:
        return self if _is(other, 0) else Size()

    def __sub__(self, other: Any) -> Size:
        return self if _is(other, 0) else Size()

    def __mul__(self, other: Any) -> Size:
        return self if _is(other, 1) else Size()

    def __floordiv__(self, other: Any) -> Size:
        return self if _is(other, 1) else Size()

    def __rsub__(self, _other: Any) -> Size:
        return Size()

    def __rfloordiv__(self, _other: Any) -> Size:
        return Size()

    __radd__ = __add__
    __rmul__ = __mul__


def _is(value: Any, number: int) -> bool:
    return not isinstance(value, Size) and value == number


def is_sizes(value: Any) -> bool:
    """Whether a value of the graph is an array of sizes, some of them unknown."""
    return isinstance(value, np.ndarray) and value.dtype == object


def as_sizes(entries: Sequence[Any]) -> Any:
    """A vector of sizes; of numbers alone it is an array of int64."""
    array = np.empty(len(entries), object)
    for place, entry in enumerate(entries):
        array[place] = entry if isinstance(entry, Size) else int(entry)
    return settled(array)


def settled(array: Any) -> Any:
    """The array as int64 where all sizes in it turned out to be numbers."""
    array = np.asarray(array, object)
    return array if any(isinstance(entry, Size) for entry in array.reshape(-1)) else array.astype(np.int64)
