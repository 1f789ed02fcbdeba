"""Keras → ONNX → PyTorch → ONNX → Keras: the same function, names and number of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import converter

LIMIT = 1e-4


def around(model: Any) -> tuple[Any, Any]:
    """The model in PyTorch, and in Keras again."""
    cut = converter.load(model).cut()
    module = cut.native("torch")
    specs = cut.pieces[0].inputs
    example = {
        spec.name: np.zeros([2 if isinstance(size, str) else size for size in spec.shape], spec.numpy_dtype)
        for spec in specs
    }
    back = converter.load(module, example=example).cut().native("keras")
    return module, back


@pytest.mark.parametrize("name", ["cnn", "transformer", "multi_branch"])
def test_there_and_back(structure: Any, name: str) -> None:
    ...
