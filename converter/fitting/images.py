"""A folder of class folders of images, decoded some at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from converter.errors import UsageError
from converter.fitting.intake import Intake
from converter.imaging.decoding import SUFFIXES, header, inside, listing, pillow, pixels, regular
from converter.imaging.layout import Layout
from converter.model import Array

__all__ = ["ImageFolder"]


class ImageFolder:
    """Images by class, in the order of class names and file names; a `converter.fitting.data.Dataset`.

    Images become grey or RGB, as the model takes them, and are resized bilinearly to the model's height and
    width. As with Keras and torchvision an alpha channel is dropped, of an animation the first picture is
    taken, and a camera's note of orientation is not followed.
    """

    def __init__(self, folder: Path, intake: Intake) -> None:
        """Find the images and read their headers.

        Raises:
            UsageError: an empty class, a file that is no image, a link out of the folder, sizes that differ
                where the model does not say one.
            TargetError: Pillow is missing.
        """
        self._layout = Layout.of(intake.spec)
        self._intake = intake
        pillow()  # is needed for sure: say now that it is missing
        if intake.dtype.kind not in "fiu" or (
            intake.dtype.kind in "iu" and np.iinfo(intake.spec.numpy_dtype).max < 255
        ):
            raise UsageError(f"data {folder}: pixels are 0 to 255, but the model takes {intake.spec}")
        with listing("data", folder):
            root = folder.resolve(strict=True)
            found = {path: _files(root, path) for path in _classes(root)}
        if not found:
            raise UsageError(
                f"data {folder}: no folders in it",
                hint="one folder of images for each class, named as the class",
            )
        self.classes = tuple(path.name for path in found)
        self._paths = [path for paths in found.values() for path in paths]
        self.labels: Array = np.repeat(np.arange(len(found)), [len(paths) for paths in found.values()])
        self.digest = self._scan(root)

    def __len__(self) -> int:
        return len(self._paths)

    def batches(self, size: int) -> Iterator[Array]:
        """See `Dataset.batches`."""
        for start in range(0, len(self._paths), size):
            yield self._read(self._paths[start : start + size], start)

    def take(self, rows: Sequence[int]) -> Array:
        """See `Dataset.take`."""
        return self._read([self._paths[row] for row in rows], 0)

    def _read(self, paths: Sequence[Path], start: int) -> Array:
        layout, size = self._layout, None
        if layout.height is not None and layout.width is not None:
            size = (layout.height, layout.width)
        images = np.stack([pixels(path, layout.channels, size) for path in paths])
        if layout.channel_axis == 1:
            images = np.moveaxis(images, 3, 1)
        return self._intake.take("images", images, start)

    def _scan(self, root: Path) -> str:
        """Read every header; the digest of all files."""
        digest = hashlib.sha256(self._intake.words)
        sizes: dict[tuple[int, int], Path] = {}
        for path in self._paths:
            with regular(path) as file:
                content = hashlib.file_digest(file, "sha256").digest()
                sizes.setdefault(header(path, file), path)
            digest.update(os.fsencode(path.relative_to(root)) + b"\0" + content)
            if None in (self._layout.height, self._layout.width):
                self._expect_one_size(sizes)
        return digest.hexdigest()

    def _expect_one_size(self, sizes: dict[tuple[int, int], Path]) -> None:
        (first, path), *others = sizes.items()
        if others:
            other, where = others[0]
            raise UsageError(
                f"images differ in size: {path} is {_shown(first)}, {where} is {_shown(other)}, and the "
                f"model takes any size: {self._intake.spec}",
                hint="resize the images to one size",
            )
        wanted = (self._layout.height or first[0], self._layout.width or first[1])
        if wanted != first:
            raise UsageError(f"{path} is {_shown(first)}, but the model takes {_shown(wanted)}")


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} (height × width)"


def _classes(root: Path) -> list[Path]:
    """The class folders in order; other files of the folder (a licence) are nobody's samples."""
    found = []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if inside(root, path).is_dir():
            found.append(path)
        elif path.suffix.lower() in SUFFIXES:
            raise UsageError(f"{path}: an image that is in no class folder", hint="move it into one")
    return found


def _files(root: Path, folder: Path) -> list[Path]:
    """The images of a class in order."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if inside(root, path).is_dir():
            raise UsageError(
                f"{path}: a folder in a class folder", hint="images lie directly in class folders"
            )
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: no image by its name", hint=f"images are {' '.join(sorted(SUFFIXES))}")
        found.append(path)
    if not found:
        raise UsageError(f"{folder}: a class folder without images", hint="remove it, or put images into it")
    return found
