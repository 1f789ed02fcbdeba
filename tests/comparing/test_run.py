"""Verdicts on artifacts whose answers are known: figures derived by hand, and what never passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from converter.comparing import Asked, Bounds, Outcome, compare_artifacts
from converter.comparing.pairing import Pair, pair_inputs
from converter.comparing.run import limits_for, shared_inputs
from converter.errors import UsageError, ValidationError
from converter.model import Dim, TensorSpec
from converter.report.compared import compared_as_json
from converter.targets.artifact import Artifact

ROWS = np.array([[1, 2], [3, 4]], "f4")
OFF = np.array([[1, 2], [3, 4.4]], "f4")


def made(
    *outputs: Callable[[Any], Any],
    takes: tuple[Dim, ...] = (2, 2),
    dtype: str = "float32",
    precision: str | None = None,
    name: str = "made.onnx",
    labels: tuple[str, ...] = (),
) -> Artifact:
    keys = labels or tuple(f"y{place}" for place in range(len(outputs)))
    inputs = (TensorSpec("x", takes, dtype),)

    def run(feeds: Any) -> dict[str, Any]:
        return {key: output(feeds["x"]) for key, output in zip(keys, outputs, strict=True)}

    specs = tuple(TensorSpec(key, ("...",), "unknown") for key in keys)
    return Artifact("onnx", Path(name), inputs, specs, run, precision)


def compared(
    a: Artifact,
    b: Artifact,
    bounds: Bounds | None = None,
    asked: Asked | None = None,
    samples: Path | None = None,
) -> Outcome:
    bounds, asked = bounds or Bounds(), asked or Asked()
    return compare_artifacts(a, b, asked=asked, bounds=bounds, samples=samples, seed=0)


def test_figures_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    a = made(lambda x: x)
    b = made(lambda x: OFF, name="b.onnx")
    outcome = compared(a, b, samples=path)
    (result,) = outcome.results
    figures = result.comparison
    assert figures.max_abs == pytest.approx(0.4, rel=1e-6)
    assert figures.scaled_error == pytest.approx(0.4 / 4, rel=1e-6)
    assert figures.snr_db == pytest.approx(10 * math.log10(30 / 0.16), rel=1e-6)
    assert figures.cosine == pytest.approx(31.6 / math.sqrt(30 * 33.36), rel=1e-6)
    assert result.comparison.top1 == 1.0  # the second class is the larger in both rows of both
    assert not outcome.agree
    assert compared(a, b, Bounds(tolerance=0.11), samples=path).agree
    assert not compared(a, b, Bounds(tolerance=0.09), samples=path).agree
    assert compared(a, b, Bounds(0.11, 22.7), samples=path).agree
    noisy = compared(a, b, Bounds(0.11, 22.8), samples=path)
    assert not noisy.agree
    assert "22.7 dB" in str(noisy.results[0].comparison.problem)
    assert compared_as_json(noisy)["status"] == "differ"


def test_the_largest_class(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    flipped = made(lambda x: np.array([[2, 1], [3, 4]], "f4"), name="b.onnx")
    (result,) = compared(made(lambda x: x), flipped, samples=tmp_path / "x.npy").results
    assert result.comparison.top1 == 0.5


def test_batches_of_one_and_three_where_both_take_any() -> None:
    free = made(lambda x: x, takes=("n", 2))
    assert compared(free, made(lambda x: x, takes=("batch", 2), name="b")).batches == (1, 3)
    assert compared(free, made(lambda x: x, takes=(1, 2), name="b")).batches == (1, 1)
    assert compared(made(lambda x: x, takes=(4, 2)), free).batches == (4, 4)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (lambda x: x * np.nan, "NaN"),
        (lambda x: x[:, :1], "shape"),
        (lambda x: x > 0, "dtype"),
    ],
)
def test_what_never_passes_in_b(output: Callable[[Any], Any], problem: str) -> None:
    outcome = compared(made(lambda x: x), made(output, name="b"), Bounds(tolerance=0.9))
    assert not outcome.agree
    assert problem in str(outcome.results[0].comparison.problem)


def test_nan_on_both_sides_fails_too() -> None:
    def holed(x: Any) -> Any:
        return np.where(x > 0, np.nan, x)

    outcome = compared(made(holed), made(holed, name="b"))
    assert not outcome.agree
    assert "A has NaN" in str(outcome.results[0].comparison.problem)


def test_what_proves_nothing_fails_or_says_so() -> None:
    constant = made(lambda x: x * 0 + 5)
    outcome = compared(constant, made(lambda x: x * 0 + 5, name="b"))
    assert not outcome.agree
    assert "a constant would pass" in str(outcome.results[0].comparison.problem)
    empty = compared(made(lambda x: x[:, :0]), made(lambda x: x[:, :0], name="b"))
    assert not empty.agree
    same = compared(made(lambda x: x), made(lambda x: x))
    assert any("same file" in note for note in same.notes)


def test_tolerances_are_those_of_the_less_precise_side() -> None:
    exact = made(lambda x: x)
    for precision, error, agrees in (
        (None, 2.0**-13, False),
        (None, 2.0**-15, True),
        ("float16", 2.0**-8, True),
        ("float16", 2.0**-6, False),
        ("bfloat16", 2.0**-5, True),
        ("int8", 2.0**-4, True),
        ("int8", 2.0**-2, False),
    ):
        rough = made(lambda x, e=error: x * np.float32(1 + e), precision=precision, name="b")
        assert compared(exact, rough).agree is agrees, (precision, error)
    # An error that is small on the scale and still noise: 14 dB, where int8 promises 15.
    outcome = compared(
        made(lambda x: np.sign(x) * 0.5), made(lambda x: np.sign(x) * 0.6, precision="int8", name="b")
    )
    assert "SNR of 14.0 dB, expected 15" in str(outcome.results[0].comparison.problem)
    half = made(lambda x: x.astype(np.float16), name="b")
    assert compared(exact, half).results[0].comparison.tolerance == 2.0**-6
    assert compared(exact, half).agree
    brain = made(lambda x: x.astype(ml_dtypes.bfloat16), name="b")
    assert compared(exact, brain).results[0].comparison.tolerance == 2.0**-4
    assert compared(exact, brain).agree


def test_integers_are_exact_and_may_have_other_widths() -> None:
    a = made(lambda x: (x * 100).astype(np.int64), precision="int8")
    assert compared(a, made(lambda x: (x * 100).astype(np.int32), name="b")).agree
    assert not compared(a, made(lambda x: (x * 100).astype(np.int32) + 1, name="b")).agree


def test_outputs_in_another_order_and_left_over_ones() -> None:
    a = made(lambda x: x, lambda x: x[:, :1] * 3, labels=("p", "q"))
    b = made(lambda x: x[:, :1] * 3, lambda x: x, labels=("i", "j"), name="b")
    outcome = compared(a, b)
    assert outcome.agree
    assert [(pair.a.name, pair.b.name) for pair in outcome.outputs] == [("p", "j"), ("q", "i")]
    more = made(lambda x: x, lambda x: x[:, :1] * 3, lambda x: x.sum(1), labels=("p", "q", "r"), name="b")
    outcome = compared(a, more)
    assert not outcome.agree
    assert not outcome.failures
    assert outcome.left == ("B's r",)
    assert compared(a, more, asked=Asked(outputs={"p": "p"})).agree


def test_tensors_with_channels_at_the_other_end() -> None:
    def mean_of_rows(x: Any) -> Any:  # not symmetric in height and width, nor in the channels
        return x * np.arange(1, x.shape[1] + 1, dtype="f4")[None, :, None, None]

    def turned(x: Any) -> Any:
        return mean_of_rows(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)

    a = made(mean_of_rows, takes=("n", 3, 4, 5))
    b = made(turned, takes=("n", 4, 5, 3), name="b")
    for outcome in (compared(a, b), compared(b, a)):
        assert outcome.agree
        assert outcome.inputs[0].turn == outcome.outputs[0].turn
    assert compared(a, b).inputs[0].turn == (0, 2, 3, 1)
    wrong = made(lambda x: turned(x[:, ::-1]), takes=("n", 4, 5, 3), name="b")
    assert not compared(a, wrong).agree


def test_feeds_take_the_dtype_that_each_side_wants(tmp_path: Path) -> None:
    seen = []

    def kept(x: Any) -> Any:
        seen.append(x.dtype.name)
        return x.astype("f4")

    compared(made(kept), made(kept, dtype="float16", name="b"))
    assert set(seen[:2]) == {"float32"}
    assert set(seen[2:]) == {"float16"}
    np.save(tmp_path / "x.npy", np.array([[300, 1], [2, 3]]))
    a, b = made(kept, dtype="int64"), made(kept, dtype="int8", name="b")
    with pytest.raises(UsageError, match="up to 300"):
        compared(a, b, samples=tmp_path / "x.npy")


def test_sizes_that_b_fixes_are_fixed_wherever_a_uses_them() -> None:
    a = [TensorSpec("p", ("n", "len"), "float32"), TensorSpec("q", ("n", "len"), "float32")]
    b = [TensorSpec("p", ("n", 7), "float32"), TensorSpec("q", ("n", "any"), "float32", (0.0, 9.0))]
    found = shared_inputs(pair_inputs(a, b, Asked()))
    assert [spec.shape for spec in found] == [("n", 7), ("n", 7)]
    assert found[1].value_range == (0.0, 9.0)
    with pytest.raises(UsageError, match="fixed to 7 and to 8"):
        shared_inputs(pair_inputs(a, [b[0], TensorSpec("q", ("n", 8), "float32")], Asked()))
    nobody = TensorSpec("x", ("...",), "unknown")
    with pytest.raises(UsageError, match="neither A nor B"):
        shared_inputs([Pair(nobody, nobody, "by name")])


def test_sequences_are_compared_part_by_part_and_maps_are_refused() -> None:
    parts = made(lambda x: [x, x[:, :1]])
    outcome = compared(parts, made(lambda x: [x, x[:, :1]], name="b"))
    assert outcome.agree
    assert [pair.a.name for pair in outcome.outputs] == ["y0[0]", "y0[1]"]
    with pytest.raises(ValidationError, match="maps"):
        compared(parts, made(lambda x: [{0: 0.5}], name="b"))


@pytest.mark.parametrize(
    ("dtype", "precisions", "tolerance"),
    [("uint8", ["int8", "int8"], 2.0**-3), ("uint8", [None, None], 0.0), ("int64", ["int8", "int8"], 0.0)],
)
def test_levels_of_quantized_artifacts_are_no_exact_integers(
    dtype: str, precisions: list[str | None], tolerance: float
) -> None:
    spec = TensorSpec("y", ("batch", 4), dtype)
    assert limits_for(Pair(spec, spec, "by name"), precisions)[0] == tolerance
