"""What each word of a preprocessing does, as plain data and in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from converter.imaging.resample import resize
from converter.model import Array

__all__ = ["Crop", "Normalize", "Resize", "Reverse", "Scale", "Step"]


class Step(Protocol):
    """One word; `apply` is its meaning."""

    @property
    def sizing(self) -> bool:
        """Whether it changes height and width."""
        ...

    @property
    def by_channel(self) -> bool:
        """Whether it tells red, green and blue apart."""
        ...

    def apply(self, x: Array, axis: int) -> Array:
        """Images after this step: uint8 as long as they are pixels, float32 after arithmetic.

        Args:
            x: images of 4 dimensions where the step is sizing, else of any.
            axis: where they have their channels.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Resize:
    """Another size.

    Attributes:
        height: of the result; with `width` 0 the length of its shorter side, the aspect being kept.
        width: of the result.
        method: `bilinear`, `bicubic` or `nearest`.
        antialias: whether what shrinks is filtered.
    """

    height: int
    width: int
    method: str = "bilinear"
    antialias: bool = True
    sizing = True
    by_channel = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result for an image of this size.

        The longer side is cut to a whole number, `int(size * long / short)`: torchvision's rule
        (`torchvision.transforms.functional._compute_resized_output_size`).
        """
        if self.width:
            return self.height, self.width
        short = min(height, width)
        return max(self.height * height // short, 1), max(self.height * width // short, 1)

    def apply(self, x: Array, axis: int) -> Array:
        """See `Step.apply`."""
        rows, columns = _spatial(axis)
        size = self.size(x.shape[rows], x.shape[columns])
        return resize(x, size, (rows, columns), self.method, antialias=self.antialias)

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}" if self.width else f"short={self.height}"
        plain = "" if self.antialias or self.method == "nearest" else ",noantialias"
        return f"resize({size},{self.method}{plain})"


@dataclasses.dataclass(frozen=True)
class Crop:
    """The middle of an image; a smaller one is padded with zeros around it.

    The middle is torchvision's (`center_crop`): it starts at half the surplus, halves rounded to even.

    Attributes:
        height: of the result.
        width: of the result.
    """

    height: int
    width: int
    sizing = True
    by_channel = False

    def apply(self, x: Array, axis: int) -> Array:
        """See `Step.apply`."""
        for place, wanted in zip(_spatial(axis), (self.height, self.width), strict=True):
            lack = max(wanted - x.shape[place], 0)
            pads = [(0, 0)] * x.ndim
            pads[place] = (lack // 2, lack - lack // 2)
            x = np.pad(x, pads)
            start = round((x.shape[place] - wanted) / 2)
            x = x.take(range(start, start + wanted), place)
        return x

    def __str__(self) -> str:
        return f"crop({self.height}x{self.width})"


@dataclasses.dataclass(frozen=True)
class Scale:
    """x · factor / divisor + offset.

    Attributes:
        factor: multiplied by.
        divisor: divided by: 255 itself is a number in float32, and 1/255 is none.
        offset: added.
    """

    factor: float = 1.0
    divisor: float = 1.0
    offset: float = 0.0
    sizing = False
    by_channel = False

    def apply(self, x: Array, axis: int) -> Array:  # noqa: ARG002  # the arguments of a step
        """See `Step.apply`."""
        # The order and the precision are Keras's and torchvision's, so that values agree to the last bits.
        value = np.array(x, np.float32)
        if self.factor != 1:
            value *= np.float32(self.factor)
        if self.divisor != 1:
            value /= np.float32(self.divisor)
        if self.offset:
            value += np.float32(self.offset)
        return value

    def __str__(self) -> str:
        divisor = "" if self.divisor == 1 else f"/{_said(self.divisor)}"
        offset = f",{_said(self.offset)}" if self.offset else ""
        return f"scale({_said(self.factor)}{divisor}{offset})"


@dataclasses.dataclass(frozen=True)
class Normalize:
    """(x - mean) / std.

    Attributes:
        mean: one for all channels or one for each.
        std: likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizing = False

    @property
    def by_channel(self) -> bool:
        """See `Step.by_channel`."""
        return len(self.mean) > 1 or len(self.std) > 1

    def apply(self, x: Array, axis: int) -> Array:
        """See `Step.apply`."""
        value = np.array(x, np.float32)
        sizes = [1] * value.ndim
        sizes[axis] = -1
        value -= np.reshape(np.array(self.mean, np.float32), sizes)
        value /= np.reshape(np.array(self.std, np.float32), sizes)
        return value

    def __str__(self) -> str:
        return f"normalize({','.join('|'.join(map(_said, part)) for part in (self.mean, self.std))})"


@dataclasses.dataclass(frozen=True)
class Reverse:
    """Channels in the opposite order: RGB becomes BGR."""

    sizing = False
    by_channel = True

    def apply(self, x: Array, axis: int) -> Array:
        """See `Step.apply`."""
        return np.ascontiguousarray(np.flip(x, axis))

    def __str__(self) -> str:
        return "bgr"


def _said(value: float) -> str:
    """A number that reads back as the same."""
    return repr(value).removesuffix(".0")


def _spatial(axis: int) -> tuple[int, int]:
    """The axes of rows and columns, for that of channels."""
    return (2, 3) if axis == 1 else (1, 2)
