"""Trained weights and real images: pieces judge the held-out digits as the framework's own model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import converter
from fixtures.digits import keras_digits, torch_digits
from fixtures.digits.data import digits

HERE = Path(keras_digits.__file__).parent


def run(folder: Path, role: str, value: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / f"{role}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def opened(framework: str) -> tuple[converter.Model, np.ndarray, np.ndarray]:
    """The trained model, the held-out images as it takes them, and the framework's own answer."""
    images = digits().test_images
    if framework == "keras":
        import keras

        fed = images[..., None]
        answer = keras.models.load_model(keras_digits.FILE).predict(fed, verbose=0)
        return converter.load(keras_digits.FILE), fed, answer
    import torch
    from safetensors.torch import load_file

    fed = images[:, None]
    net = torch_digits.build()
    net.load_state_dict(load_file(torch_digits.FILE))
    with torch.no_grad():
        answer = net.eval()(torch.from_numpy(fed)).numpy()
    factory = f"{HERE / 'torch_digits.py'}:build"
    return converter.load(factory, weights=str(torch_digits.FILE), example=("1x1x8x8",)), fed, answer


@pytest.mark.parametrize(
    ("framework", "layer"),
    [("keras", "pool1"), ("keras", "features"), ("torch", "trunk.3"), ("torch", "features")],
)
def test_pieces_of_trained_models_judge_as_the_model_does(framework: str, layer: str, tmp_path: Path) -> None:
    model, images, answer = opened(framework)
    np.savez(tmp_path / "images.npz", image=images[:64])
    document = model.cut(split=layer).save(tmp_path / "out", samples=tmp_path / "images.npz")
    assert document.proof.passed
    assert model.info.trained
    judged = run(tmp_path / "out", "head", run(tmp_path / "out", "trunk", images))
    labels = digits().test_labels
    assert (answer.argmax(1) == labels).mean() > 0.97
    np.testing.assert_allclose(judged, answer, atol=1e-4 * np.abs(answer).max())
    assert (judged.argmax(1) == answer.argmax(1)).all()


def test_an_untrained_model_of_the_same_kind_does_not_pass_for_it(tmp_path: Path) -> None:
    """The comparison above can fail."""
    _, images, answer = opened("torch")
    factory = f"{HERE / 'torch_digits.py'}:build"
    untrained = converter.load(factory, weights="random", example=("1x1x8x8",))
    untrained.cut().save(tmp_path)
    judged = run(tmp_path, "model", images)
    assert (judged.argmax(1) == answer.argmax(1)).mean() < 0.5
    assert not untrained.info.trained
