"""Both artifacts run on the same samples, output held against output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.comparing.outcome import Outcome, Result
from converter.comparing.pairing import Asked, Pair, pair_inputs, pair_outputs
from converter.comparing.turns import inverse, known
from converter.errors import UsageError, ValidationError
from converter.model import Array, Dim, TensorSpec
from converter.samples import draw, read_samples
from converter.targets.artifact import Artifact
from converter.targets.brief import Run
from converter.validation.comparison import EMPTY, LOSSY, TOLERANCES, Comparison, compare, spread_of

__all__ = ["Bounds", "compare_artifacts", "limits_for", "seen_as", "shared_inputs"]

Feeds = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What passes.

    Attributes:
        tolerance: the largest error over the reference's scale; None: the table's, by dtype and precision.
        min_snr: the least signal-to-noise ratio in dB; None: the table's, where a side computes in less than
            float32.
    """

    tolerance: float | None = None
    min_snr: float | None = None


def compare_artifacts(
    a: Artifact, b: Artifact, *, asked: Asked, bounds: Bounds, samples: Path | None, seed: int
) -> Outcome:
    """Run both on the same samples and hold B's outputs against A's.

    Args:
        a: the reference.
        b: the other.
        asked: what pairs with what, by hand.
        bounds: what passes.
        samples: the user's own inputs, under A's names and in A's layout; None for seeded random ones in the
            range that A, or else B, declares.
        seed: of random samples.

    Raises:
        UsageError: inputs or outputs that do not pair, or samples that do not fit.
        ValidationError: one of them does not run on the samples.
    """
    inputs = pair_inputs(a.inputs, b.inputs, asked)
    specs = shared_inputs(inputs)
    batches = draw(specs, {}, seed) if samples is None else read_samples(samples, specs)
    references = [_arrays(a, feeds) for feeds in batches]
    founds = [_arrays(b, _fed(inputs, feeds)) for feeds in batches]
    paired = pair_outputs(_specs(a, references[0]), _specs(b, founds[0]), asked, inputs)
    unknown = set(asked.turns) - {spec.name for pair in (*inputs, *paired.pairs) for spec in (pair.a, pair.b)}
    if unknown:
        raise UsageError(
            f"--turn {', '.join(sorted(unknown))}: no input or output that is compared is called so"
        )
    sizes = [next((len(x) for x in feeds.values() if x.ndim), 1) for feeds in batches]
    results: list[Result] = []
    for pair in paired.pairs:
        wanted = [reference.get(pair.a.name) for reference in references]
        got = [_as_in_a(pair, found.get(pair.b.name)) for found in founds]
        results += _held(pair, (a, b), sizes, list(zip(got, wanted, strict=True)), bounds)
    left = [f"A's {spec.name}" for spec in paired.left_a] + [f"B's {spec.name}" for spec in paired.left_b]
    label = f"seed={seed}" if samples is None else samples.name
    return Outcome(
        a,
        b,
        inputs,
        paired.pairs,
        tuple(left),
        label,
        tuple(sizes),
        bounds.min_snr,
        tuple(results),
        _notes(a, b),
    )


def seen_as(
    artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], asked: Asked
) -> Run:
    """An artifact as a function between tensors of other names, layouts and dtypes, which pair with its own.

    Raises:
        UsageError: inputs that do not pair; when it is called, outputs, too.
    """
    pairs = pair_inputs(inputs, artifact.inputs, asked)

    def run(feeds: Mapping[str, Array]) -> Feeds:
        found = _arrays(artifact, _fed(pairs, feeds))
        paired = pair_outputs(outputs, _specs(artifact, found), asked, pairs)
        turned = {pair.a.name: _as_in_a(pair, found[pair.b.name]) for pair in paired.pairs}
        return {name: array for name, array in turned.items() if array is not None}

    return run


def _notes(a: Artifact, b: Artifact) -> tuple[str, ...]:
    notes = [f"{side}: {note}" for side, artifact in (("A", a), ("B", b)) for note in artifact.notes]
    notes += [
        f"{side} computes in {artifact.precision}"
        for side, artifact in (("A", a), ("B", b))
        if artifact.precision
    ]
    if a.path.resolve() == b.path.resolve():
        notes.append("A and B are the same file: that they agree proves nothing")
    return tuple(notes)


# ---------------------------------------------------------------- what goes in


def shared_inputs(pairs: Sequence[Pair]) -> tuple[TensorSpec, ...]:
    """What both take, under A's names and in A's layout: a size that B fixes is fixed.

    Raises:
        UsageError: neither says its shape or dtype, or B fixes one of A's free sizes to two numbers.
    """
    fixed: dict[Dim, int] = {}
    for pair in pairs:
        if known(pair.a) and known(pair.b):
            for size, other in zip(pair.a.shape, _shape_in_a(pair), strict=True):
                if (
                    isinstance(size, str)
                    and isinstance(other, int)
                    and fixed.setdefault(size, other) != other
                ):
                    raise UsageError(
                        f"A's free size {size!r} of {pair.a} is fixed to {fixed[size]} and to {other} in B"
                    )
    specs = []
    for pair in pairs:
        shape = pair.a.shape if known(pair.a) else _shape_in_a(pair)
        dtype = pair.b.dtype if pair.a.dtype == "unknown" else pair.a.dtype
        if "..." in shape or dtype == "unknown":
            raise UsageError(
                f"neither A nor B says what its input {pair.a.name!r} is: A has {pair.a}, B has {pair.b}",
                hint="compare each of them with an artifact that does, as ONNX files do",
            )
        sizes = tuple(fixed.get(size, size) for size in shape)
        reach = pair.a.value_range or pair.b.value_range
        specs.append(TensorSpec(pair.a.name, sizes, dtype, reach))
    return tuple(specs)


def _shape_in_a(pair: Pair) -> tuple[Dim, ...]:
    """B's shape in the order of A's axes."""
    return tuple(pair.b.shape[axis] for axis in inverse(pair.turn)) if pair.turn else pair.b.shape


def _fed(pairs: Sequence[Pair], feeds: Mapping[str, Array]) -> Feeds:
    """What A takes as B takes it."""
    given = {}
    for pair in pairs:
        array = np.transpose(feeds[pair.a.name], pair.turn) if pair.turn else feeds[pair.a.name]
        if pair.b.dtype != "unknown" and array.dtype.kind not in "OSU":
            cast = array.astype(pair.b.numpy_dtype)
            if array.dtype.kind in "iu" and not np.array_equal(cast, array):
                raise UsageError(
                    f"samples of {pair.a} hold numbers up to {array.max()}, which B's {pair.b} does not have"
                )
            array = cast
        given[pair.b.name] = np.ascontiguousarray(array)
    return given


# ---------------------------------------------------------------- what comes out


def _arrays(artifact: Artifact, feeds: Mapping[str, Array]) -> Feeds:
    """The outputs by name; those of a sequence as `name[0]`, `name[1]` …"""
    found: Feeds = {}
    given = {spec.name: _typed(feeds[spec.name], spec) for spec in artifact.inputs}
    outputs: Mapping[str, Any] = artifact.run(given)
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            parts: dict[str, Any] = {f"{name}[{index}]": part for index, part in enumerate(value)}
        else:
            parts = {} if value is None else {name: value}
        for key, part in parts.items():
            if isinstance(part, (dict, list, tuple)):
                raise ValidationError(
                    f"{artifact.path.name}: the output {name!r} holds maps or sequences of sequences",
                    hint="compare an artifact that puts out tensors (of scikit-learn: zipmap=False)",
                )
            found[key] = np.asarray(part)
    return found


def _typed(array: Array, spec: TensorSpec) -> Array:
    same = spec.dtype == "unknown" or array.dtype.kind in "OSU" or array.dtype == spec.numpy_dtype
    return array if same else array.astype(spec.numpy_dtype)


def _specs(artifact: Artifact, found: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """What came out, in the order that is declared."""
    order = [spec.name for spec in artifact.outputs if spec.name in found]
    names = dict.fromkeys([*order, *found])
    return tuple(TensorSpec(name, found[name].shape, _dtype(found[name])) for name in names)


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind in "OSU" else array.dtype.name


def _as_in_a(pair: Pair, array: Array | None) -> Array | None:
    if array is None or not pair.turn or array.ndim != len(pair.turn):
        return array
    return np.transpose(array, inverse(pair.turn))


def limits_for(pair: Pair, precisions: Iterable[str | None]) -> tuple[float, float | None]:
    """The table's tolerance and least SNR in dB for the less precise of two outputs and what computes them.

    Integers are exact, but for the levels that quantized artifacts put out.
    """
    precisions = list(precisions)
    own = max(TOLERANCES.get(spec.dtype, 0.0) for spec in (pair.a, pair.b))
    levels = {pair.a.dtype, pair.b.dtype} <= {"int8", "uint8"} and "int8" in precisions
    lossy = [LOSSY[precision] for precision in precisions if precision is not None] if own or levels else []
    floors = [floor for _, floor in lossy]
    return max([own, *(tolerance for tolerance, _ in lossy)]), min(floors, default=None)


def _held(
    pair: Pair,
    sides: tuple[Artifact, Artifact],
    sizes: Sequence[int],
    arrays: Sequence[tuple[Array | None, Array | None]],
    bounds: Bounds,
) -> list[Result]:
    """One pair of outputs at every batch."""
    tolerance, floor = limits_for(pair, [side.precision for side in sides])
    tolerance = tolerance if bounds.tolerance is None else bounds.tolerance
    floor = floor if bounds.min_snr is None else bounds.min_snr
    spread = spread_of([reference for _, reference in arrays if reference is not None])
    name, kind = sides[1].path.name, sides[1].kind
    results = []
    for size, (got, reference) in zip(sizes, arrays, strict=True):
        classes = reference is not None and _kind(reference) == "f"
        made = compare(name, pair.a.name, size, *_alike(got, reference), spread=math.inf, classes=classes)
        made = _judged(made, reference, spread, tolerance, floor)
        results.append(Result(pair, dataclasses.replace(made, target=kind)))
    return results


def _alike(got: Array | None, reference: Array | None) -> tuple[Array | None, Array | None]:
    """Both in one dtype that holds the values of either: floating point in float64, integers in int64."""
    if got is None or reference is None or got.dtype == reference.dtype:
        return got, reference
    kinds = [_kind(array) for array in (got, reference)]
    wide = {"f": np.float64, "i": np.int64}.get(kinds[0]) if kinds[0] == kinds[1] else None
    if wide is None:
        return got, reference
    return got.astype(wide), reference.astype(wide)


def _kind(array: Array) -> str:
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return "f"
    return "i" if array.dtype.kind in "iu" else array.dtype.kind


def _judged(
    made: Comparison, reference: Array | None, spread: float, tolerance: float, floor: float | None
) -> Comparison:
    """The figures with the verdict that was asked for: `compare` knows the table's tolerances alone."""
    problem = made.problem
    if reference is not None and _kind(reference) == "f" and np.isnan(reference).any():
        problem = "A has NaN in it: nothing is held against these"
    elif problem is None and not spread > tolerance:
        problem = f"A is all but constant over the samples (spread {spread:.1e}): a constant would pass"
    elif problem is None and floor is not None and not made.snr_db >= floor:
        problem = f"SNR of {made.snr_db:.1f} dB, expected {floor:g} at least"
    passed = made.problem == EMPTY if problem is not None else made.scaled_error <= tolerance
    return dataclasses.replace(made, tolerance=tolerance, passed=passed, problem=problem)
