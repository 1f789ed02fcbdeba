"""Two profiles side by side, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from converter.profiling.profile import RUNTIME, Profile, Row

__all__ = ["Pair", "compared"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A row of one or both of two profiles.

    Attributes:
        name: its name.
        first: the row of the first; None where that has none of this name.
        second: the row of the second.
    """

    name: str
    first: Row | None
    second: Row | None

    @property
    def time_ratio(self) -> float | None:
        """Median milliseconds of the second over those of the first; None unless both have kernels."""
        if self.first is None or self.second is None or not self.first.latency or not self.second.latency:
            return None
        return _ratio(self.first.latency.median, self.second.latency.median)

    @property
    def weight_ratio(self) -> float | None:
        """Bytes of weights of the second over those of the first."""
        if self.first is None or self.second is None:
            return None
        return _ratio(self.first.weight_bytes, self.second.weight_bytes)

    @property
    def moved_ratio(self) -> float | None:
        """Bytes moved by the second over those moved by the first."""
        if self.first is None or self.second is None:
            return None
        return _ratio(self.first.moved_bytes, self.second.moved_bytes)


def _ratio(first: float | None, second: float | None) -> float | None:
    return second / first if first and second is not None else None


def compared(first: Profile, second: Profile) -> tuple[Pair, ...]:
    """The rows of two profiles by name, in the order of the first; others of the second behind theirs."""
    left = {row.name: row for row in first.rows}
    right = {row.name: row for row in second.rows}
    names = _merged([n for n in left if n != RUNTIME], [n for n in right if n != RUNTIME])
    names += [RUNTIME] if RUNTIME in left or RUNTIME in right else []
    return tuple(Pair(name, left.get(name), right.get(name)) for name in names)


def _merged(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """All names; each that only the second has stands behind its predecessor there."""
    merged, known = list(left), set(left)
    place = 0
    for name in right:
        if name in known:
            place = merged.index(name) + 1
        else:
            merged.insert(place, name)
            known.add(name)
            place += 1
    return merged
