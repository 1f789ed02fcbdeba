"""Choosing among cuts: for two machines by predicted latency, for feature extraction by limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from converter.planning.plan import CutCost

__all__ = ["Link", "by_latency", "fitting"]


@dataclasses.dataclass(frozen=True)
class Link:
    """Two machines and what lies between them.

    Attributes:
        device_macs: multiply-accumulate operations a second where the trunk runs.
        server_macs: the same where the head runs.
        mbps: megabits a second from one to the other.
        delay: seconds that any transfer takes besides.
    """

    device_macs: float
    server_macs: float
    mbps: float
    delay: float = 0.0

    def seconds(self, cut: CutCost) -> float | None:
        """The predicted latency of one sample; None where the bytes that cross are not known.

        Trunk, transfer and head one after the other: the model of Kang et al., "Neurosurgeon" (ASPLOS 2017).
        """
        if cut.crossing_bytes is None:
            return None
        sent = cut.crossing_bytes * 8 / (self.mbps * 1e6) + self.delay
        return cut.trunk.macs / self.device_macs + sent + cut.head.macs / self.server_macs


def by_latency(cuts: Sequence[CutCost], link: Link) -> list[tuple[CutCost, float]]:
    """The cuts with their predicted seconds, the quickest first."""
    timed = [(cut, seconds) for cut in cuts if (seconds := link.seconds(cut)) is not None]
    return sorted(timed, key=lambda pair: pair[1])


def fitting(
    cuts: Sequence[CutCost],
    *,
    max_params: int | None = None,
    max_macs: int | None = None,
    feature_dim: int | None = None,
) -> list[CutCost]:
    """The cuts whose trunk keeps within limits, and whose tensor has so many elements a sample."""
    return [
        cut
        for cut in cuts
        if (max_params is None or cut.trunk.parameters <= max_params)
        and (max_macs is None or cut.trunk.macs <= max_macs)
        and (feature_dim is None or (cut.single and cut.elements == feature_dim))
    ]
