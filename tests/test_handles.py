"""The Python interface, as its docstring and the README show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import converter


def test_load_cut_validate_save(structure: Any, tmp_path: Path) -> None:
    model = converter.load(structure("sequential"))
    assert repr(model).startswith("<live:cnn, weights live: (image: float32[batch, 16, 16, 3])")
    cut = model.cut(to="pool")
    assert repr(cut).startswith(
        "<trunk: (image: float32[batch, 16, 16, 3]) -> (pool: float32[batch, 7, 7, 8])"
    )
    certificate = cut.validate()
    assert certificate.passed
    assert str(certificate).startswith("passed: 7 comparisons, largest scaled error")
    document = cut.save(tmp_path, targets=["onnx", "keras"])
    assert document.status == "passed"
    assert {path.name for path in tmp_path.iterdir()} == {
        "trunk.onnx",
        "trunk.keras",
        "report.json",
        "report.html",
    }


def test_the_file_computes_what_the_layer_does(structure: Any, tmp_path: Path) -> None:
    """Independently of our own validation: Keras's sub-model against the file in ONNX Runtime."""
    import keras

    source = structure("residual")
    converter.load(source).cut(to="join").save(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "trunk.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).normal(size=(5, 16, 16, 3)).astype("float32")
    expected = np.asarray(keras.Model(source.input, source.get_layer("join").output)(x))
    got = session.run(["join"], {"image": x})[0]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_artifact_is_a_valid_model_with_readable_names(structure: Any, tmp_path: Path) -> None:
    converter.load(structure("residual")).cut(to="inner1").save(tmp_path)
    model = onnx.load(tmp_path / "trunk.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "converter"
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == ["stem/Conv", "inner1/Conv"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"stem/kernel", "inner1/kernel"} <= names
    assert {p.key: p.value for p in model.graph.node[1].metadata_props} == {"converter.layer": "stem"}


def test_a_failed_validation_raises_on_save(structure: Any, tmp_path: Path, monkeypatch: Any) -> None:
    model = converter.load(structure("residual"))
    cut = model.cut(to="gap")
    run = type(model._source).run

    def off(self: Any, feeds: Any, wanted: Any) -> dict[str, Any]:
        return {key: value * np.float32(1.001) for key, value in run(self, feeds, wanted).items()}

    monkeypatch.setattr(type(model._source), "run", off)
    assert not cut.validate().passed
    with pytest.raises(converter.ValidationError, match="7 of 7 comparisons failed"):
        cut.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unbuilt_and_foreign_models_are_refused() -> None:
    import keras

    with pytest.raises(converter.SourceError, match="never been built"):
        converter.load(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(converter.SourceError, match=r"got a builtins\.dict"):
        converter.load({})


def test_trunk_outputs_of_a_model_with_unused_layers(tmp_path: Path) -> None:
    """A layer that feeds no output can end a trunk, but no head can start there."""
    import keras

    class Aside(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="aside")
            self.main, self.side = keras.layers.Dense(3, name="main"), keras.layers.Dense(2, name="side")

        def call(self, x: Any) -> Any:
            self.side(x)
            return self.main(x)

    model = Aside()
    model(np.zeros((2, 4), "float32"))
    loaded = converter.load(model)
    assert loaded.cut(to="side").validate().passed
    with pytest.raises(converter.CutError, match="does not depend on side"):
        loaded.cut(from_="side")


def test_errors_are_one_tree() -> None:
    codes = {
        converter.UsageError: 2,
        converter.SourceError: 3,
        converter.CutError: 4,
        converter.ValidationError: 5,
        converter.TargetError: 6,
    }
    for error, code in codes.items():
        assert issubclass(error, converter.ConverterError)
        assert error("x").exit_code == code
    assert str(converter.CutError("what", hint="how")) == "what\n  hint: how"
