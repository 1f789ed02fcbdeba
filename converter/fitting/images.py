"""A folder of class folders of images, decoded some at a time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UsageError
from converter.fitting.extras import extra
from converter.fitting.intake import Intake, Layout
from converter.model import Array

__all__ = ["ImageFolder"]

_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif".split())
# Pillow knows some 40 formats, one of which starts an interpreter of PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
# Of 8 bits a channel; Pillow would clip 16 bits to white.
_PIXELS = frozenset("1 L LA P PA RGB RGBA CMYK YCbCr".split())


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
        self._pillow = extra("PIL.Image", "reading images")
        if intake.dtype.kind not in "fiu" or (
            intake.dtype.kind in "iu" and np.iinfo(intake.spec.numpy_dtype).max < 255
        ):
            raise UsageError(f"data {folder}: pixels are 0 to 255, but the model takes {intake.spec}")
        with _listing(folder):
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
        pixels = np.stack([self._pixels(path) for path in paths])
        if self._layout.channel_axis == 1:
            pixels = np.moveaxis(pixels, 3, 1)
        return self._intake.take("images", pixels, start)

    def _scan(self, root: Path) -> str:
        """Read every header; the digest of all files."""
        digest = hashlib.sha256(self._intake.words)
        sizes: dict[tuple[int, int], Path] = {}
        for path in self._paths:
            with _regular(path) as file:
                content = hashlib.file_digest(file, "sha256").digest()
                with self._opened(path, file) as image:
                    sizes.setdefault((image.height, image.width), path)
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

    def _pixels(self, path: Path) -> Array:
        """One image, uint8 of (height, width, channels)."""
        mode = "L" if self._layout.channels == 1 else "RGB"
        height, width = self._layout.height, self._layout.width
        with _regular(path) as file, self._opened(path, file) as image:
            image = image.convert(mode)
            if height is not None and width is not None and image.size != (width, height):
                image = image.resize((width, height), self._pillow.Resampling.BILINEAR)
            pixels = np.asarray(image)
        return pixels.reshape(*pixels.shape[:2], self._layout.channels)

    @contextlib.contextmanager
    def _opened(self, path: Path, file: io.BufferedReader) -> Iterator[Any]:
        """An image whose header is read, and all that can go wrong with it until the block ends."""
        pillow = self._pillow
        try:
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", pillow.DecompressionBombWarning)
                with pillow.open(file, formats=_FORMATS) as image:
                    if image.mode not in _PIXELS:
                        raise UsageError(
                            f"{path}: pixels of mode {image.mode}, expected 8 bits a channel",
                            hint="save it as RGB or grey, with 8 bits a channel",
                        )
                    yield image
        except UsageError:
            raise
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
            raise UsageError(
                f"{path}: too many pixels for an image that anyone trains on: {error}"
            ) from error
        except pillow.UnidentifiedImageError as error:
            raise UsageError(f"{path}: no image of {', '.join(_FORMATS)}") from error
        except Exception as error:  # each of Pillow's decoders fails in words and classes of its own
            raise UsageError(f"{path}: damaged or truncated image: {error}") from error


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} (height × width)"


def _classes(root: Path) -> list[Path]:
    """The class folders in order; other files of the folder (a licence) are nobody's samples."""
    found = []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if _inside(root, path).is_dir():
            found.append(path)
        elif path.suffix.lower() in _SUFFIXES:
            raise UsageError(f"{path}: an image that is in no class folder", hint="move it into one")
    return found


def _files(root: Path, folder: Path) -> list[Path]:
    """The images of a class in order."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if _inside(root, path).is_dir():
            raise UsageError(
                f"{path}: a folder in a class folder", hint="images lie directly in class folders"
            )
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"{path}: no image by its name", hint=f"images are {' '.join(sorted(_SUFFIXES))}"
            )
        found.append(path)
    if not found:
        raise UsageError(f"{folder}: a class folder without images", hint="remove it, or put images into it")
    return found


def _inside(root: Path, path: Path) -> Path:
    """Where a path leads to; UsageError where that is not inside the folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: a link that leads nowhere: {error}") from error
    if not target.is_relative_to(root):
        raise UsageError(f"{path}: a link out of the folder", hint="copy what it leads to into the folder")
    return target


@contextlib.contextmanager
def _listing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"data {folder}: cannot be listed: {error}") from error


@contextlib.contextmanager
def _regular(path: Path) -> Iterator[io.BufferedReader]:
    """A file opened for reading; a pipe or a device would block or never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: no regular file")
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    with file:
        yield file
