"""A small Keras model and a small ONNX file with the briefs to make artifacts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from converter.model import Piece, TensorSpec
from converter.targets.brief import Brief, Run

TOLERANCE = 2.0**-14  # of float32, of the reference's largest value


class Made(NamedTuple):
    """A model of some framework, what a target is told of it, and its framework's own answer."""

    model: Any
    brief: Brief
    answer: Run

    def feeds(self, batch: int, seed: int = 7) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            spec.name: rng.normal(size=(batch, *spec.shape[1:])).astype(spec.dtype)
            for spec in self.brief.piece.inputs
        }

    def errors(self, run: Run, batch: int) -> dict[str, float]:
        """Output → largest error over the reference's largest value; shapes and dtypes are the same."""
        feeds = self.feeds(batch)
        got, wanted = run(feeds), self.answer(feeds)
        assert list(got) == [spec.name for spec in self.brief.piece.outputs]
        for name, array in got.items():
            assert (array.shape, array.dtype) == (wanted[name].shape, wanted[name].dtype)
            assert wanted[name].std() > 1e-3
        return {
            name: float(np.abs(got[name] - wanted[name]).max() / np.abs(wanted[name]).max()) for name in got
        }

    def check(self, run: Run, tolerance: float = TOLERANCE) -> None:
        for batch in (1, 3, 2):
            assert all(error <= tolerance for error in self.errors(run, batch).values())


def _brief(role: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Brief:
    piece = Piece(role, None, tuple(inputs), tuple(outputs), (), ())  # type: ignore[arg-type]

    def calibration() -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        return [
            {s.name: rng.normal(size=(2, *s.shape[1:])).astype(s.dtype) for s in inputs} for _ in range(16)
        ]

    return Brief(piece, calibration)


def _of_keras(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Made:
    """A Keras model between these tensors, under the piece's names, with seeded weights of every kind."""
    import keras

    from converter.targets.keras_calls import called

    model = keras.Model(list(inputs.values()), list(outputs.values()))
    rng = np.random.default_rng(1)
    for variable in model.variables:
        old = np.asarray(variable)
        spread = rng.uniform(0.5, 1.5, old.shape)  # kernels keep their scale and sign, zeros go
        variable.assign(spread * np.where(old == 0, 0.3, old))
    ends = [
        [TensorSpec(name, ("batch", *tensor.shape[1:]), tensor.dtype) for name, tensor in end.items()]
        for end in (inputs, outputs)
    ]
    brief = _brief("trunk", *ends)
    return Made(model, brief, called(model, brief))


@pytest.fixture(scope="session")
def of_keras() -> Callable[..., Made]:
    return _of_keras


@pytest.fixture(scope="session")
def two_ended() -> Made:
    """Two inputs, two outputs, one input and one output with names that TensorFlow does not allow."""
    from converter.sources.keras import backend

    layers = backend.keras().layers
    picture, side = layers.Input((12, 12, 3)), layers.Input((5,))
    x = layers.Conv2D(8, 3)(picture)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(3)(x)
    pool = layers.MaxPooling2D(name="block5_pool")(x)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(pool), side])
    dense = layers.Dense(4, activation="swish")(joined)  # which has a gradient of its own
    return _of_keras(
        {"picture": picture, "side/info:0": side}, {"block5_pool": pool, "a.head/dense@1": dense}
    )


@pytest.fixture(scope="session")
def onnx_made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An ONNX file with two inputs and two outputs: Conv, BatchNormalization, Gemm."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(3)
    weights = {
        "kernel": rng.normal(size=(16, 3, 3, 3)) * 0.3,
        "scale": rng.uniform(0.5, 1.5, 16),
        "shift": rng.normal(size=16),
        "mean": rng.normal(size=16),
        "variance": rng.uniform(0.5, 1.5, 16),
        "dense": rng.normal(size=(21, 4)) * 0.3,
    }
    graph = onnx.parser.parse_graph(
        'g (float[batch, 3, 8, 8] picture, float[batch, 5] "side/info:0")'
        ' => (float[batch, 16, 6, 6] relu, float[batch, 4] "head/dense:0") {'
        " conv = Conv(picture, kernel) norm = BatchNormalization(conv, scale, shift, mean, variance)"
        " relu = Relu(norm) pooled = GlobalAveragePool(relu) flat = Flatten(pooled)"
        ' joined = Concat<axis=1>(flat, "side/info:0") "head/dense:0" = MatMul(joined, dense) }'
    )
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype("float32"), name) for name, array in weights.items()
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path_factory.mktemp("onnx") / "trunk.onnx"
    onnx.save(model, path)
    brief = _brief(
        "trunk",
        [
            TensorSpec("picture", ("batch", 3, 8, 8), "float32"),
            TensorSpec("side/info:0", ("batch", 5), "float32"),
        ],
        [
            TensorSpec("relu", ("batch", 16, 6, 6), "float32"),
            TensorSpec("head/dense:0", ("batch", 4), "float32"),
        ],
    )
    evaluator = ReferenceEvaluator(model)
    names = [spec.name for spec in brief.piece.outputs]
    return Made(path, brief, lambda feeds: dict(zip(names, evaluator.run(names, dict(feeds)), strict=True)))


@pytest.fixture(scope="session")
def flip() -> Callable[..., None]:
    """Change bytes of a file, 64 of them from a place on that is given as a part of its length."""

    def change(path: Path, at: float = 0.6) -> None:
        data = bytearray(path.read_bytes())
        start = int(len(data) * at)
        data[start : start + 64] = bytes(byte ^ 0x5A for byte in data[start : start + 64])
        path.write_bytes(data)

    return change
