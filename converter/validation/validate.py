"""Running pieces beside the source framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from converter.errors import ValidationError
from converter.model import Array, Boundary, Source
from converter.validation.comparison import Comparison, compare, spread_of

__all__ = ["Candidate", "validate"]

Feeds = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An artifact to be judged.

    Attributes:
        name: how comparisons call it (`trunk`, `trunk.keras`).
        starts: boundaries that it takes as inputs: fed with the framework's own activations.
        ends: boundaries that it puts out, with the name each has in the artifact.
        run: the artifact itself, reloaded from the bytes that ship.
    """

    name: str
    starts: tuple[Boundary, ...]
    ends: tuple[tuple[Boundary, str], ...]
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]


def validate(
    source: Source,
    candidates: Sequence[Candidate],
    batches: Sequence[Feeds],
    compositions: Sequence[tuple[Candidate, Candidate]] = (),
) -> tuple[Comparison, ...]:
    """Compare every output of every candidate with the framework's answer at the same layer.

    Args:
        source: runs the framework itself.
        candidates: each is fed with the model's inputs, its starts with what the framework has there.
        batches: inputs of the model.
        compositions: (trunk, head) pairs: the head is also run on the trunk's outputs.

    Raises:
        ValidationError: a candidate does not run at all.
    """
    wanted = {b.value: b for c in candidates for b in c.starts}
    wanted |= {b.value: b for c in candidates for b, _ in c.ends}
    references = [source.run(feeds, list(wanted.values())) for feeds in batches]
    parts = [{v: _parts(r[v]) for v in wanted} for r in references]
    spreads = {
        (value, index): spread_of([p[value][index] for p in parts if index < len(p[value])])
        for value in wanted
        for index in range(max(len(p[value]) for p in parts))
    }
    comparisons = []
    for feeds, reference in zip(batches, references, strict=True):
        size = next((len(value) for value in feeds.values() if np.ndim(value)), 1)
        for candidate in candidates:
            got = _run(candidate, {**feeds, **{b.name: reference[b.value] for b in candidate.starts}})
            comparisons += _compare(candidate, candidate.name, size, got, reference, spreads)
        for trunk, head in compositions:
            crossing = _run(trunk, feeds)
            got = _run(head, {**feeds, **crossing})
            name = f"{head.name}∘{trunk.name}"
            comparisons += _compare(head, name, size, got, reference, spreads)
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
    spreads: Mapping[tuple[str, int], float],
) -> list[Comparison]:
    comparisons = []
    for boundary, output in candidate.ends:
        expected, found = _parts(reference[boundary.value]), _parts(got.get(output))
        several = not isinstance(reference[boundary.value], np.ndarray)
        for index in range(max(len(expected), len(found), 0 if several else 1)):
            label = f"{boundary.name}[{index}]" if several else boundary.name
            a, b = (part[index] if index < len(part) else None for part in (found, expected))
            spread = spreads.get((boundary.value, index), 0.0)
            comparisons.append(compare(name, label, size, a, b, spread=spread))
    return comparisons


def _parts(value: Any) -> list[Array]:
    """The tensors of a value: itself, those of a sequence, none of an empty optional."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in _parts(item)]
    return [np.asarray(value)]
