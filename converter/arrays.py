"""Arrays in `.npz` and `.npy` files of others: no pickles, no more bytes than the file stands for.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from converter.errors import UsageError

__all__ = ["Header", "headers_of", "load_arrays"]

Array = np.ndarray[Any, np.dtype[Any]]
T = TypeVar("T")

# A file may become this many times as large (compression), plus a floor.
_EXPANSION, _FLOOR = 64, 256 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; others may ask for gigabytes
_READERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """What a file says of an array ahead of its bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def load_arrays(path: Path, what: str) -> dict[str, Array]:
    """The arrays of a file by name; the lone one of an `.npy` file is called "".

    Args:
        path: the file.
        what: what it is to the user, for messages.

    Raises:
        UsageError: no regular file, damaged, with objects in it, or declaring far more than it has.
    """
    return _each(path, what, lambda stream: np.lib.format.read_array(stream, allow_pickle=False))


def headers_of(path: Path, what: str) -> dict[str, Header]:
    """The shapes and dtypes of the arrays of a file by name, which are not read.

    Raises:
        UsageError: as of `load_arrays`.
    """
    return _each(path, what, _header)


def _each(path: Path, what: str, read: Callable[[IO[bytes]], T]) -> dict[str, T]:
    """What is read of each array, once its header was checked."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{what} {path}: no regular file")
            size = os.fstat(file.fileno()).st_size
            if file.read(4) == b"PK\x03\x04":
                return _from_archive(file, size, f"{what} {path}", read)
            file.seek(0)
            _check_header(file, f"{what} {path}", size)
            file.seek(0)
            return {"": read(file)}
    except UsageError:
        raise
    except (
        Exception
    ) as error:  # headers are parsed as Python, members inflated: each fails in classes of its own
        raise UsageError(
            f"{what} {path}: not a readable .npz or .npy file: {error}",
            hint="numpy.savez('samples.npz', **{input_name: array}); object arrays are refused",
        ) from error


def _from_archive(file: IO[bytes], size: int, where: str, read: Callable[[IO[bytes]], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(info.file_size for info in members)
        if total > size * _EXPANSION + _FLOOR:
            raise UsageError(f"{where} declares {total:,} bytes but is {size:,} bytes long")
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found or info.compress_type not in _METHODS:
                raise UsageError(f"{where}: the member {info.filename!r} is none that numpy.savez writes")
            with archive.open(info) as member:
                _check_header(member, f"{where}: {name}", info.file_size)
            with archive.open(info) as member:
                found[name] = read(member)
    return found


def _header(stream: IO[bytes]) -> Header:
    shape, _, dtype = _READERS[np.lib.format.read_magic(stream)](stream)
    return Header(tuple(map(int, shape)), dtype)


def _check_header(stream: IO[bytes], where: str, length: int) -> None:
    """Hold what an array declares against the bytes that follow."""
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise UsageError(f"{where} is of version {version} of .npy, expected (1, 0) or (2, 0)")
    shape, _, dtype = _READERS[version](stream)
    if dtype.hasobject:
        raise UsageError(
            f"{where} holds objects, and object arrays are refused: no pickles are read",
            hint="array.astype(float)",
        )
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != length - stream.tell():
        raise UsageError(f"{where} declares {declared:,} bytes and has {length - stream.tell():,}")
