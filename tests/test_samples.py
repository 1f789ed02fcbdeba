from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import UsageError
from converter.model import TensorSpec
from converter.pipeline import whole
from converter.samples import draw, expect_samples, read_samples, vocabularies

IMAGE = TensorSpec("image", ("batch", 16, 16, 3), "float32", value_range=(0.0, 255.0))


def test_drawn_images_fill_their_range_and_differ() -> None:
    one, three = draw([IMAGE], {}, seed=0)
    assert (one["image"].shape, three["image"].shape) == ((1, 16, 16, 3), (3, 16, 16, 3))
    values = three["image"]
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() <= 255
    assert np.ptp(values) > 100
    means = values.mean(axis=(1, 2, 3))
    assert np.ptp(means) > 5  # what averages over an image still tells them apart
    assert values[0].std() > 10


def test_inputs_without_a_known_range_have_both_signs() -> None:
    for shape in (("batch", 8), ("batch", 12, 4), ("batch", 8, 8, 3)):
        values = draw([TensorSpec("x", shape, "float32")], {}, seed=1)[1]["x"]
        assert values.min() < 0 < values.max()


def test_seeds() -> None:
    first, again, other = (draw([IMAGE], {}, seed=s)[1]["image"] for s in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_symbolic_sizes_and_fixed_batches() -> None:
    spec = TensorSpec("ids", ("batch", "ids_dim1"), "int32")
    assert draw([spec], {"ids": 7}, 0)[0]["ids"].shape == (1, 12)
    fixed = draw([TensorSpec("x", (2, 4), "float32")], {}, 0)
    assert [feeds["x"].shape for feeds in fixed] == [(2, 4), (2, 4)]
    assert not np.array_equal(fixed[0]["x"], fixed[1]["x"])


def test_bool_and_integers() -> None:
    feeds = draw([TensorSpec("m", ("batch", 100), "bool"), TensorSpec("n", ("batch", 100), "int64")], {}, 0)
    assert 0 < feeds[1]["m"].sum() < 300
    assert feeds[1]["n"].dtype == np.int64


def test_vocabularies_come_from_the_graph(structure: Any) -> None:
    source = converter.load(structure("text_lstm"))._source
    assert vocabularies(whole(source).graph) == {"ids": 50}
    drawn = draw(source.inputs, {"ids": 50}, 0)[1]["ids"]
    assert drawn.min() >= 0
    assert 40 < drawn.max() < 50


def test_pixels_vary_as_images_do() -> None:
    spec = TensorSpec("image", ("batch", "height", "width", 3), "uint8", (0.0, 255.0))
    values = draw([spec], {}, 0)[1]["image"]
    assert values.dtype == np.uint8
    assert np.ptp(values) > 100
    assert np.ptp(values.mean(axis=(1, 2, 3))) > 5


def test_npz_and_npy(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 16, 16, 3)) * 255
    np.savez(tmp_path / "a.npz", values)
    np.save(tmp_path / "a.npy", values)
    for name in ("a.npz", "a.npy"):
        first, whole_batch = read_samples(tmp_path / name, [IMAGE])
        assert first["image"].shape == (1, 16, 16, 3)
        assert whole_batch["image"].dtype == np.float32
        assert np.array_equal(whole_batch["image"], values.astype("float32"))


def test_an_array_of_another_name_is_not_taken_for_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", whatever=np.random.default_rng(0).random((4, 16, 16, 3)) * 255)
    for read in (read_samples, expect_samples):
        with pytest.raises(UsageError, match="no array for the input 'image', got 'whatever'"):
            read(tmp_path / "a.npz", [IMAGE])


@pytest.mark.parametrize("names", [("a", "b"), ("b", "c")], ids=["the source's", "the new ones"])
def test_renamed_inputs_are_known_by_either_set_of_names(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: np.ones((2, 3), "f4"), names[1]: np.zeros((2, 3), "f4")})
    specs = [TensorSpec(name, ("batch", 3), "float32") for name in "bc"]
    whole = read_samples(tmp_path / "a.npz", specs, known_as={"b": "a", "c": "b"})[-1]
    assert whole["b"].all()
    assert not whole["c"].any()


def test_headers_are_held_against_the_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 16, 16, 3), "float32"))
    expect_samples(tmp_path / "a.npz", [IMAGE])
    expect_samples(tmp_path / "a.npz", [])
    np.savez(tmp_path / "b.npz", image=np.zeros((4, 16, 8, 3), "float32"))
    with pytest.raises(UsageError, match="has shape"):
        expect_samples(tmp_path / "b.npz", [IMAGE])
    with pytest.raises(UsageError, match="not a readable"):
        expect_samples(tmp_path / "c.npz", [])


@pytest.mark.parametrize(
    ("array", "dtype", "words"),
    [
        (np.array([[2**33]]), "int32", "values that int32 does not hold"),
        (np.array([[1e6]]), "float16", "values that are infinite in float16"),
    ],
)
def test_values_that_the_input_cannot_hold(tmp_path: Path, array: Any, dtype: str, words: str) -> None:
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(UsageError, match=words):
        read_samples(tmp_path / "a.npz", [TensorSpec("x", ("batch", 1), dtype)])


def test_inputs_without_a_batch_stand_beside_those_with_one(tmp_path: Path) -> None:
    arrays = {"x": np.ones((5, 4), "f4"), "s": np.float32(0.5), "t": np.ones(4, "f4")}
    np.savez(tmp_path / "a.npz", **arrays)
    specs = [
        TensorSpec("x", ("batch", 4), "float32"),
        TensorSpec("s", (), "float32"),
        TensorSpec("t", (4,), "float32"),
    ]
    (batch,) = read_samples(tmp_path / "a.npz", specs)
    assert {name: array.shape for name, array in batch.items()} == {"x": (5, 4), "s": (), "t": (4,)}


def test_counts_must_agree(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 3), "float32"), b=np.zeros((3, 3), "float32"))
    specs = [TensorSpec(n, ("batch", 3), "float32") for n in "ab"]
    with pytest.raises(UsageError, match="differ in their number of samples"):
        read_samples(tmp_path / "a.npz", specs)


def test_integers_for_integers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.zeros((2, 12), "float32"))
    with pytest.raises(UsageError, match="ids is float32, expected int32"):
        read_samples(tmp_path / "a.npz", [TensorSpec("ids", ("batch", 12), "int32")])


@pytest.mark.parametrize(
    ("scale", "shift"), [(1 / 255, 0.0), (1.0, 2000.0), (20.0, -2000.0)], ids=["in a corner", "above", "wide"]
)
def test_samples_of_another_range_are_refused(tmp_path: Path, scale: float, shift: float) -> None:
    pixels = np.random.default_rng(0).random((4, 16, 16, 3)) * 255
    np.save(tmp_path / "a.npy", pixels * scale + shift)
    with pytest.raises(UsageError, match="the model expects 0 to 255"):
        read_samples(tmp_path / "a.npy", [IMAGE])
