"""Rows of an array on disk, as many at a time as fit into a fixed amount of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from converter.model import Array

__all__ = ["blocks"]

_BYTES = 1 << 27


def blocks(array: Array, rows: Array, width: int = 1) -> Iterator[tuple[Array, Array]]:
    """Rows of an array, in the order asked for.

    Args:
        array: of (samples, ...); may be mapped from a file.
        rows: indices of samples, int64 of (rows,).
        width: numbers that are made of each row, where these are more than the row has itself.

    Yields:
        Some of the indices, and the rows at them: together no more than 128 MB as float64, or one row.
    """
    size = max(math.prod(array.shape[1:]), width)
    count = max(1, _BYTES // (8 * size))
    for start in range(0, len(rows), count):
        part = rows[start : start + count]
        yield part, np.asarray(array[part])
