"""The largest batch that fits: how many samples that is, and how they are held to the framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter import capacity, preflight
from converter.errors import UsageError, ValidationError
from fixtures.onnx_text import saved

MEGABYTE = 10**6


class Machine:
    """A machine on which a run takes some memory, so much more a sample, and so much to compare."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, left: int | None, sample: int, answer: int
    ) -> None:
        self.held, self.sample, self.answer = 500 * MEGABYTE, sample, answer
        self.batches: list[int] = []
        monkeypatch.setattr(capacity.memory, "resident", lambda processes: self.held)
        monkeypatch.setattr(preflight, "budget", lambda held: None if left is None else held + left)

    def run(self, rows: int) -> int:
        self.batches.append(rows)
        self.held = 500 * MEGABYTE + rows * self.sample
        return rows * self.answer


def test_memory_sets_how_many_samples_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, left=4000 * MEGABYTE, sample=8 * MEGABYTE, answer=MEGABYTE)
    assert capacity.rows_that_fit(machine.run, on_cpu=True) == 100  # half of 4 GB at 8 + 12 MB
    assert machine.batches == [2, 6]


@pytest.mark.parametrize(
    ("left", "rows"), [(10**12, capacity.MOST), (MEGABYTE, 6), (None, 6)], ids=["much", "little", "unknown"]
)
def test_neither_more_than_is_of_use_nor_less_than_has_run(
    monkeypatch: pytest.MonkeyPatch, left: int | None, rows: int
) -> None:
    machine = Machine(monkeypatch, left=left, sample=MEGABYTE, answer=0)
    assert capacity.rows_that_fit(machine.run, on_cpu=True) == rows


SEQUENCE = "g (float[T,1,4] x) => (float[T,1,1,3] y) { y = LSTM<hidden_size=3>(x, w, r) }"
SCALAR = "g (float[N,4] x) => (float[N,4] y, float m) { y = Tanh(x) m = ReduceMean<keepdims=0>(y) }"
WEIGHT = "g (float[N,4] x) => (float[N,3] y, float[4,3] w) { y = MatMul(x, w) }"


@pytest.mark.parametrize(
    ("text", "name", "shapes"),
    [
        (SEQUENCE, "y", {"w": (1, 12, 4), "r": (1, 12, 3)}),
        (SCALAR, "m", {}),
        (WEIGHT, "w", {"w": (4, 3)}),
    ],
    ids=["a sequence", "a mean of all", "a weight"],
)
def test_no_largest_batch_where_samples_depend_on_one_another(
    tmp_path: Path, text: str, name: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(0)
    weights = {key: rng.normal(size=shape).astype("f4") for key, shape in shapes.items()}
    cut = converter.load(saved(text, tmp_path, weights=weights)).cut()
    cut.save(tmp_path / "out")
    with pytest.raises(UsageError, match=f"^{name} of several samples is not that of each by itself"):
        cut.save(tmp_path / "out", largest_batch=True)


def device(memory: int) -> Callable[[int], int]:
    def run(rows: int) -> int:
        if rows > memory:
            raise ValidationError("out of memory")
        return 0

    return run


def test_a_device_says_itself_what_is_too_much() -> None:
    assert capacity.rows_that_fit(device(100), on_cpu=False) == 64
    with pytest.raises(ValidationError):
        capacity.rows_that_fit(device(0), on_cpu=False)


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()


def test_the_framework_is_asked_in_parts() -> None:
    source = converter.load(model(), example=torch.zeros(1, 3, 6, 6))._source
    feeds = {"input": np.random.default_rng(0).normal(size=(21, 3, 6, 6)).astype("f4")}
    wanted = list(source.outputs)
    whole, parts = source.run(feeds, wanted), capacity.InParts(source).run(feeds, wanted)
    assert parts.keys() == whole.keys()
    for value, array in whole.items():
        assert parts[value].shape == array.shape
        np.testing.assert_allclose(parts[value], array, atol=1e-6)


def test_a_conversion_is_proven_on_the_largest_batch(tmp_path: Path) -> None:
    cut = converter.load(model(), example=torch.zeros(1, 3, 6, 6)).cut(split="0")
    found = cut.save(tmp_path, largest_batch=True).as_dict()["validation"]["comparisons"]
    large = [c for c in found if c["batch"] > 3]
    assert {c["piece"] for c in large} == {"trunk", "head", "head∘trunk"}
    assert {c["batch"] for c in large} == {capacity.MOST}
    assert all(c["passed"] for c in large)


def test_a_fixed_batch_is_as_large_as_it_is(tmp_path: Path) -> None:
    cut = converter.load(model(), example=torch.zeros(1, 3, 6, 6)).cut(batch=2)
    with pytest.raises(UsageError, match="takes any batch"):
        cut.save(tmp_path, largest_batch=True)
