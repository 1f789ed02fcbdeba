"""Both sides on one batch: what the framework and ONNX Runtime have at every point."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.drifting.bench import Bench
from converter.drifting.finished import Finished
from converter.drifting.points import Point
from converter.model import Array, LayeredModel, Source

__all__ = ["Answers", "Sides"]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What there is at one point for one batch: arrays, or what is none.

    Attributes:
        reference: the framework's.
        whole: ONNX Runtime's, from the model's inputs.
        alone: ONNX Runtime's, of the layer alone.
        expected: what `alone` is held to.
        exact: the framework's in float64, where that was run.
    """

    reference: Any
    whole: Any
    alone: Any
    expected: Any
    exact: Any = None


class Sides:
    """Runs both sides.

    Attributes:
        points: what is compared, in order of execution; outputs of the finished graph last.
    """

    def __init__(
        self,
        source: Source,
        layered: LayeredModel,
        points: Sequence[Point],
        folder: Path,
        provider: str,
        custom_ops: Sequence[Path],
        *,
        noise_floor: bool,
        finished: bool,
    ) -> None:
        """Load what ONNX Runtime runs.

        Args:
            source, layered, provider, custom_ops, noise_floor, finished: as of `converter.drifting.drift`.
            points: what to compare.
            folder: an empty one, to be removed afterwards.
        """
        self._source, self._noise_floor = source, noise_floor
        self._boundaries = [point.boundary for point in points]
        self._bench = Bench(layered, points, folder, provider, custom_ops)
        self._finished = Finished(layered, points, folder, provider, custom_ops) if finished else None
        self.points = (*points, *(self._finished.points if self._finished else ()))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Answers]:
        """Value of a point → what there is, for one batch.

        Raises:
            SourceError, ValidationError: a side does not run.
        """
        reference = self._source.run(feeds, self._boundaries)
        exact = self._source.run64(feeds, self._boundaries) if self._noise_floor else {}
        whole, alone = self._bench.run(feeds), self._bench.run_parted(feeds, reference)
        found = {
            value: Answers(given, whole[value], alone[value], given, exact.get(value))
            for value, given in reference.items()
        }
        if self._finished is not None:
            ended = self._finished.run(feeds)
            for point in self._finished.points:
                (end,) = point.inputs
                got = ended[point.value]
                found[point.value] = Answers(reference[end], got, got, whole[end], exact.get(end))
        return found
