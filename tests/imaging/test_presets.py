"""The tables of presets, held to the packages that they are of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from converter.imaging import Preprocess
from converter.imaging.presets import PRESETS, plain_name
from converter.model import TensorSpec

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


def test_keras_names_do_what_keras_does(graph: Callable[..., Any]) -> None:
    modules = _applications()
    assert len(modules) > 50
    seen = {}
    for name, module in modules.items():
        expected = module.preprocess_input(PIXELS.astype(np.float32), data_format="channels_last")
        chosen = Preprocess.parse(f"keras:{name}")
        got = chosen.run(PIXELS.astype(np.float32), 3)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0, err_msg=name)
        first = chosen.run(np.moveaxis(PIXELS, 3, 1), 1)
        np.testing.assert_array_equal(first, np.moveaxis(got, 3, 1), err_msg=name)
        seen[chosen.steps] = (name, expected)
    assert len(seen) == 4  # modes
    for name, expected in seen.values():
        for shape in (("b", 5, 6, 3), ("b", 3, 5, 6), ("b", 3, "h", "w")):
            made = graph(f"keras:{name}", TensorSpec("x", shape, "float32"), PIXELS)
            made = np.moveaxis(made, 1, 3) if shape[1] == 3 else made
            np.testing.assert_allclose(made, expected, atol=1e-6, rtol=0, err_msg=name)


def test_every_name_of_keras_is_one_of_keras() -> None:
    names = {name.removeprefix("keras:") for name in PRESETS if name.startswith("keras:")}
    assert names == {plain_name(name) for name in _applications()}


def _weights() -> dict[str, Any]:
    """Classification models of torchvision → the transforms of their default weights."""
    from converter.sources.torch import backend

    models = backend.torchvision().models
    return {name: models.get_model_weights(name).DEFAULT.transforms() for name in models.list_models(models)}


def test_torchvision_names_are_what_torchvision_does() -> None:
    """The words are made of all fields that `ImageClassification.forward` of torchvision reads."""
    transforms = _weights()
    assert len(transforms) > 75
    names = {name.removeprefix("torchvision:") for name in PRESETS if name.startswith("torchvision:")}
    assert names == {plain_name(name) for name in transforms}
    for name, made in transforms.items():
        assert type(made).__name__ == "ImageClassification"
        assert made.antialias is True
        (short,), (crop,) = made.resize_size, made.crop_size
        mean, std = ("|".join(map(repr, values)) for values in (made.mean, made.std))
        sizes = f"resize(short={short},{made.interpolation.value}),crop({crop})"
        expected = f"{sizes},scale(1/255),normalize({mean},{std})"
        spec = TensorSpec("x", ("b", 3, crop, crop), "float32")
        got, wanted = Preprocess.parse(f"torchvision:{name}"), Preprocess.parse(expected)
        got.check(spec)
        same = str(got).replace("normalize(0.5,0.5)", "normalize(0.5|0.5|0.5,0.5|0.5|0.5)")
        assert same == str(wanted), name


SIZES = [(333, 500), (500, 333), (100, 75), (97, 301), (256, 256), (301, 240), (640, 480)]


def test_every_preset_of_torchvision_on_images(
    build: Callable[..., Any], load: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    """One model of each of the different transforms."""
    from PIL import Image

    presets = {Preprocess.parse(f"torchvision:{name}").steps: (name, t) for name, t in _weights().items()}
    assert len(presets) > 20
    for name, transforms in presets.values():
        (crop,) = transforms.crop_size
        spec = TensorSpec("x", ("b", 3, crop, crop), "float32")
        words, model = Preprocess.parse(f"torchvision:{name}"), build(spec)
        words.build(model, spec)
        session = load(model)
        for size in SIZES[:3]:
            image = picture(*size, "smooth")
            expected = transforms(Image.fromarray(image))[None].numpy()
            np.testing.assert_allclose(
                words.apply(image[None], spec), expected, atol=2e-6, rtol=0, err_msg=name
            )
            got = session.run({"x": image[None]})["out"]
            error = np.abs(got - expected) * np.reshape(transforms.std, (1, 3, 1, 1)) * 255
            assert error.max() < 2.01, name
            assert (error > 0.5).mean() < 0.02, name


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3", "efficientnet_v2_l"])
def test_torchvision_on_images(
    name: str, kind: str, build: Callable[..., Any], load: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    """The figures of docs/preprocess.md, in steps of 1/255 before normalising."""
    from PIL import Image

    transforms = _weights()[name]
    (crop,) = transforms.crop_size
    spec = TensorSpec("x", ("b", 3, crop, crop), "float32")
    words = Preprocess.parse(f"torchvision:{name}")
    model = build(spec)
    words.build(model, spec)
    session = load(model)
    steps = np.reshape(transforms.std, (1, 3, 1, 1)) * 255
    off = total = 0
    for size in SIZES:
        image = picture(*size, kind)
        expected = transforms(Image.fromarray(image))[None].numpy()
        reference = words.apply(image[None], spec)
        np.testing.assert_allclose(reference, expected, atol=2e-6, rtol=0)  # every pixel is Pillow's
        got = session.run({"x": image[None]})["out"]
        error = np.abs(got - expected) * steps
        assert error.max() < (2.01 if kind == "noise" else 1.01), size
        off += (error > 0.5).sum()
        total += error.size
    assert off / total < (0.01 if kind == "noise" else 0.005)


@pytest.mark.parametrize(("name", "most"), [("resnet50", 1.01), ("efficientnet_b0", 1.01)])
def test_torchvision_on_tensors(
    name: str, most: float, graph: Callable[..., Any], picture: Callable[..., Any]
) -> None:
    """On uint8 tensors torchvision rounds once instead of twice: a step of 1/255 in a fifth of the values."""
    import torch

    transforms = _weights()[name]
    spec = TensorSpec("x", ("b", 3, 224, 224), "float32")
    steps = np.reshape(transforms.std, (1, 3, 1, 1)) * 255
    for size in SIZES[:4]:
        image = picture(*size, "smooth")
        expected = transforms(torch.from_numpy(image).permute(2, 0, 1))[None].numpy()
        got = graph(f"torchvision:{name}", spec, image[None])
        assert (np.abs(got - expected) * steps).max() < most
