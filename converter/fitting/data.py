"""Labelled data to fit a head on: a folder of class folders of images, or an `.npz` with `x` and `y`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from converter.errors import UsageError
from converter.fitting.archive import Archive
from converter.fitting.images import ImageFolder
from converter.fitting.intake import Intake
from converter.imaging import Preprocess
from converter.model import Array, TensorSpec

__all__ = ["Dataset", "open_data"]


class Dataset(Protocol):
    """Labelled samples that are read some at a time; the same order each time.

    Attributes:
        labels: the class of each sample, int64 of (samples,).
        classes: the names of the classes, in order.
        digest: hexadecimal; another one where samples, labels, or what is done to them differ.
    """

    labels: Array
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batches(self, size: int) -> Iterator[Array]:
        """The samples as the model takes them, `size` at a time; the last batch may be smaller.

        Raises:
            UsageError: a sample that cannot be read, or that the model does not take.
        """
        ...

    def take(self, rows: Sequence[int]) -> Array:
        """Some samples, by their indices in ascending order, as the model takes them.

        Raises:
            UsageError: as `batches`.
        """
        ...


def open_data(path: Path, spec: TensorSpec, preprocess: Preprocess) -> Dataset:
    """Open data for a model's input; of the samples themselves no more than headers is decoded.

    Args:
        path: a folder with a folder of images for each class, named as the class; or an `.npz` with the
            arrays `x` (or the input's name), of (samples, ...) in the model's layout, and `y`, integers or
            strings of (samples,).
        spec: the model's input.
        preprocess: what is done to pixels; `none` passes the arrays of an `.npz` through.

    Raises:
        UsageError: no such data, or none that the model takes.
        TargetError: images without Pillow.
    """
    intake = Intake(spec, preprocess)
    if path.is_dir():
        return ImageFolder(path, intake)
    if path.suffix.lower() == ".npz" and path.is_file():
        return Archive(path, intake)
    raise UsageError(
        f"data {path}: {'neither a folder nor an .npz file' if path.exists() else 'no such file or folder'}",
        hint="a folder with a folder of images for each class, or an .npz with the arrays x and y",
    )
