"""The record of how a piece was validated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from converter.validation.comparison import EMPTY, Comparison

__all__ = ["Certificate"]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was compared with what, and how it came out.

    Attributes:
        provider: ONNX Runtime's execution provider.
        samples: `seed=N` or the file's name.
        comparisons: every comparison made.
        of: what was compared: `values`, or `shapes` alone, where a rewrite may have changed the values.
        placement: piece → where its nodes ran, as of `converter.placement.Placement.as_dict`; of a GPU alone.
        device: where ONNX Runtime ran, and why there.
    """

    provider: str
    samples: str
    comparisons: tuple[Comparison, ...]
    of: str = "values"
    placement: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether something was compared and every comparison passed."""
        compared = any(c.problem != EMPTY for c in self.comparisons)
        return compared and all(c.passed for c in self.comparisons)

    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that did not pass."""
        failed = tuple(c for c in self.comparisons if not c.passed)
        return failed if failed or self.passed else self.comparisons

    def __str__(self) -> str:
        if self.passed and self.of == "shapes":
            return f"passed: shapes of {len(self.comparisons)} outputs alone, of a piece that was rewritten"
        if self.passed:
            worst = max(
                (c.scaled_error for c in self.comparisons if not math.isnan(c.scaled_error)), default=0
            )
            return f"passed: {len(self.comparisons)} comparisons, largest scaled error {worst:.1e}"
        return f"failed: {len(self.failures())} of {len(self.comparisons)} comparisons"
