"""Running the framework and ONNX Runtime side by side, and comparing them at every layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.drifting.points import Point, points
from converter.drifting.sides import Answers, Sides
from converter.drifting.verdicts import ACCUMULATED, OWN, Measured, Row, verdicts
from converter.errors import UsageError, ValidationError
from converter.model import Array, LayeredModel, Source, SourceInfo
from converter.samples import complete, count_of
from converter.scratch import Scratch
from converter.validation import Comparison, compare, spread_of

__all__ = ["Drift", "drift"]

# Bytes of a model's boundaries that are looked at together, and samples at most.
_AT_ONCE, _MOST = 1 << 28, 32
# Of sizes that are not known, for reckoning with these bytes.
_USUAL_SIZE = 64
_JUDGES = {"keras": "Keras", "torch": "PyTorch", "onnx": "ONNX Runtime without its optimisations"}
Progress = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far ONNX Runtime is from the framework, layer by layer.

    Attributes:
        source: where the model comes from.
        judge: what the framework is, in words.
        provider: ONNX Runtime's execution provider.
        samples: how many samples were run.
        tolerance: what was asked for; None for the dtypes' own, or the noise floor.
        noise_floor: verdicts rest on distances from float64.
        rows: every boundary, in order of execution.
        skipped: name of a boundary → why it was not compared.
        notes: what a reader should know besides.
    """

    source: SourceInfo
    judge: str
    provider: str
    samples: int
    tolerance: float | None
    noise_floor: bool
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def first(self) -> Row | None:
        """The first boundary that departs."""
        return next((row for row in self.rows if row.departs), None)

    @property
    def origins(self) -> tuple[Row, ...]:
        """The boundaries at which departures begin: by themselves, or by adding up."""
        return tuple(row for row in self.rows if row.verdict in (OWN, ACCUMULATED))

    @property
    def passed(self) -> bool:
        return self.first is None

    def worst(self, count: int) -> tuple[Row, ...]:
        """So many rows with the largest errors, in order of execution; 0 for all."""
        ranked = sorted(self.rows, key=lambda row: -math.inf if math.isnan(row.error) else -row.error)
        kept = {row.depth for row in (ranked[:count] if count else ranked)}
        return tuple(row for row in self.rows if row.depth in kept)


def drift(
    source: Source,
    layered: LayeredModel,
    samples: Mapping[str, Array],
    *,
    provider: str = "CPUExecutionProvider",
    custom_ops: Sequence[Path] = (),
    tolerance: float | None = None,
    noise_floor: bool = False,
    finished: bool = False,
    progress: Progress | None = None,
) -> Drift:
    """Compare every layer boundary of a model, the framework against ONNX Runtime.

    ONNX Runtime computes each boundary twice: from the model's inputs, and from the framework's own tensors
    at the boundaries right before it. The second says what the layer does by itself.

    Args:
        source: the framework.
        layered: the layered model, whole.
        samples: input → array, samples along axis 0 (see `converter.samples`).
        provider: ONNX Runtime's execution provider.
        custom_ops: libraries of operators for ONNX Runtime.
        tolerance: largest error that passes, of floating-point tensors; None for the dtype's own.
        noise_floor: run the framework in float64, too, and hold distances from that to the framework's own.
        finished: compare the outputs of the finished graph as well (see `converter.drifting.finished`).
        progress: told how many samples are done.

    Raises:
        UsageError: samples that the model does not take, or a tolerance with a noise floor.
        SourceError: the framework does not run, or not in float64.
        ValidationError: ONNX Runtime does not run, or there is nothing to compare.
    """
    if tolerance is not None and noise_floor:
        raise UsageError("a tolerance and a noise floor exclude each other: the floor sets what passes")
    found = points(layered)
    if not found.all:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*found.skipped.items()][:3])
        raise ValidationError(f"no boundary of this model can be compared{reasons and f' ({reasons})'}")
    total = count_of(samples)
    options = {"noise_floor": noise_floor, "finished": finished}
    with Scratch() as folder:
        sides = Sides(source, layered, found.all, folder, provider, custom_ops, **options)
        tallies = {point.value: _Tally(point) for point in sides.points}
        done = 0
        for feeds in _batches(layered, found.all, samples):
            for value, answers in sides.run(feeds).items():
                tallies[value].add(answers)
            done += count_of(feeds)
            if progress is not None:
                progress("drift", f"{done} of {total} samples at {len(found.all)} boundaries")
    measured = [tally.measured() for tally in tallies.values()]
    skipped = dict(found.skipped)
    skipped |= {p.name: "it is no tensor" for p, m in zip(sides.points, measured, strict=True) if m is None}
    kept = [each for each in measured if each is not None]
    return Drift(
        source.info,
        _JUDGES.get(source.info.kind, source.info.kind),
        provider,
        total,
        tolerance,
        noise_floor,
        verdicts(kept, tolerance, noise_floor=noise_floor),
        skipped,
        ("the model draws random numbers: figures differ from run to run",) if found.random else (),
    )


class _Tally:
    """The worst of all batches at one point."""

    def __init__(self, point: Point) -> None:
        self._point = point
        self._dtype: str | None = None
        self._figures: dict[str, Comparison] = {}
        self._spread = 0.0
        self._exact = True

    def add(self, answers: Answers) -> None:
        """Compare one batch; sequences and empty optionals are no tensors."""
        reference, exact = answers.reference, answers.exact
        if not isinstance(reference, np.ndarray):
            return
        self._dtype = reference.dtype.name
        self._spread = max(self._spread, spread_of([reference]))
        self._worst("whole", answers.whole, reference)
        self._worst("own", answers.alone, answers.expected)
        if isinstance(exact, np.ndarray) and exact.dtype == np.float64 and reference.dtype.kind != "O":
            self._worst("ort64", _as64(answers.whole), exact)
            self._worst("framework64", _as64(reference), exact)
        else:
            self._exact = False

    def _worst(self, which: str, got: Any, reference: Array) -> None:
        # Whether the reference is spread enough to prove something is told apart from whether it agrees.
        name = self._point.name
        made = compare(which, name, len(np.atleast_1d(reference)), got, reference, spread=math.inf)
        if made.problem is not None and _equal(got, reference):  # masks of infinities, without a figure
            made = dataclasses.replace(
                made, max_abs=0.0, scaled_error=0.0, cosine=1.0, snr_db=math.inf, passed=True, problem=None
            )
        before = self._figures.get(which)
        self._figures[which] = made if before is None else _worse(before, made)

    def measured(self) -> Measured | None:
        if self._dtype is None:
            return None
        figures = self._figures
        noise = None
        if self._exact and "ort64" in figures and figures["framework64"].problem is None:
            noise = figures["ort64"].scaled_error, figures["framework64"].scaled_error
        same = self._spread == 0.0
        return Measured(self._point, self._dtype, figures["whole"], figures["own"], same, noise)


def _worse(one: Comparison, other: Comparison) -> Comparison:
    """The worst figures of two; of such without figures the first."""
    if one.problem is not None or other.problem is not None:
        return one if one.problem is not None else other
    return dataclasses.replace(
        one,
        max_abs=max(one.max_abs, other.max_abs),
        scaled_error=max(one.scaled_error, other.scaled_error),
        cosine=min(one.cosine, other.cosine),
        snr_db=min(one.snr_db, other.snr_db),
    )


def _equal(got: Any, reference: Array) -> bool:
    """Whether both are the same numbers, NaN and infinities included."""
    if not isinstance(got, np.ndarray) or got.dtype != reference.dtype or reference.dtype.kind not in "fc":
        return False
    return reference.size > 0 and np.array_equal(got, reference, equal_nan=True)


def _as64(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype.kind != "O" else array


# ---------------------------------------------------------------- samples


def _batches(
    layered: LayeredModel, found: Sequence[Point], samples: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    """The samples, as many at a time as memory is meant for, or as the model is fixed to.

    Raises:
        UsageError: an input without samples, or not as many as the model's fixed batch takes.
    """
    count = complete(layered.inputs, samples)
    sizes = {spec.shape[0] for spec in layered.inputs if spec.shape and isinstance(spec.shape[0], int)}
    if not sizes:
        step = max(1, min(_MOST, _AT_ONCE // max(1, sum(map(_bytes, found)))))
    elif len(sizes) == 1 and count % min(sizes) == 0:
        step = min(sizes)
    else:
        # Axis 0 is no batch, or not of all inputs: they go in as they are.
        step = count
    for start in range(0, count, step):
        yield {name: x[start : start + step] if x.ndim else x for name, x in samples.items()}


def _bytes(point: Point) -> int:
    """About how many bytes a point is, for one sample."""
    spec = point.boundary.spec
    sizes = [size if isinstance(size, int) else _USUAL_SIZE for size in spec.shape[1:]]
    return math.prod(sizes) * 4
