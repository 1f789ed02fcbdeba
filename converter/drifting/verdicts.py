"""Which layers depart from the framework, and whether each does so on its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from converter.drifting.points import Point
from converter.validation import Comparison
from converter.validation.comparison import EMPTY

__all__ = ["ACCUMULATED", "AGREES", "INHERITED", "NOISE_FACTOR", "OWN", "Measured", "Row", "unit", "verdicts"]

AGREES, OWN, INHERITED, ACCUMULATED = "agrees", "own", "inherited", "accumulated"

# How much further from float64 than the framework ONNX Runtime may be. Two sums of n terms in the same dtype
# differ in the order of their terms: rounding grows as sqrt(n) term by term, and as sqrt(n/16) in kernels
# that keep 16 partial sums (a vector register of float32), a factor of 4. The largest of many
# roundings scatters by 2 from one order to another. Hence 4 * 2.
NOISE_FACTOR = 8.0
# A layer that makes so much more error than comes in departs, even where a tolerance would let it pass.
_JUMP = 10.0
# What counts as an error of nothing for that, in units of the dtype's epsilon: sums of some thousand terms
# have it, or a few more after a division by a small number.
_FLOOR = 8.0
_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one point; errors are max |a - b| over max |b|, the worst over all batches.

    Attributes:
        point: the tensor.
        dtype: its element type in the framework.
        whole: ONNX Runtime from the model's inputs, against the framework.
        own: ONNX Runtime from the framework's own tensors at the points before, against the framework.
        same: it is the same for every sample, so that a constant would agree, too.
        noise: (ONNX Runtime's distance from float64, the framework's), where that was asked for and is known.
    """

    point: Point
    dtype: str
    whole: Comparison
    own: Comparison
    same: bool
    noise: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer boundary.

    Attributes:
        name: the layer's name, with what tells the tensor from others that the layer puts out.
        kind: the layer's class or operator.
        depth: its place in the order of execution, from 0.
        dtype: its element type in the framework.
        inputs: names of the boundaries that it is computed from.
        max_abs: largest difference.
        error: largest difference over the framework's largest magnitude.
        cosine: between both.
        snr_db: the framework's power over that of the difference.
        own_error: `error` of the layer alone, given the framework's own tensors.
        limit: what it was held to: `error`, or with a noise floor `ort_distance`.
        own_limit: what `own_error` was held to.
        verdict: `agrees`; `own`: it departs by itself; `inherited`: it departs, but not on the framework's
            own inputs; `accumulated`: so, and no layer before it departs either.
        cause: of an inherited departure the layer in which it begins; of an accumulated one the layer before
            it, or itself, that makes the largest error of its own.
        ort_distance: `error` of ONNX Runtime against the framework in float64.
        framework_distance: of the framework itself against the framework in float64.
        problem: why there are no figures, where that is so.
        note: why agreement proves nothing, or how it was judged, where that is out of the ordinary.
    """

    name: str
    kind: str
    depth: int
    dtype: str
    inputs: tuple[str, ...]
    max_abs: float
    error: float
    cosine: float
    snr_db: float
    own_error: float
    limit: float
    own_limit: float
    verdict: str
    cause: str | None = None
    ort_distance: float | None = None
    framework_distance: float | None = None
    problem: str | None = None
    note: str | None = None

    @property
    def departs(self) -> bool:
        return self.verdict != AGREES


@dataclasses.dataclass(frozen=True)
class _Held:
    """What one point is held to, and whether it departs."""

    limit: float
    own_limit: float
    departs: bool
    own: bool
    note: str | None


def verdicts(measured: Sequence[Measured], tolerance: float | None, *, noise_floor: bool) -> tuple[Row, ...]:
    """Judge every point.

    Args:
        measured: the points in order of execution.
        tolerance: largest error of floating-point tensors; None for the dtype's own
            (`converter.validation.comparison.TOLERANCES`), beside which errors that jump count.
        noise_floor: hold to the framework's distance from float64 instead, where that is known.
    """
    known = {each.point.value: each for each in measured}
    held = {
        value: _by_noise(each, known) if noise_floor and each.noise else _by_tolerance(each, known, tolerance)
        for value, each in known.items()
    }
    causes: dict[str, str] = {}
    makers: dict[str, tuple[float, str]] = {}
    rows = []
    for depth, each in enumerate(measured):
        before = [makers[value] for value in each.point.inputs if value in makers]
        makers[each.point.value] = max([*before, (_size(each.own), each.point.name)])
        verdict, cause = _verdict(each, held, known, causes)
        cause = makers[each.point.value][1] if verdict == ACCUMULATED else cause
        rows.append(_row(each, depth, held[each.point.value], verdict, cause, known, noise_floor=noise_floor))
    return tuple(rows)


def unit(dtype: str) -> float:
    """Half the distance from 1 to the next number: the largest error of rounding a number, over it."""
    return _UNITS.get(dtype, 0.0)


def _is_float(dtype: str) -> bool:
    return dtype in _UNITS


def _exceeds(comparison: Comparison, limit: float) -> bool:
    return comparison.problem not in (None, EMPTY) or not comparison.scaled_error <= limit


def _by_tolerance(each: Measured, known: Mapping[str, Measured], asked: float | None) -> _Held:
    limit = each.whole.tolerance if asked is None or not _is_float(each.dtype) else asked
    over, own = _exceeds(each.whole, limit), _exceeds(each.own, limit)
    if asked is not None or over or own or not _is_float(each.dtype):
        return _Held(limit, limit, over, own, None)
    incoming = [known[value].whole.scaled_error for value in each.point.inputs if value in known]
    usual = max([_FLOOR * 2 * unit(each.dtype), *(error for error in incoming if math.isfinite(error))])
    jumps = each.own.scaled_error > _JUMP * usual and each.whole.scaled_error > _JUMP * usual
    if not jumps:
        return _Held(limit, limit, False, False, None)
    note = f"within tolerance, but {each.own.scaled_error / usual:.0f} times what comes in"
    return _Held(_JUMP * usual, _JUMP * usual, True, True, note)


def _by_noise(each: Measured, known: Mapping[str, Measured]) -> _Held:
    """Hold ONNX Runtime's distance from float64 to the framework's own."""
    assert each.noise is not None
    ort, framework = each.noise
    # The few numbers of a small tensor may be right by chance: the noise that comes in counts, too.
    for value in each.point.inputs:
        before = known[value].noise if value in known else None
        if before is not None and math.isfinite(before[1]):
            framework = max(framework, before[1])
    rounding = unit(each.dtype)
    limit, own_limit = NOISE_FACTOR * framework + rounding, (NOISE_FACTOR + 1) * framework + rounding
    over = each.whole.problem not in (None, EMPTY) or not ort <= limit
    return _Held(limit, own_limit, over, _exceeds(each.own, own_limit), None)


def _verdict(
    each: Measured, held: Mapping[str, _Held], known: Mapping[str, Measured], causes: dict[str, str]
) -> tuple[str, str | None]:
    """The verdict, and of an inherited departure its cause; where departures begin is noted in `causes`."""
    value = each.point.value
    if not held[value].departs:
        return AGREES, None
    begun = [before for before in each.point.inputs if before in causes]
    if held[value].own or not begun:
        causes[value] = each.point.name
        return (OWN if held[value].own else ACCUMULATED), None
    worst = max(begun, key=lambda before: _size(known[before].whole))
    causes[value] = causes[worst]
    return INHERITED, causes[value]


def _size(comparison: Comparison) -> float:
    return comparison.scaled_error if math.isfinite(comparison.scaled_error) else math.inf


def _row(
    each: Measured,
    depth: int,
    held: _Held,
    verdict: str,
    cause: str | None,
    known: Mapping[str, Measured],
    *,
    noise_floor: bool,
) -> Row:
    notes = [held.note] if held.note else []
    if each.point.constant:
        notes.append("constant: it depends on no input, agreement proves nothing of the layers before it")
    elif each.same:
        notes.append("the same for every sample: agreement proves little")
    if noise_floor and each.noise is None and _is_float(each.dtype):
        notes.append("no float64 there: held to the tolerance")
    return Row(
        name=each.point.name,
        kind=each.point.kind,
        depth=depth,
        dtype=each.dtype,
        inputs=tuple(known[value].point.name for value in each.point.inputs if value in known),
        max_abs=each.whole.max_abs,
        error=each.whole.scaled_error,
        cosine=each.whole.cosine,
        snr_db=each.whole.snr_db,
        own_error=each.own.scaled_error,
        limit=held.limit,
        own_limit=held.own_limit,
        verdict=verdict,
        cause=cause,
        ort_distance=each.noise[0] if each.noise else None,
        framework_distance=each.noise[1] if each.noise else None,
        problem=each.whole.problem,
        note="; ".join(notes) or None,
    )
