"""What a model takes, and how data come to be it: layout, preprocessing, dtype."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from converter.errors import UsageError
from converter.fitting.preprocess import Preprocess
from converter.model import Array, TensorSpec

__all__ = ["Intake", "Layout"]

_COLOURS = (1, 3)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a model takes images.

    Attributes:
        channel_axis: 3 (NHWC) or 1 (NCHW).
        channels: 1 (grey) or 3 (RGB).
        height: rows of pixels; None where the model takes any number.
        width: columns of pixels; None likewise.
    """

    channel_axis: int
    channels: int
    height: int | None
    width: int | None

    @classmethod
    def of(cls, spec: TensorSpec) -> Layout:
        """The layout of an input; where both ends could be channels, they are last.

        Raises:
            UsageError: no images of 1 or 3 channels go in there.
        """
        if len(spec.shape) == 4:
            for axis in (3, 1):
                channels = spec.shape[axis]
                if channels in _COLOURS and isinstance(channels, int):
                    sizes = [spec.shape[i] for i in range(1, 4) if i != axis]
                    height, width = (size if isinstance(size, int) else None for size in sizes)
                    return cls(axis, channels, height, width)
        raise UsageError(
            f"the model takes {spec}, which is no batch of images with 1 or 3 channels",
            hint="an .npz with the arrays x (in the model's layout) and y takes any data",
        )


@dataclasses.dataclass(frozen=True)
class Intake:
    """A model's input and what is done to data on their way there.

    Attributes:
        spec: the input.
        preprocess: what is done to pixels.
    """

    spec: TensorSpec
    preprocess: Preprocess

    def __post_init__(self) -> None:
        """Raise UsageError where the preprocessing is none for such an input."""
        if self.dtype.kind != "f" and self.preprocess.changes:
            raise UsageError(
                f"preprocess {self.preprocess.name} makes fractions, but the model takes {self.spec}",
                hint="--preprocess none",
            )
        if self.preprocess.by_channel and Layout.of(self.spec).channels != 3:
            raise UsageError(
                f"preprocess {self.preprocess.name} takes 3 channels, but the model takes {self.spec}",
                hint="--preprocess scale",
            )

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of what the model is fed.

        Raises:
            UsageError: one that data cannot be read for.
        """
        try:
            dtype = self.spec.numpy_dtype
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in "biuf":
            raise UsageError(f"the model takes {self.spec}: no data are read for inputs of this dtype")
        return dtype

    @property
    def words(self) -> bytes:
        """All that decides what becomes of data, for a digest."""
        arithmetic = dataclasses.replace(self.preprocess, name="")
        return repr((self.spec.shape, self.dtype.str, arithmetic)).encode()

    def accept(self, where: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        """Check an array of samples by its header.

        Args:
            where: what to call the array in a message.
            shape: its shape; axis 0 counts the samples.
            dtype: its dtype.

        Raises:
            UsageError: the model takes no such array.
        """
        fits = len(shape) == len(self.spec.shape) and all(
            got == size
            for got, size in zip(shape[1:], self.spec.shape[1:], strict=True)
            if isinstance(size, int)
        )
        if not fits:
            raise UsageError(f"{where} has shape {shape}, expected {self.spec}")
        wanted = self.dtype.kind
        taken = {"f": dtype.kind == "f" or dtype == np.uint8, "b": dtype.kind == "b"}
        if not taken.get(wanted, dtype.kind in "iu"):
            raise UsageError(
                f"{where} is {dtype}, expected {self.dtype}",
                hint={
                    "f": "floats of any size and uint8 are taken",
                    "b": "bool alone is taken",
                }.get(wanted, "integers of any size are taken"),
            )

    def take(self, where: str, x: Array, start: int) -> Array:
        """Samples as the model takes them: preprocessed, of its dtype, contiguous.

        Args:
            where: what to call the array in a message.
            x: some samples in the model's layout, of a shape and dtype that `accept` accepts.
            start: the number of the first of them.

        Raises:
            UsageError: a value that is no pixel where pixels are due, no number, or too large for the dtype.
        """
        if self.preprocess.changes:
            strange = ~((x >= 0) & (x <= 255))
            if strange.any():
                sample, value = _first(x, strange)
                raise UsageError(
                    f"{where}: sample {start + sample} has the value {value}, but preprocess "
                    f"{self.preprocess.name} takes pixels of 0 to 255",
                    hint="--preprocess none takes data that are preprocessed already",
                )
            axis = Layout.of(self.spec).channel_axis if self.preprocess.by_channel else None
            x = self.preprocess.apply(x, axis)
        elif self.dtype.kind in "iu":
            info = np.iinfo(self.spec.numpy_dtype)
            low, high = int(x.min()), int(x.max())
            if low < info.min or high > info.max:
                sample, value = _first(x, x == (low if low < info.min else high))
                raise UsageError(
                    f"{where}: sample {start + sample} has the value {value}, beyond {self.dtype}"
                )
        with np.errstate(over="ignore"):  # what overflows is infinite, and said below
            taken = np.ascontiguousarray(x, self.dtype)
        if self.dtype.kind == "f" and not np.isfinite(taken).all():
            sample, value = _first(x, ~np.isfinite(taken))
            raise UsageError(
                f"{where}: sample {start + sample} has the value {value}, no finite {self.dtype}"
            )
        return taken


def _first(x: Array, mask: Array) -> tuple[int, object]:
    """The sample and the value of the first element that a mask picks."""
    place = int(np.argmax(mask))
    return place // math.prod(x.shape[1:]), x.reshape(-1)[place].item()
