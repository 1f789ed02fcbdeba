from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converter.imaging import Preprocess
from converter.model import Array, TensorSpec
from converter.runtime import Session


def passing(spec: TensorSpec, opset: int = 18) -> ir.Model:
    """A model that puts out what it takes."""
    given = ir.Value(name=spec.name, shape=ir.Shape(spec.shape), type=spec.onnx_type)
    node = ir.node("Identity", [given])
    out = node.outputs[0]
    out.name, out.type, out.shape = "out", given.type, given.shape
    graph = ir.Graph([given], [out], nodes=[node], opset_imports={"": opset}, name="g")
    return ir.Model(graph, ir_version=10)


def session(model: ir.Model) -> Session:
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return Session(proto.SerializeToString())


def run_graph(words: str, spec: TensorSpec, images: Array, opset: int = 18) -> Any:
    """What the graph of these words makes of images in ONNX Runtime."""
    model = passing(spec, opset)
    Preprocess.parse(words).build(model, spec)
    return session(model).run({spec.name: images})["out"]


def make_image(height: int, width: int, kind: str = "noise", seed: int = 0) -> Array:
    """uint8 RGB: `noise`, or `smooth` as photographs are, with a little grain."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 100 * np.sin(x / 17 + y / 31),
        127 + 120 * np.cos(x / 9 - y / 23),
        255 * (x + y) / (height + width),
    ]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def graph() -> Callable[..., Any]:
    return run_graph


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    return passing


@pytest.fixture(scope="session")
def load() -> Callable[..., Session]:
    return session


@pytest.fixture(scope="session")
def picture() -> Callable[..., Array]:
    return make_image
