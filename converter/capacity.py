"""How many samples an artifact takes at once on this machine, and a framework asked for as many in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from converter import preflight
from converter.errors import UsageError, ValidationError
from converter.model import Array, Boundary
from converter.supervision import memory

__all__ = ["MOST", "InParts", "expect_independent", "rows_that_fit"]

# Samples at once that nobody has a use for more of.
MOST = 256
# Batches by which the memory of a sample is told; the smaller one also takes what is taken once.
_FEW, _SOME = 2, 6
_PART = 8
# Of scale: samples by themselves differ from those in a batch by rounding alone.
_ALIKE = 2.0**-10
# Of the memory that is left: the rest is for what the framework and the comparison take.
_SHARE = 0.5
# What comparing takes, of the bytes of what is compared: both in float64, their difference, parts of these.
_COMPARING = 12


class _Answering(Protocol):
    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Any]: ...


def rows_that_fit(run: Callable[[int], int], *, on_cpu: bool) -> int:
    """The largest batch that fits into memory, `MOST` at most.

    On a CPU it is reckoned from what two smaller batches take; a device's own memory refuses what is too
    large, and half of that is tried then.

    Args:
        run: runs a batch of so many samples; returns the bytes of what is to be compared.
        on_cpu: where.

    Raises:
        ValidationError: not even a few samples run.
    """
    if not on_cpu:
        return _by_trial(run)
    held, answers = [], 0
    for rows in (_FEW, _SOME):
        answers = run(rows)
        held.append(memory.resident([os.getpid()]))
    sample = max(0.0, (held[1] - held[0]) / (_SOME - _FEW)) + _COMPARING * answers / _SOME
    budget = preflight.budget(held[1])
    if budget is None:
        return _SOME
    return min(MOST, max(_SOME, int(_SHARE * (budget - held[1]) / max(sample, 1.0))))


def _by_trial(run: Callable[[int], int]) -> int:
    rows = MOST
    while True:
        try:
            run(rows)
        except ValidationError:
            rows //= 2
            if rows < _FEW:
                raise
        else:
            return rows


class InParts:
    """A framework that is asked for a large batch some samples at a time: they do not know of one another."""

    def __init__(self, source: _Answering, part: int = _PART) -> None:
        self._source, self._part = source, part

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Any]:
        """As of the framework."""
        rows = max(len(array) for array in feeds.values())
        parts = [
            self._source.run({name: x[start : start + self._part] for name, x in feeds.items()}, wanted)
            for start in range(0, rows, self._part)
        ]
        return {value: np.concatenate([part[value] for part in parts]) for value in parts[0]}


def expect_independent(source: _Answering, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> None:
    """Make sure that the first axis of every input and answer is a batch of samples by themselves.

    Args:
        source: the framework.
        feeds: a few samples.
        wanted: where its answers are wanted.

    Raises:
        UsageError: samples depend on one another, or an answer is not one for each of them.
    """
    whole = source.run(feeds, wanted)
    for boundary in wanted:
        array = whole[boundary.value]
        if not isinstance(array, np.ndarray) or not array.ndim:
            raise _dependent(boundary)
    parts = InParts(source, part=1).run(feeds, wanted)
    for boundary in wanted:
        a, b = whole[boundary.value], parts[boundary.value]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise _dependent(boundary)
        if a.dtype.kind in "OSU":
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        both = np.isfinite(x) & np.isfinite(y)
        scale = np.abs(x[both]).max(initial=0.0)
        if np.abs(x[both] - y[both]).max(initial=0.0) > _ALIKE * scale:
            raise _dependent(boundary)


def _dependent(boundary: Boundary) -> UsageError:
    return UsageError(
        f"{boundary.name} of several samples is not that of each by itself: there is no largest batch",
        hint="without --largest-batch the model is proven on batches of 1 and 3",
    )
