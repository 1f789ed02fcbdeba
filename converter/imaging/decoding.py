"""Image files decoded, each taken as hostile: regular files of five formats, in their folder, not huge."""

from __future__ import annotations

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UsageError
from converter.extras import extra
from converter.model import Array

__all__ = ["SUFFIXES", "header", "inside", "listing", "pillow", "pixels", "regular"]

SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp .gif".split())
# Pillow knows some 40 formats, one of which starts an interpreter of PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
# Of 8 bits a channel; Pillow would clip 16 bits to white.
_PIXELS = frozenset("1 L LA P PA RGB RGBA CMYK YCbCr".split())


def pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
        TargetError: Pillow is missing.
    """
    return extra("PIL.Image", "reading images")


def header(path: Path, file: io.BufferedReader) -> tuple[int, int]:
    """Height and width of an image, of which nothing more is decoded.

    Raises:
        UsageError: the file is no image, or not of 8 bits a channel.
    """
    with _opened(path, file) as image:
        return image.height, image.width


def pixels(path: Path, channels: int, size: tuple[int, int] | None = None) -> Array:
    """One image, uint8 of (height, width, channels).

    As with Keras and torchvision an alpha channel is dropped, of an animation the first picture is taken, and
    a camera's note of orientation is not followed.

    Args:
        path: the file.
        channels: 1 for grey, 3 for RGB.
        size: height and width to resize to bilinearly; None for the image's own.

    Raises:
        UsageError: the file is damaged, or no such image.
    """
    with regular(path) as file, _opened(path, file) as image:
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None and (image.height, image.width) != size:
            image = image.resize(size[::-1], pillow().Resampling.BILINEAR)
        found = np.asarray(image)
    return found.reshape(*found.shape[:2], channels)


@contextlib.contextmanager
def _opened(path: Path, file: io.BufferedReader) -> Iterator[Any]:
    """An image whose header is read, and all that can go wrong with it until the block ends."""
    library = pillow()
    try:
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", library.DecompressionBombWarning)
            with library.open(file, formats=_FORMATS) as image:
                if image.mode not in _PIXELS:
                    raise UsageError(
                        f"{path}: pixels of mode {image.mode}, expected 8 bits a channel",
                        hint="save it as RGB or grey, with 8 bits a channel",
                    )
                yield image
    except UsageError:
        raise
    except (library.DecompressionBombWarning, library.DecompressionBombError) as error:
        raise UsageError(f"{path}: too many pixels for an image that anyone trains on: {error}") from error
    except library.UnidentifiedImageError as error:
        raise UsageError(f"{path}: no image of {', '.join(_FORMATS)}") from error
    except Exception as error:  # each of Pillow's decoders fails in words and classes of its own
        raise UsageError(f"{path}: damaged or truncated image: {error}") from error


def inside(root: Path, path: Path) -> Path:
    """Where a path leads to; UsageError where that is not inside the folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: a link that leads nowhere: {error}") from error
    if not target.is_relative_to(root):
        raise UsageError(f"{path}: a link out of the folder", hint="copy what it leads to into the folder")
    return target


@contextlib.contextmanager
def listing(what: str, folder: Path) -> Iterator[None]:
    """Errors of the file system, while a folder is listed, as UsageErrors; `what` says what the folder is."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what} {folder}: cannot be listed: {error}") from error


@contextlib.contextmanager
def regular(path: Path) -> Iterator[io.BufferedReader]:
    """A file opened for reading; a pipe or a device would block or never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: no regular file")
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    with file:
        yield file
