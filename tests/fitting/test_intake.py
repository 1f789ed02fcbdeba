from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.fitting.intake import Intake
from converter.imaging import Layout, Preprocess
from converter.model import TensorSpec


def intake(shape: tuple[int | str, ...], dtype: str = "float32", preprocess: str = "none") -> Intake:
    return Intake(TensorSpec("image", shape, dtype), Preprocess.parse(preprocess))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("b", 8, 9, 3), Layout(3, 3, 8, 9)),
        (("b", 3, 8, 9), Layout(1, 3, 8, 9)),
        (("b", 1, 8, 9), Layout(1, 1, 8, 9)),
        (("b", 3, 8, 3), Layout(3, 3, 3, 8)),
        (("b", 1, "h", "w"), Layout(1, 1, None, None)),
        (("b", "h", "w", 1), Layout(3, 1, None, None)),
        ((4, "h", 9, 3), Layout(3, 3, None, 9)),
    ],
)
def test_layouts(shape: tuple[Any, ...], expected: Layout) -> None:
    assert Layout.of(TensorSpec("image", shape, "float32")) == expected


@pytest.mark.parametrize(
    "shape", [("b", 10), ("b", 8, 3), ("b", 8, 8, 4), ("b", "c", "h", "w"), ("b", 8, 3, 8)]
)
def test_no_images(shape: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match="no batch of images"):
        Layout.of(TensorSpec("x", shape, "float32"))


def test_preprocessing_that_does_not_go_with_the_input() -> None:
    with pytest.raises(UsageError, match="scale makes fractions, but the model takes image: uint8"):
        intake(("b", 8, 8, 3), "uint8", "scale")
    with pytest.raises(UsageError, match="imagenet takes 3 channels"):
        intake(("b", 8, 8, 1), preprocess="imagenet")
    with pytest.raises(UsageError, match="no batch of images"):
        intake(("b", 10), preprocess="keras:vgg16")
    with pytest.raises(UsageError, match="resizes or crops") as caught:
        intake(("b", 8, 8, 3), preprocess="torchvision:efficientnet_v2_l")
    assert caught.value.hint == "--preprocess 'scale(1/255),normalize(0.5,0.5)'"
    intake(("b", 10), preprocess="scale")
    intake(("b", 8, 8, 3), "uint8", "keras:convnext_tiny".replace("_", ""))


@pytest.mark.parametrize("dtype", ["bfloat16", "string", "unknown", "sequence(tensor(float))", "complex64"])
def test_inputs_for_which_no_data_are_read(dtype: str) -> None:
    with pytest.raises(UsageError, match="no data are read"):
        intake(("b", 4), dtype)


@pytest.mark.parametrize(
    ("shape", "got"),
    [(("b", 4), (7, 5)), (("b", 4), (7, 4, 1)), (("b", "n", 4), (7, 4)), (("b", 8, "n"), (7, 7, 3))],
)
def test_shapes(shape: tuple[Any, ...], got: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"x has shape .* expected image: float32"):
        intake(shape).accept("x", got, np.dtype(np.float32))


@pytest.mark.parametrize(
    ("wanted", "taken", "refused"),
    [
        ("float32", "float16 float32 float64 >f4 uint8", "int64 int8 bool complex64 U3"),
        ("float16", "float32 uint8", "uint16"),
        ("int64", "int8 uint16 int64 uint64", "float32 bool U3"),
        ("uint8", "uint8 int64", "float32"),
        ("bool", "bool", "uint8 float32"),
    ],
)
def test_dtypes(wanted: str, taken: str, refused: str) -> None:
    room = intake(("b", 2), wanted)
    for name in taken.split():
        room.accept("x", (5, 2), np.dtype(name))
    for name in refused.split():
        with pytest.raises(UsageError, match=f"expected {wanted}"):
            room.accept("x", (5, 2), np.dtype(name))


def test_values_are_cast_and_preprocessed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    plain = intake(("b", 4, 4, 3)).take("x", pixels, 0)
    assert plain.dtype == np.float32
    np.testing.assert_array_equal(plain, pixels)
    half = intake(("b", 4, 4, 3), "float16", "scale").take("x", pixels, 0)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, pixels / 255, atol=1e-3)
    first = intake(("b", 3, 4, 4), preprocess="keras:vgg16").take("x", np.moveaxis(pixels, 3, 1), 0)
    np.testing.assert_allclose(first[:, 0], pixels[..., 2] - 103.939, atol=1e-4)
    assert first.flags.c_contiguous
    assert intake(("b", 3, 4, 4)).take("x", np.moveaxis(pixels, 3, 1), 0).flags.c_contiguous
    assert intake(("b", 2), "bool").take("x", np.array([[True, False]]), 0).tolist() == [[True, False]]


@pytest.mark.parametrize("value", [-0.1, 256.0, np.nan, np.inf])
def test_what_is_no_pixel_is_not_preprocessed(value: float) -> None:
    x = np.full((3, 2, 2, 3), 7.0)
    x[1, 0, 1, 2] = value
    with pytest.raises(UsageError, match=rf"x: sample 11 has the value {value}.*pixels of 0 to 255"):
        intake(("b", 2, 2, 3), preprocess="scale").take("x", x, 10)


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float32"), (-np.inf, "float32"), (1e39, "float32"), (7e4, "float16")]
)
def test_values_that_are_no_finite_numbers(value: float, dtype: str) -> None:
    x = np.zeros((3, 2))
    x[2, 1] = value
    with pytest.raises(UsageError, match=f"x: sample 12 has the value .*, no finite {dtype}"):
        intake(("b", 2), dtype).take("x", x, 10)


def test_token_ids_stay_within_their_dtype() -> None:
    ids = np.array([[0, 127], [-128, 3]])
    assert intake(("b", 2), "int8").take("x", ids, 0).dtype == np.int8
    for value, dtype in ((128, "int8"), (-129, "int8"), (-1, "uint8"), (2**31, "int32")):
        ids = np.array([[0, 5], [1, value], [value, value]])
        with pytest.raises(UsageError, match=f"sample 4 has the value {value}, beyond {dtype}"):
            intake(("b", 2), dtype).take("x", ids, 3)
    with pytest.raises(UsageError, match="beyond int64"):
        intake(("b", 1), "int64").take("x", np.array([[2**63]], np.uint64), 0)


def test_words_tell_apart_what_differs() -> None:
    words = [
        intake(*arguments).words
        for arguments in (
            (("b", 4, 4, 3),),
            (("b", 3, 4, 4),),
            (("b", 4, 4, 3), "float16"),
            (("b", 4, 4, 3), "float32", "scale"),
            (("b", 4, 4, 3), "float32", "keras:vgg16"),
        )
    ]
    assert len(set(words)) == 5
    assert intake(("b", 4, 4, 3), "float32", "keras:vgg19").words == words[-1]  # the same arithmetic
