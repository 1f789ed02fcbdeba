"""Rebuilt operators beside ONNX Runtime, where ONNX's own test cases do not look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import converter
from converter.runtime import Session

CASES = {
    "one-hot of what is out of range": (
        "(float[N, 5] x) => (float[N, 5, 4] y)",
        "i = Cast <to = 7> (x) y = OneHot <axis = -1> (i, depth, values)",
        {"depth": np.array(4), "values": np.array([-1, 2], np.float32)},
        np.array([[0, 3, 4, -1, -9], [1, 2, -4, -5, 7]], np.float32),
    ),
    "one-hot along the first axis": (
        "(float[N, 5] x) => (float[4, N, 5] y)",
        "i = Cast <to = 7> (x) y = OneHot <axis = 0> (i, depth, values)",
        {"depth": np.array(4), "values": np.array([0, 1], np.float32)},
        np.array([[0, 3, 2, -1, -2], [1, 2, -4, 3, 0]], np.float32),
    ),
    "an equation in letters of both sizes": (
        "(float[N, 4, 4] x) => (float[b, m, n] y)",
        'y = Einsum <equation = "bIj,bjK->bKI"> (x, x)',
        {},
        np.arange(32, dtype=np.float32).reshape(2, 4, 4),
    ),
    "a bias as long as another axis": (
        "(float[N, 4, 4] x) => (float[N, 4, 4] y)",
        "y = Add(x, b)",
        {"b": np.arange(4, dtype=np.float32).reshape(1, 4, 1)},
        np.arange(32, dtype=np.float32).reshape(2, 4, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_same_values(name: str, framework: str, tmp_path: Path) -> None:
    ends, body, constants, x = CASES[name]
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> agraph {ends} {{ {body} }}')
    for key, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    onnx.save(model, tmp_path / "model.onnx")
    expected = Session(tmp_path / "model.onnx").run({"x": x})["y"]
    rebuilt = converter.load(tmp_path / "model.onnx").cut().native(framework, validate=False)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        got = rebuilt(torch.from_numpy(x)).detach().numpy()
    else:
        got = np.asarray(rebuilt(x))
    np.testing.assert_array_equal(got, expected)


def test_weights_that_stand_among_the_inputs(tmp_path: Path) -> None:
    """As in files of IR versions before 4."""
    text = """<ir_version: 3, opset_import: ["" : 9]>
        agraph (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) { y = Conv(x, w) }"""
    model = onnx.parser.parse_model(text)
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "w"))
    onnx.save(model, tmp_path / "old.onnx")
    cut = converter.load(tmp_path / "old.onnx").cut()
    assert sum(weight.numel() for weight in cut.native("torch").parameters()) == kernel.size
    assert cut.native("keras").count_params() == kernel.size
