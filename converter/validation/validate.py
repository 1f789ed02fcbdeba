"""Running pieces beside the source framework."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from converter.errors import ValidationError
from converter.model import SCORES, Array, Boundary
from converter.validation.comparison import Comparison, compare, spread_of

__all__ = ["Answering", "Candidate", "Judge"]

Feeds = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An artifact to be judged.

    Attributes:
        name: how comparisons call it (`trunk`, `trunk.keras`).
        starts: boundaries that it takes as inputs: fed with the framework's own activations.
        ends: boundaries that it puts out, with the name each has in the artifact.
        run: the artifact itself, reloaded from the bytes that ship.
        precision: what it computes in, where that is less than the source's own.
        target: its kind.
        min_snr: what its outputs have to reach, in dB, where that is asked for.
        classes: names of its outputs that are a classifier's.
    """

    name: str
    starts: tuple[Boundary, ...]
    ends: tuple[tuple[Boundary, str], ...]
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    precision: str | None = None
    target: str = "onnx"
    min_snr: float | None = None
    classes: frozenset[str] = frozenset()


class Answering(Protocol):
    """Whoever is asked for what the framework has at its layers."""

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Any]:
        """An array for each `Boundary.value`."""
        ...


class Judge:
    """The framework's own answers, to which artifacts are held; each is computed once, when it is needed.

    Args:
        source: runs the framework itself, or a source as dressed pieces see it.
        boundaries: where its answers are wanted.
        batches: inputs of the model.
        varied: they differ so that answers do, too: one that is constant over them proves nothing, and fails.
    """

    def __init__(
        self,
        source: Answering,
        boundaries: Iterable[Boundary],
        batches: Sequence[Feeds],
        *,
        varied: bool = True,
    ) -> None:
        self._source = source
        self._varied = varied
        self._wanted = {b.value: b for b in boundaries}
        self._batches = batches

    @cached_property
    def _references(self) -> list[dict[str, Array]]:
        return [self._source.run(feeds, list(self._wanted.values())) for feeds in self._batches]

    def _spread(self, value: str, index: int) -> float:
        return self._spreads.get((value, index), 0.0) if self._varied else math.inf

    @cached_property
    def _spreads(self) -> dict[tuple[str, int], float]:
        parts = [{v: _parts(r[v]) for v in self._wanted} for r in self._references]
        return {
            (value, index): spread_of([p[value][index] for p in parts if index < len(p[value])])
            for value in self._wanted
            for index in range(max(len(p[value]) for p in parts))
        }

    def feeds(self, starts: Sequence[Boundary]) -> list[Feeds]:
        """For each batch the model's inputs, and what the framework has at these boundaries."""
        if not starts:
            return [dict(feeds) for feeds in self._batches]
        return [
            {**feeds, **{b.name: reference[b.value] for b in starts}}
            for feeds, reference in zip(self._batches, self._references, strict=True)
        ]

    def compare(
        self, candidates: Sequence[Candidate], compositions: Sequence[tuple[Candidate, Candidate]] = ()
    ) -> tuple[Comparison, ...]:
        """Compare every output of every candidate with the framework's answer at the same layer.

        Args:
            candidates: each is fed with the model's inputs, its starts with what the framework has there.
            compositions: (trunk, head) pairs: the head is also run on the trunk's outputs.

        Raises:
            ValidationError: a candidate does not run at all.
        """
        comparisons = []
        for feeds, reference in zip(self._batches, self._references, strict=True):
            size = next((len(value) for value in feeds.values() if np.ndim(value)), 1)
            for candidate in candidates:
                got = _run(candidate, {**feeds, **{b.name: reference[b.value] for b in candidate.starts}})
                comparisons += _compare(candidate, candidate.name, size, got, reference, self._spread)
            for trunk, head in compositions:
                crossing = _run(trunk, feeds)
                got = _run(head, {**feeds, **crossing})
                name = f"{head.name}∘{trunk.name}"
                comparisons += _compare(head, name, size, got, reference, self._spread)
        return tuple(comparisons)


def _run(candidate: Candidate, feeds: Feeds) -> Mapping[str, Array]:
    try:
        return candidate.run(feeds)
    except KeyError as error:
        raise ValidationError(f"{candidate.name} wants an input {error} that nobody gives") from error


def _compare(
    candidate: Candidate,
    name: str,
    size: int,
    got: Mapping[str, Any],
    reference: Mapping[str, Any],
    spread: Callable[[str, int], float],
) -> list[Comparison]:
    comparisons = []
    for boundary, output in candidate.ends:
        expected, found = _parts(reference[boundary.value]), _parts(got.get(output))
        several = not isinstance(reference[boundary.value], np.ndarray)
        for index in range(max(len(expected), len(found), 0 if several else 1)):
            label = f"{boundary.name}[{index}]" if several else boundary.name
            a, b = (part[index] if index < len(part) else None for part in (found, expected))
            scores, agree = reference.get(f"{boundary.value}{SCORES}"), None
            if scores is not None and _are_classes(a, b, scores.shape[-1]):
                a, b, agree = _picked(scores, a, b)
            made = compare(
                name,
                label,
                size,
                a,
                b,
                spread=spread(boundary.value, index),
                precision=candidate.precision,
                min_snr=candidate.min_snr,
                classes=output in candidate.classes,
            )
            top1 = made.top1 if agree is None else agree
            comparisons.append(dataclasses.replace(made, target=candidate.target, top1=top1))
    return comparisons


def _are_classes(got: Array | None, expected: Array | None, classes: int) -> bool:
    """Whether both are classes of so many; what is none is compared as it is, and fails."""
    if got is None or expected is None or got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    return bool(((got >= 0) & (got < classes)).all())


def _picked(scores: Array, got: Any, expected: Any) -> tuple[Array, Array, float]:
    """The framework's scores of picked classes: of two that are all but equal either may be picked; and how
    often the first of them is the same."""
    if expected.ndim < scores.ndim:  # of argmax, which leaves no axis
        got, expected = got[..., None], expected[..., None]
    agree = float((got[..., 0] == expected[..., 0]).mean())
    return np.take_along_axis(scores, got, -1), np.take_along_axis(scores, expected, -1), agree


def _parts(value: Any) -> list[Array]:
    """The tensors of a value: itself, those of a sequence, none of an empty optional."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _parts(item)]
    return [np.asarray(value)]
