"""What a model takes, and how data come to be it: layout, preprocessing, dtype."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from converter.errors import UsageError
from converter.imaging.layout import Layout
from converter.imaging.preprocess import Preprocess
from converter.model import Array, TensorSpec

__all__ = ["Intake"]


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
        if self.preprocess.sizing:
            raise UsageError(
                f"preprocess {self.preprocess.text} resizes or crops: data are fitted on in the size of the "
                f"model's input, to which images are resized bilinearly",
                hint=f"--preprocess '{self.preprocess.without_sizes()}'",
            )
        if self.dtype.kind != "f" and self.preprocess.changes:
            raise UsageError(
                f"preprocess {self.preprocess.text} makes fractions, but the model takes {self.spec}",
                hint="--preprocess none",
            )
        if self.preprocess.by_channel and Layout.of(self.spec).channels != 3:
            raise UsageError(
                f"preprocess {self.preprocess.text} takes 3 channels, but the model takes {self.spec}",
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
        return repr((self.spec.shape, self.dtype.str, self.preprocess.steps)).encode()

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
                    f"{self.preprocess.text} takes pixels of 0 to 255",
                    hint="--preprocess none takes data that are preprocessed already",
                )
            axis = Layout.of(self.spec).channel_axis if self.preprocess.by_channel else None
            x = self.preprocess.run(x, axis)
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
