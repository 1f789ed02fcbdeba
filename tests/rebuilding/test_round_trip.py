"""Keras → ONNX → PyTorch → ONNX → Keras: the same function, the same number of parameters, and the names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import converter
from converter.samples import draw

LIMIT = 1e-4


def around(model: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
    """The model in PyTorch, and in Keras again; inputs by name at two batch sizes."""
    torch = pytest.importorskip("torch")
    cut = converter.load(model).cut()
    module = cut.native("torch")
    batches = draw(cut.pieces[0].inputs, {"tokens": 30, "ids": 30}, 7)
    example = tuple(torch.from_numpy(array) for array in batches[-1].values())
    back = converter.load(module, example=example).cut().native("keras")
    return module, back, batches


def scaled_errors(model: Any, back: Any, batches: list[dict[str, Any]]) -> list[float]:
    import keras

    errors = []
    for feeds in batches:
        values = list(feeds.values())
        given = values[0] if len(values) == 1 else values
        wanted, got = (
            [np.asarray(array) for array in keras.tree.flatten(m(given, training=False))]
            for m in (model, back)
        )
        # Outputs of dictionaries come in the order of their keys, and in PyTorch as a tuple.
        assert [a.shape for a in wanted] == [b.shape for b in got]
        errors += [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(wanted, got, strict=True)]
    return errors


@pytest.mark.parametrize(
    "name",
    ["sequential", "residual", "nested", "shared_layer", "siamese", "attention", "subclassed", "unet"],
)
def test_there_and_back(structure: Any, name: str) -> None:
    model = structure(name)
    module, back, batches = around(model)
    assert max(scaled_errors(model, back, batches)) <= LIMIT
    held = [*module.parameters(), *(b for n, b in module.named_buffers() if not n.endswith("_tracked"))]
    assert sum(tensor.numel() for tensor in held) == model.count_params()
    assert back.count_params() == model.count_params()
    weight = back.trainable_variables[0]
    weight.assign(weight + 1)  # the comparison can fail
    assert max(scaled_errors(model, back, batches)) > LIMIT


def test_an_application_keeps_its_layers_names() -> None:
    import keras

    from converter.sources.keras.applications import fresh_names

    with fresh_names():
        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=11)
    for layer in model.layers:  # fresh statistics would let the signal die away
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 0.05, np.float32))
    _, back, batches = around(model)
    assert max(scaled_errors(model, back, batches)) <= LIMIT
    assert back.count_params() == model.count_params()
    named = {layer.name for layer in model.layers if layer.weights}
    assert {layer.name for layer in back.layers if layer.weights} == named
