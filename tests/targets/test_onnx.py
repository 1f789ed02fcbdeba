"""The streaming writer against onnx's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from converter.model import Piece, TensorSpec
from converter.targets import onnx as target


def piece() -> tuple[Piece, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = {
        "kernel": rng.normal(size=(300, 200)).astype("float32"),
        "transposed": np.asfortranarray(rng.normal(size=(200, 7)).astype("float32")),
        "empty": np.zeros((0, 3), "float32"),
        "scalar": np.array(2.5, "float32"),
        "half": rng.normal(size=(3,)).astype("float16"),
        "flags": np.array([True, False]),
    }
    spec = TensorSpec("x", ("batch", 300), "float32")
    x = ir.Value(name="x", shape=ir.Shape(spec.shape), type=spec.onnx_type)
    values = {n: ir.Value(name=n, const_value=ir.tensor(a, name=n)) for n, a in arrays.items()}
    first = ir.node("MatMul", [x, values["kernel"]])
    second = ir.node("MatMul", [first.outputs[0], values["transposed"]])
    third = ir.node("Mul", [second.outputs[0], values["scalar"]])
    out = third.outputs[0]
    out.name, out.dtype, out.shape = "y", ir.DataType.FLOAT, ir.Shape(("batch", 7))
    graph = ir.Graph([x], [out], nodes=[first, second, third], initializers=values.values(),
                     opset_imports={"": 18}, name="g")  # fmt: skip
    model = ir.Model(graph, ir_version=8)
    return Piece("trunk", model, (spec,), (TensorSpec("y", ("batch", 7), "float32"),), (), ()), arrays


def check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    found = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "é")]
    x = np.random.default_rng(1).normal(size=(2, 300)).astype("float32")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = x @ arrays["kernel"] @ arrays["transposed"] * 2.5
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-3)


def test_one_file(tmp_path: Path) -> None:
    made, arrays = piece()
    assert target.write(made, tmp_path / "trunk.onnx", {"a": "1", "b": "é"}) == [tmp_path / "trunk.onnx"]
    check(tmp_path / "trunk.onnx", arrays)


def test_weights_apart_when_they_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "ONE_FILE_LIMIT", 1000)
    made, arrays = piece()
    files = target.write(made, tmp_path / "trunk.onnx", {"a": "1", "b": "é"})
    assert [file.name for file in files] == ["trunk.onnx", "trunk.onnx.data"]
    assert files[0].stat().st_size < 2000
    check(tmp_path / "trunk.onnx", arrays)


def test_writing_leaves_the_piece_as_it_was(tmp_path: Path) -> None:
    made, arrays = piece()
    for name in ("one.onnx", "two.onnx"):
        target.write(made, tmp_path / name, {})
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert list(made.graph.graph.initializers) == list(arrays)
