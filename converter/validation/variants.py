"""Holding artifacts to the framework on inputs of other kinds: noise, zeros, ends of the range, far beyond.

On some of these a model magnifies rounding: a constant image has no variance, and what divides by it makes
noise of the last bits; whatever is computed then, the framework's own answer moves as much when its inputs
move by a rounding. By how much is measured, and an artifact may differ by that much more than usually: its
tolerance is multiplied by the model's condition there (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 1.6).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from converter.errors import SourceError
from converter.model import Array, Boundary
from converter.validation.comparison import NOTHING, Comparison
from converter.validation.validate import Answering, Candidate, Judge

__all__ = ["compare_variants"]

Feeds = dict[str, Array]
# Inputs moved by a rounding, and by how much of the range; each number moves them otherwise.
Mover = Callable[[Mapping[str, Array], int], tuple[Feeds, float]]
# How often inputs are moved.
_MOVES = 2


def compare_variants(
    source: Answering,
    boundaries: Sequence[Boundary],
    kinds: Mapping[str, Feeds],
    candidates: Sequence[Candidate],
    compositions: Sequence[tuple[Candidate, Candidate]],
    move: Mover,
) -> tuple[Comparison, ...]:
    """Compare every output on each kind of inputs, where a constant answer is no fault.

    Args:
        source: the framework.
        boundaries: where its answers are wanted.
        kinds: inputs of the model by what kind they are of.
        candidates: artifacts.
        compositions: (trunk, head) pairs.
        move: moves inputs by a rounding.

    Raises:
        ValidationError: a candidate does not run where the framework does.
    """
    comparisons: list[Comparison] = []
    for kind, feeds in kinds.items():
        judge = Judge(source, boundaries, [feeds], varied=False)
        try:
            found = judge.compare(candidates, compositions)
        except SourceError as error:
            comparisons += [_refused(candidate, kind, error) for candidate in candidates]
            continue
        responses: dict[str, _Response] | None = None
        for comparison in found:
            made = dataclasses.replace(comparison, sample=kind)
            if comparison.problem == NOTHING:  # infinities and NaN are in the same places
                made = dataclasses.replace(made, passed=True)
            elif not comparison.passed and comparison.problem is None:
                if responses is None:
                    responses = _responses(source, boundaries, feeds, move)
                made = _conditioned(made, responses.get(comparison.output, _Response()))
            comparisons.append(made)
    return tuple(comparisons)


@dataclasses.dataclass(slots=True)
class _Response:
    """How far an answer of the framework moves when its inputs move by a rounding.

    Attributes:
        rate: over how far the inputs do, of their range.
        jump: in the answer's own units.
    """

    rate: float = 0.0
    jump: float = 0.0


def _conditioned(comparison: Comparison, response: _Response) -> Comparison:
    """The comparison with its tolerance times the condition, which of an answer of zeros is infinite.

    Where a model is discontinuous its condition has no bound. What is right is at most as large there as the
    answers that were seen, and two such answers are at most twice that apart.
    """
    scale = comparison.max_abs / comparison.scaled_error if math.isfinite(comparison.scaled_error) else 0.0
    usual = comparison.tolerance * scale
    allowed = max(usual, min(comparison.tolerance * response.rate, 2 * (scale + response.jump)))
    condition = allowed / usual if usual > 0 else (math.inf if allowed > 0 else 1.0)
    return dataclasses.replace(
        comparison,
        tolerance=comparison.tolerance * condition,
        passed=comparison.max_abs <= allowed,
        condition=condition,
    )


def _responses(
    source: Answering, boundaries: Sequence[Boundary], feeds: Feeds, move: Mover
) -> dict[str, _Response]:
    """How far each of the framework's answers moves, by name."""
    own = source.run(feeds, boundaries)
    found = {boundary.name: _Response() for boundary in boundaries}
    for number in range(_MOVES):
        moved, size = move(feeds, number)
        if size == 0:
            continue
        answers = source.run(moved, boundaries)
        for boundary in boundaries:
            a, b = answers[boundary.value], own[boundary.value]
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape:
                response, change = found[boundary.name], _change(a, b)
                response.rate = max(response.rate, change / size)
                response.jump = max(response.jump, change)
    return found


def _change(moved: Array, own: Array) -> float:
    if own.dtype.kind not in "fV":
        return 0.0
    a, b = moved.astype(np.float64), own.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.abs(a[both] - b[both]).max(initial=0.0))


def _refused(candidate: Candidate, kind: str, error: SourceError) -> Comparison:
    problem = f"the framework does not run on these: {error.message}"
    output = candidate.ends[0][1] if candidate.ends else ""
    nan = math.nan
    return Comparison(
        candidate.name,
        output,
        1,
        nan,
        nan,
        nan,
        nan,
        0.0,
        True,
        problem,
        target=candidate.target,
        sample=kind,
    )
