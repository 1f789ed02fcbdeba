"""An `.npz` file of samples and labels, read row by row out of the zip: it is never whole in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from converter.errors import UsageError
from converter.fitting.intake import Intake
from converter.model import Array

__all__ = ["Archive"]

_LABELS, _SAMPLES = "y", "x"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy writes; others may ask for gigabytes
_CHUNK = 1 << 20
_TAKEN = 64  # samples to read at a time where a few are wanted
_ROWS = 1 << 16  # labels that are read at a time
# A file of some KB can declare any number of these.
_MOST_SAMPLES, _MOST_CLASSES = 1 << 24, 1 << 15
_LARGEST_SAMPLE, _LONGEST_NAME = 1 << 30, 1 << 10  # bytes


@dataclasses.dataclass(frozen=True)
class _Member:
    """One array of the file.

    Attributes:
        path: the file.
        name: its name, without `.npy`.
        shape: its shape.
        dtype: its dtype, in the file's byte order.
        start: bytes of its header.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    start: int

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return f"data {self.path}: {self.name}"

    def rows(self, size: int) -> Iterator[Array]:
        """Some rows at a time, in order."""
        with (
            _plain_words(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{self.name}.npy") as stream,
        ):
            stream.read(self.start)
            for first in range(0, self.shape[0], size):
                array = np.empty((min(size, self.shape[0] - first), *self.shape[1:]), self.dtype)
                self._fill(array, stream)
                yield array

    def _fill(self, array: Array, stream: IO[bytes]) -> None:
        room = array.reshape(-1).view(np.uint8)
        done = 0
        while done < len(room):
            # One large read would hold the rows a second and a third time.
            data = stream.read(min(_CHUNK, len(room) - done))
            if not data:
                raise UsageError(f"{self.where} ends before its last row", hint="the file is truncated")
            room[done : done + len(data)] = np.frombuffer(data, np.uint8)
            done += len(data)


class Archive:
    """Samples and labels of an `.npz` file; a `converter.fitting.data.Dataset`."""

    def __init__(self, path: Path, intake: Intake) -> None:
        """Read the headers and the labels.

        Raises:
            UsageError: a damaged file, an array that is missing, is no array of numbers, or not what the
                model takes, labels that are neither integers nor strings.
        """
        self._intake = intake
        with _plain_words(path), zipfile.ZipFile(path) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            candidates = [name for name in (intake.spec.name, _SAMPLES) if name in names and name != _LABELS]
            if not candidates or _LABELS not in names:
                raise UsageError(
                    f"data {path}: expected the arrays x (or {intake.spec.name!r}) and y, got {names}",
                    hint="numpy.savez('data.npz', x=samples, y=labels)",
                )
            self._samples = _member(archive, path, candidates[0])
            labels = _member(archive, path, _LABELS)
        self._check(labels)
        values = _distinct(labels)
        self.classes = tuple(str(value) for value in values.tolist())
        self.labels: Array = np.concatenate([np.searchsorted(values, rows) for rows in labels.rows(_ROWS)])
        with _plain_words(path), path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        self.digest = hashlib.sha256(intake.words + content).hexdigest()

    def __len__(self) -> int:
        return self._samples.shape[0]

    def batches(self, size: int) -> Iterator[Array]:
        """See `Dataset.batches`."""
        start = 0
        for rows in self._samples.rows(size):
            yield self._intake.take(self._samples.where, rows, start)
            start += len(rows)

    def take(self, rows: Sequence[int]) -> Array:
        """See `Dataset.take`; what comes before the last of them is read, too."""
        found: list[Array] = []
        for start, batch in zip(count(0, _TAKEN), self.batches(_TAKEN), strict=False):
            inside = [row - start for row in rows if start <= row < start + len(batch)]
            found += [batch[inside]] if inside else []
            if start + len(batch) > rows[-1]:
                break
        return np.concatenate(found)

    def _check(self, labels: _Member) -> None:
        samples = self._samples
        self._intake.accept(samples.where, samples.shape, samples.dtype)
        if math.prod(samples.shape[1:]) * samples.dtype.itemsize > _LARGEST_SAMPLE:
            raise UsageError(f"{samples.where} has samples of more than a gigabyte: shape {samples.shape}")
        if len(labels.shape) != 1:
            raise UsageError(
                f"{labels.where} has shape {labels.shape}, expected ({samples.shape[0]},)",
                hint="y.argmax(axis=1) makes labels of one-hot rows",
            )
        if labels.dtype.kind not in "iuU":
            raise UsageError(f"{labels.where} is {labels.dtype}, expected integers or strings")
        if labels.dtype.itemsize > _LONGEST_NAME:
            raise UsageError(f"{labels.where} is {labels.dtype}: names of classes are shorter")
        if labels.shape != samples.shape[:1]:
            raise UsageError(
                f"{labels.where} has {labels.shape[0]} labels, {samples.name} has {samples.shape[0]} samples"
            )
        if samples.shape[0] > _MOST_SAMPLES:
            raise UsageError(
                f"{samples.where} has {samples.shape[0]} samples, at most {_MOST_SAMPLES} are read"
            )


def _distinct(labels: _Member) -> Array:
    """The different labels, sorted."""
    values: Array = np.empty(0, labels.dtype)
    for rows in labels.rows(_ROWS):
        values = np.union1d(values, rows)
        if len(values) > _MOST_CLASSES:
            raise UsageError(
                f"{labels.where} has more than {_MOST_CLASSES} different labels",
                hint="labels are classes; a number to be predicted is none",
            )
    return values


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> _Member:
    """Read the header of an array and hold it against the size of what follows."""
    where = f"data {path}: {name}"
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in _METHODS:
        raise UsageError(
            f"{where} is compressed in a way NumPy does not write", hint="numpy.savez_compressed"
        )
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(where, stream)
        start = stream.tell()
    if dtype.hasobject or dtype.kind not in "biufcU" or not dtype.itemsize:
        raise UsageError(
            f"{where} is {dtype}, expected an array of numbers or strings", hint="no pickles are read"
        )
    if fortran:
        raise UsageError(
            f"{where} has its samples interleaved (Fortran order), so it cannot be read one by one",
            hint="save numpy.ascontiguousarray(x)",
        )
    if not shape or min(shape) < 1:
        raise UsageError(f"{where} has shape {shape}: nothing in it")
    declared = math.prod(shape) * dtype.itemsize
    if info.file_size - start != declared:
        raise UsageError(
            f"{where} declares {declared} bytes and has {info.file_size - start}",
            hint="the file is truncated",
        )
    return _Member(path, name, shape, dtype, start)


def _header(where: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        if version in readers:
            return readers[version](stream)
    except Exception as error:  # a header is parsed as a Python literal, which fails in many classes
        raise UsageError(f"{where} has no readable header: {error}") from error
    raise UsageError(f"{where} is of version {version} of .npy, expected (1, 0) or (2, 0)")


@contextlib.contextmanager
def _plain_words(path: Path) -> Iterator[None]:
    """What a zip file can fail with, as a UsageError."""
    try:
        yield
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(
            f"data {path}: damaged or truncated .npz file: {error}",
            hint="numpy.savez('data.npz', x=samples, y=labels)",
        ) from error
