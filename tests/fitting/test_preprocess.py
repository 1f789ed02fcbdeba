from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.fitting import Preprocess

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)


def _applications() -> dict[str, Any]:
    """Modules and models of keras.applications by lower name → their module."""
    import keras

    found = {}
    for name in dir(keras.applications):
        value = getattr(keras.applications, name)
        if hasattr(value, "preprocess_input") and name != "imagenet_utils":
            found[name] = value
        elif name[0].isupper():
            found[name] = importlib.import_module(value.__module__)
    return found


def test_keras_names_do_what_keras_does() -> None:
    modules = _applications()
    assert len(modules) > 50
    seen = set()
    for name, module in modules.items():
        expected = module.preprocess_input(PIXELS.astype(np.float32), data_format="channels_last")
        chosen = Preprocess.named(f"keras:{name}")
        got = chosen.apply(PIXELS, 3)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=name)
        first = chosen.apply(np.moveaxis(PIXELS, 3, 1), 1)
        np.testing.assert_array_equal(first, np.moveaxis(got, 3, 1), err_msg=name)
        seen.add(tuple(np.round(got.ravel()[:3], 3)))
    assert len(seen) == 4  # modes


def test_every_name_is_one_of_keras() -> None:
    from converter.fitting.preprocess import _FAMILIES

    assert set(_FAMILIES) == {name.casefold().replace("_", "") for name in _applications()}


def test_imagenet_is_torchvisions() -> None:
    from converter.sources.torch import backend

    models = backend.torchvision().models
    transform = models.get_model_weights("resnet50").DEFAULT.transforms()
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (transform.mean, transform.std))
    pixels = np.moveaxis(PIXELS, 3, 1)
    got = Preprocess.named("imagenet").apply(pixels, 1)
    np.testing.assert_allclose(got, (pixels / 255 - mean) / std, atol=1e-5, rtol=0)


def test_scale_and_none() -> None:
    scaled = Preprocess.named("scale").apply(PIXELS)
    np.testing.assert_allclose(scaled, PIXELS / 255, atol=1e-7, rtol=0)
    plain = Preprocess.named("none")
    np.testing.assert_array_equal(plain.apply(PIXELS), PIXELS)
    assert [p.changes for p in (plain, Preprocess.named("scale"), Preprocess.named("keras:vgg16"))] == [
        False,
        True,
        True,
    ]


def test_the_input_is_left_alone() -> None:
    values = PIXELS.astype(np.float32)
    Preprocess.named("imagenet").apply(values, 3)
    np.testing.assert_array_equal(values, PIXELS)


def test_case_and_underscores_do_not_matter() -> None:
    for name in ("keras:MobileNetV2", "keras:mobilenet_v2", "keras:mobilenetv2"):
        assert Preprocess.named(name).apply(PIXELS)[0, 0, 0, 0] == pytest.approx(
            PIXELS[0, 0, 0, 0] / 127.5 - 1
        )


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("keras:vgg61", "keras:vgg16"),
        ("imagnet", "the nearest names are imagenet"),
        ("keras:", "keras:"),
        ("vgg16", "keras:vgg16"),
        ("", "imagenet"),
        ("none:", "none"),
    ],
)
def test_an_unknown_name_lists_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UsageError, match="no such name") as caught:
        Preprocess.named(text)
    assert near in (caught.value.hint or "")
