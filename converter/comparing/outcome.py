"""What a comparison of two artifacts found out."""

from __future__ import annotations

import dataclasses

from converter.comparing.pairing import Pair
from converter.targets.artifact import Artifact
from converter.validation.comparison import EMPTY, Comparison

__all__ = ["Outcome", "Result"]


@dataclasses.dataclass(frozen=True)
class Result:
    """One pair of outputs at one batch.

    Attributes:
        pair: the outputs, with their shapes at the first batch.
        comparison: its figures, of B against A, and the verdict.
    """

    pair: Pair
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a comparison of two artifacts found out.

    Attributes:
        a: the reference.
        b: what is held against it.
        inputs: how the inputs were paired.
        outputs: how the outputs were.
        left: `A's NAME` or `B's NAME` for each output without a partner; the comparison fails by them.
        samples: `seed=N` or the name of the file.
        batches: the batch sizes.
        min_snr: the least signal-to-noise ratio in dB that passes, where one was asked for.
        results: a comparison a pair and batch.
        notes: what else is to be known.
    """

    a: Artifact
    b: Artifact
    inputs: tuple[Pair, ...]
    outputs: tuple[Pair, ...]
    left: tuple[str, ...]
    samples: str
    batches: tuple[int, ...]
    min_snr: float | None
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether something was compared, nothing was left over, and every comparison passed."""
        compared = any(result.comparison.problem != EMPTY for result in self.results)
        return compared and not self.left and all(result.comparison.passed for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        """The comparisons that did not pass."""
        return tuple(result for result in self.results if not result.comparison.passed)

    def __str__(self) -> str:
        if self.agree:
            worst = max(result.comparison.scaled_error for result in self.results)
            return f"agree: {len(self.results)} comparisons, largest scaled error {worst:.1e}"
        parts = [f"{len(self.failures)} of {len(self.results)} comparisons failed"] if self.failures else []
        parts += [f"without a partner: {', '.join(self.left)}"] if self.left else []
        return f"do not agree: {'; '.join(parts) or 'nothing was compared'}"
