"""Heads: what they are read from, and that NumPy, Keras, PyTorch and ONNX make the same of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from converter.errors import UsageError
from converter.heads import ACTIVATIONS, Head
from converter.model import TensorSpec

# (head, shape with channels last, whether PyTorch has it with channels last)
CASES = [
    ("flatten,dense(7,relu),dense(5,softmax)", (3, 4, 5, 6)),
    ("gap,dropout(0.2),dense(10)", (3, 4, 5, 6)),
    ("gmp,batchnorm,dense(4,gelu)", (3, 4, 5, 6)),
    ("conv1x1(21)", (3, 4, 5, 6)),
    ("conv1x1(9,softmax),flatten", (3, 4, 5, 6)),
    ("batchnorm,relu,gap,dense(2,sigmoid)", (3, 4, 5, 6)),
    ("softmax", (3, 4, 5, 6)),
    ("gap,dense(3,tanh)", (3, 8, 6)),
    ("dense(4,relu),flatten,dense(1)", (3, 8, 6)),
    ("conv1x1(5),gmp", (3, 8, 6)),
    ("batchnorm,dense(4),gelu", (3, 6)),
    ("gap,dense(3)", (2, 3, 4, 5, 6)),
]


def weighted(text: str, shape: tuple[int, ...], *, channels_last: bool) -> Head:
    """The head with weights that all matter."""
    head = Head.parse(text).onto(shape, channels_last=channels_last, usual=channels_last, seed=3)
    rng = np.random.default_rng(5)
    drawn = {
        name: np.abs(rng.normal(1, 0.3, a.shape)).astype("f4")
        if ".variance" in name or ".gamma" in name
        else a + rng.normal(0, 0.3, a.shape).astype("f4")
        for name, a in head.weights.items()
    }
    return dataclasses.replace(head, weights=drawn)


def sample(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("f4")


def agree(got: Any, expected: np.ndarray) -> None:
    assert expected.std() > 1e-3
    np.testing.assert_allclose(got, expected, atol=2e-6 * max(1, np.abs(expected).max()), rtol=1e-5)


def first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[-1], *shape[1:-1]) if len(shape) > 3 else shape


@pytest.mark.parametrize(("text", "shape"), CASES)
def test_keras_layers_compute_the_head(text: str, shape: tuple[int, ...]) -> None:
    import keras

    from converter.sources.keras.heads import head_of, layers_of, put_weights

    head, x = weighted(text, shape, channels_last=True), sample(shape)
    layers = layers_of(head, len(shape), {unit.name: unit.name for unit in head.units})

    def run(value: Any) -> Any:
        for layer in layers:
            value = (
                layer(value, training=False)
                if "training" in layer._call_signature.parameters
                else layer(value)
            )
        return value

    run(keras.ops.convert_to_tensor(x))
    put_weights(head, layers)
    agree(np.asarray(run(keras.ops.convert_to_tensor(x))), head.run(x))
    again = head_of(head, layers)
    assert again.weights.keys() == head.weights.keys()
    assert all(np.array_equal(again.weights[name], array) for name, array in head.weights.items())


@pytest.mark.parametrize(("text", "shape"), CASES)
@pytest.mark.parametrize("last", [False, True])
def test_pytorch_modules_compute_the_head(text: str, shape: tuple[int, ...], last: bool) -> None:
    import torch

    from converter.sources.torch.heads import head_of, module_of

    shape = shape if last else first(shape)
    if "dense(4,relu),flatten" in text and not last and len(shape) > 3:
        pytest.skip("dense takes features")
    head, x = weighted(text, shape, channels_last=last), sample(shape)
    if last and len(shape) > 3 and text.startswith("batchnorm"):
        with pytest.raises(UsageError, match="channels that come last"):
            module_of(head, shape)
        return
    module = module_of(head, shape)
    with torch.no_grad():
        agree(module(torch.from_numpy(x)).numpy(), head.run(x))
    again = head_of(head, module)
    assert all(np.array_equal(again.weights[name], array) for name, array in head.weights.items())


@pytest.mark.parametrize(("text", "shape"), CASES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("opset", [9, 12, 13, 18, 22])
def test_onnx_graphs_compute_the_head(text: str, shape: tuple[int, ...], last: bool, opset: int) -> None:
    from converter.surgery.heads import head_model

    shape = shape if last else first(shape)
    head, x = weighted(text, shape, channels_last=last), sample(shape)
    model = head_model(head, TensorSpec("cut", ("batch", *shape[1:]), "float32"), opset)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"input": x})
    agree(got, head.run(x))


@pytest.mark.parametrize("text", ["flatten,dense(7,relu),dense(5,softmax)", "flatten,batchnorm,dense(3)"])
def test_a_head_answers_alike_in_both_layouts(text: str) -> None:
    """Fitted on features with channels last, it reads those with channels first in the right order."""
    shape = (3, 4, 5, 6)
    head, x = weighted(text, shape, channels_last=True), sample(shape)
    other = head.onto(first(shape), channels_last=False, usual=False)
    moved = np.moveaxis(x, -1, 1)
    agree(other.run(moved), head.run(x))
    assert not np.allclose(dataclasses.replace(head, channels_last=False).run(moved), head.run(x), atol=1e-3)
    back = other.onto(shape, channels_last=True, usual=True)
    assert all(np.array_equal(back.weights[name], array) for name, array in head.weights.items())


def test_the_activations_are_the_usual_ones() -> None:
    import torch
    from torch.nn import functional

    x = np.linspace(-4, 4, 60).reshape(3, 20)
    for name, function in ACTIVATIONS.items():
        options = {"dim": 1} if name == "softmax" else {}
        theirs = getattr(functional, name)(torch.from_numpy(x), **options).numpy()
        np.testing.assert_allclose(function(x, 1), theirs, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dense",
        "dense()",
        "dense(0)",
        "dense(-1)",
        "dense(5,relux)",
        "dense(5,relu,3)",
        "gap()",
        "gap(2)",
        "dropout(1)",
        "dropout(2)",
        "dropout",
        "flatten dense(3)",
        "flatten,",
        ",flatten",
        "lstm(4)",
        "dense(5",
        "dense(²)",
        "dense(99999999999)",
    ],
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Head.parse(text)


def test_a_head_is_shown_as_it_is_written() -> None:
    text = "flatten,dense(128,relu),dropout(0.25),dense(5,softmax)"
    assert str(Head.parse(f" {text.replace(',', ' , ')} ")) == text
    assert [unit.name for unit in Head.parse(text).units] == ["flatten", "dense", "dropout", "dense_1"]


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("gap", ("batch", 7), "images or sequences"),
        ("conv1x1(3)", ("batch", 7), "images or sequences"),
        ("flatten", ("batch", "height", 7), "fixed sizes"),
        ("dense(3)", ("batch", 8, 7, 5), "channels first"),
        ("dense(3)", ("batch", "width"), "fixed number of channels"),
        ("gap", ("batch", 7, 7, 768), "channels were last"),
    ],
)
def test_tensors_that_a_head_does_not_take(text: str, shape: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Head.parse(text).onto(shape, channels_last=None, usual=False)


def test_weights_of_other_sizes_are_refused() -> None:
    head = Head.parse("dense(3)").onto(("batch", 7), channels_last=True, usual=True)
    with pytest.raises(UsageError, match="takes 7 features, and here are 8"):
        head.onto(("batch", 8), channels_last=True, usual=True)
