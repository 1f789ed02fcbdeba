"""How many samples an artifact takes at once on this machine, and a framework asked for as many in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from converter import preflight
from converter.errors import ValidationError
from converter.model import Array, Boundary
from converter.supervision import memory

__all__ = ["MOST", "InParts", "rows_that_fit"]

# Samples at once that nobody has a use for more of.
MOST = 256
# Batches by which the memory of a sample is told; the smaller one also takes what is taken once.
_FEW, _SOME = 2, 6
_PART = 8
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

    def __init__(self, source: _Answering) -> None:
        self._source = source

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Any]:
        """As of the framework."""
        rows = max(len(array) for array in feeds.values())
        parts = [
            self._source.run({name: x[start : start + _PART] for name, x in feeds.items()}, wanted)
            for start in range(0, rows, _PART)
        ]
        return {value: np.concatenate([part[value] for part in parts]) for value in parts[0]}
