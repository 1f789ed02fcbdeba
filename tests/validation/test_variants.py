"""Inputs of other kinds: what is drawn, what an artifact has to meet, where a model magnifies rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import SourceError
from converter.model import Boundary, TensorSpec
from converter.validation import Candidate, Comparison, compare_variants
from converter.variants import perturbed, variants

IMAGE = TensorSpec("image", ("batch", 8, 8, 3), "float32", (0.0, 255.0))
OUT = Boundary(TensorSpec("y", ("batch", 3), "float32"), "boundary:y@0:")


class Function:
    """A framework whose model is a function of one input."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def run(self, feeds: Mapping[str, Any], wanted: Sequence[Boundary]) -> dict[str, Any]:
        return {boundary.value: self._function(feeds["image"]) for boundary in wanted}


def pooled(image: Any) -> Any:
    return np.asarray(image.mean(axis=(1, 2), dtype=np.float32))


def normalized(image: Any) -> Any:
    """Instance normalisation, which divides by each channel's deviation: of constants that is rounding."""
    centred = image - image.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True) + 1e-12))


def held(source: Any, artifact: Callable[[Any], Any]) -> dict[str, Comparison]:
    """How an artifact comes out on each kind of input."""
    candidate = Candidate("model", (), ((OUT, "y"),), lambda feeds: {"y": artifact(feeds["image"])})
    kinds = variants([IMAGE], {}, 0)
    found = compare_variants(
        source, [OUT], kinds, [candidate], [], lambda feeds, number: perturbed([IMAGE], feeds, number)
    )
    return {comparison.sample: comparison for comparison in found}


# ---------------------------------------------------------------- what is drawn


def test_kinds_reach_the_ends_of_the_range_and_beyond() -> None:
    found = {kind: feeds["image"] for kind, feeds in variants([IMAGE], {}, 0).items()}
    assert list(found) == ["normal", "zeros", "highest", "large"]  # the lowest are zeros here
    assert (found["zeros"] == 0).all()
    assert (found["highest"] == 255).all()
    assert found["large"].min() < -255
    assert found["large"].max() > 510
    noise = found["normal"]
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert abs(noise.mean() - 127.5) < 10
    assert 40 < noise.std() < 60


@pytest.mark.parametrize(
    ("spec", "rows", "kinds"),
    [
        (TensorSpec("ids", ("batch", "length"), "int64"), 100, {"zeros": 0, "highest": 99}),
        (TensorSpec("attention_mask", ("batch", "length"), "int64"), None, {}),
        (TensorSpec("size", ("batch",), "int64"), None, {}),
        (TensorSpec("text", ("batch",), "string"), None, {}),
        (TensorSpec("x", ("batch", 6, 6, 3), "uint8", (0, 255)), None, {"zeros": 0, "highest": 255}),
    ],
)
def test_what_has_no_ends_stays(spec: TensorSpec, rows: int | None, kinds: dict[str, int]) -> None:
    tables = {} if rows is None else {spec.name: rows}
    found = variants([spec], tables, 3)
    assert {kind: feeds[spec.name].flat[0] for kind, feeds in found.items()} == kinds
    assert all((feeds[spec.name] == kinds[kind]).all() for kind, feeds in found.items())


def test_half_precision_is_not_driven_over_its_largest_number() -> None:
    spec = TensorSpec("x", ("batch", 4), "float16", (-1000.0, 1000.0))
    assert "large" not in variants([spec], {}, 0)


def test_inputs_move_by_a_rounding() -> None:
    feeds = variants([IMAGE], {}, 0)["normal"]
    moved, size = perturbed([IMAGE], feeds, 0)
    change = np.abs(moved["image"] - feeds["image"])
    assert 0 < change.max() <= 255 * size * 1.01
    assert size == np.finfo(np.float32).eps


# ---------------------------------------------------------------- what has to be met


def test_a_constant_answer_is_no_fault() -> None:
    found = held(Function(pooled), pooled)
    assert set(found) == {"normal", "zeros", "highest", "large"}
    assert all(comparison.passed and comparison.problem is None for comparison in found.values())


def test_what_goes_wrong_far_out_alone_is_found() -> None:
    def clipped(image: Any) -> Any:
        return pooled(np.clip(image, 0, 255))

    found = held(Function(pooled), clipped)
    assert {kind for kind, comparison in found.items() if not comparison.passed} == {"large"}
    assert found["large"].condition < 10


def test_what_goes_wrong_at_zero_alone_is_found() -> None:
    def shifted(image: Any) -> Any:
        return pooled(image) + np.float32(0.1 if not image.any() else 0)

    found = held(Function(pooled), shifted)
    assert {kind for kind, comparison in found.items() if not comparison.passed} == {"zeros"}


def test_where_the_model_magnifies_rounding_it_is_measured_and_said() -> None:
    def otherwise(image: Any) -> Any:
        stripes = np.arange(8, dtype=np.float32)[None, :, None, None] % 2
        return normalized(image + np.float32(1.6e-5) * stripes)

    found = held(Function(normalized), otherwise)
    assert found["highest"].scaled_error > 2**-14
    assert found["highest"].passed
    assert found["highest"].condition > 1e3
    assert found["normal"].passed
    assert found["normal"].condition == 1


def test_the_condition_is_no_excuse_for_a_wrong_model() -> None:
    found = held(Function(pooled), lambda image: pooled(image) * np.float32(1.001))
    assert not any(found[kind].passed for kind in ("normal", "highest", "large"))


@pytest.mark.parametrize("wrong", [-400.0, 500.0])
def test_a_discontinuity_does_not_let_anything_pass(wrong: float) -> None:
    """The condition has no bound there: an answer must be like those that the framework jumps between."""

    def threshold(image: Any) -> Any:
        return (image > 0).astype(np.float32)

    def other_side(image: Any) -> Any:
        return (image >= 0).astype(np.float32)

    def broken(image: Any) -> Any:
        return np.where(image == 0, np.float32(wrong), threshold(image))

    found = held(Function(threshold), other_side)["zeros"]
    assert (found.passed, found.max_abs) == (True, 1.0)
    assert not held(Function(threshold), broken)["zeros"].passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_on_both_sides_agrees(value: float) -> None:
    def broken(image: Any) -> Any:
        return pooled(image) if image.any() else np.full((1, 3), value, np.float32)

    assert all(comparison.passed for comparison in held(Function(broken), broken).values())
    assert not held(Function(broken), pooled)["zeros"].passed
    assert not held(Function(pooled), broken)["zeros"].passed


def test_a_framework_that_refuses_is_quoted() -> None:
    def refusing(image: Any) -> Any:
        if not image.any():
            raise SourceError("an empty image")
        return pooled(image)

    found = held(Function(refusing), pooled)
    assert found["zeros"].problem == "the framework does not run on these: an empty image"
    assert found["highest"].problem is None


# ---------------------------------------------------------------- in a conversion


def test_a_conversion_runs_all_kinds_in_the_real_range(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.InstanceNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)
    )
    cut = converter.load(model.eval(), example=torch.zeros(1, 3, 12, 12)).cut()
    document = cut.save(tmp_path).as_dict()
    samples = {c["sample"] for c in document["validation"]["comparisons"]}
    assert samples == {"", "normal", "zeros", "lowest", "highest", "large"}
    assert document["validation"]["status"] == "passed"
