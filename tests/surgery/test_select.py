from __future__ import annotations

import pytest

from converter.errors import CutError
from converter.model import Boundary, Layer, TensorSpec
from converter.surgery import select


def layer(name: str, *keys: str) -> Layer:
    names = [f"{name}:{key}" for key in keys] or [name]
    boundaries = tuple(Boundary(TensorSpec(n, ("batch", 4), "float32"), f"value/{n}") for n in names)
    return Layer(name, "Dense", boundaries, 0, 0, 0)


LAYERS = [
    layer("block1_conv1"),
    layer("block1_pool"),
    layer("block2_pool"),
    layer("encoder/dense"),
    layer("encoder"),
    layer("relu@0"),
    layer("relu@1"),
    layer("lstm", "0", "1"),
]


def names(*patterns: str) -> list[str]:
    return [boundary.name for boundary in select(patterns, LAYERS, ["image"])]


def test_a_name_is_its_layer() -> None:
    assert names("block1_pool") == ["block1_pool"]
    assert names("encoder/dense", "encoder") == ["encoder/dense", "encoder"]


def test_a_layer_with_several_tensors_is_all_of_them_or_one() -> None:
    assert names("lstm") == ["lstm:0", "lstm:1"]
    assert names("lstm:1") == ["lstm:1"]


def test_globs_keep_execution_order_and_stop_at_slashes() -> None:
    assert names("block*_pool") == ["block1_pool", "block2_pool"]
    assert names("enc*") == ["encoder"]
    assert names("*/dense") == ["encoder/dense"]
    assert names("relu@*") == ["relu@0", "relu@1"]


def test_each_boundary_once() -> None:
    assert names("block1_pool", "block*_pool") == ["block1_pool", "block2_pool"]


def test_an_ambiguous_call_lists_the_calls() -> None:
    with pytest.raises(CutError, match="called 2 times: relu@0, relu@1"):
        names("relu")


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(CutError, match="block1_pool") as error:
        names("blok1_pool")
    assert "no layer is called 'blok1_pool'" in str(error.value)
    with pytest.raises(CutError, match="encoder/dense"):
        names("dense")


def test_a_glob_that_matches_nothing() -> None:
    with pytest.raises(CutError, match="no layer matches 'block9"):
        names("block9_*")


def test_an_input_is_no_layer() -> None:
    with pytest.raises(CutError, match="'image' is an input of the model"):
        names("image")
