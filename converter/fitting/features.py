"""What a trunk makes of data, computed once and kept in a folder of bounded size.

A file is a plain `.npy`. It is written under another name and renamed when it is whole and on the disk, so
that its own name never belongs to half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from converter.errors import TargetError, UsageError, ValidationError
from converter.fitting.data import Dataset
from converter.model import Array
from converter.scratch import replacing

__all__ = ["feature_key", "features"]

_SUFFIX = ".features.npy"


def feature_key(files: Sequence[Path], dataset: Dataset) -> str:
    """The digest of all that features depend on: the trunk's files and the data.

    Args:
        files: the trunk, and the files its weights lie in.
        dataset: what it is run on.

    Raises:
        UsageError: a file that cannot be read.
    """
    digest = hashlib.sha256(dataset.digest.encode())
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def features(
    run: Callable[[Array], Array],
    dataset: Dataset,
    *,
    batch: int,
    folder: Path,
    key: str,
    limit: int,
    progress: Callable[[int, int], None],
) -> Array:
    """The trunk's output for every sample, mapped from a file; read back where it was computed before.

    Args:
        run: the trunk: a batch as the dataset gives it to an array of (batch, ...) of floats.
        dataset: the samples.
        batch: samples to run at a time; the last batch may be smaller.
        folder: where features are kept; made where it is missing.
        key: hexadecimal, of trunk and data (see `feature_key`).
        limit: bytes that features may take in the folder; those used longest ago go first. What alone is more
            is not kept for later.
        progress: called with the number of samples done and of all samples.

    Returns:
        float32 of (samples, ...), read-only.

    Raises:
        ValidationError: features that are NaN or infinite, no floats, or differ in shape.
        TargetError: the folder cannot be written to.
        UsageError: a sample that cannot be read.
    """
    path = folder / f"{key}{_SUFFIX}"
    found = _read(path, len(dataset))
    if found is None:
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, _computed(run, dataset, batch, progress), len(dataset))
            found = _read(path, len(dataset))
        if found is None:
            raise TargetError(f"features in {folder} were changed by someone else just as they were written")
    else:
        progress(len(dataset), len(dataset))
    with contextlib.suppress(OSError):  # another process may have removed it; or the folder is read-only
        os.utime(path)
    _shrink(folder, limit)
    return found


def _computed(
    run: Callable[[Array], Array], dataset: Dataset, batch: int, progress: Callable[[int, int], None]
) -> Iterator[Array]:
    done, shape = 0, None
    progress(0, len(dataset))
    for samples in dataset.batches(batch):
        values = run(samples)
        shape = shape or values.shape[1:]
        if values.shape != (len(samples), *shape):
            raise ValidationError(
                f"the trunk makes features of shape {values.shape} of {len(samples)} samples, "
                f"expected {(len(samples), *shape)}"
            )
        if values.dtype.kind != "f":
            raise ValidationError(f"the trunk's features are {values.dtype}, expected floats")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
        broken = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if broken.any():
            raise ValidationError(
                f"the trunk's features of sample {done + int(broken.argmax())} have NaN or infinity in them",
                hint="is --preprocess the one that the trunk was trained with?",
            )
        yield values
        done += len(values)
        progress(done, len(dataset))


def _write(path: Path, batches: Iterator[Array], samples: int) -> None:
    with replacing(path) as file:
        for number, values in enumerate(batches):
            if not number:
                _write_header(file, (samples, *values.shape[1:]))
            # Not through a memory map: a full disk would kill the process there.
            file.write(values.data)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _read(path: Path, samples: int) -> Array | None:
    """Features of before; None where there are none, or a file that is not what is written here."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        found = None
    if isinstance(found, np.memmap) and found.dtype == np.float32 and found.shape[:1] == (samples,):
        whole = path.stat().st_size == found.offset + math.prod(found.shape) * found.itemsize
        return found if whole else None
    return None


def _shrink(folder: Path, limit: int) -> None:
    """Remove features, those used longest ago first, until the rest is within the limit.

    What is removed while it is mapped stays readable until the map is gone.
    """
    used = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # removed by another process
            status = path.stat()
            used.append((-status.st_mtime_ns, status.st_size, path))
    total = 0
    for _, size, path in sorted(used):
        if total + size > limit:
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            total += size


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"features cannot be written to {folder}: {error}",
            hint="CONVERTER_CACHE_DIR names another folder",
        ) from error
