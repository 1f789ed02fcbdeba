"""The checks for machines with a GPU, run small with the CPU in the GPU's place, and broken on purpose."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter import cuda, gpu
from converter.runtime import Session, onnxruntime
from fixtures import keras_references

ROOT = Path(__file__).resolve().parents[1]


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


gpu_check = _script()
HERE = gpu_check.Place("cpu", "CPUExecutionProvider", "cpu")
NOWHERE = gpu_check.Place("cpu", "AzureExecutionProvider", "cpu")


def _check(folder: Path, *rows: tuple[str, str], **options: Any) -> Any:
    options = {"place": HERE, "groups": sorted({group for group, _ in rows}), "real": (), **options}
    return gpu_check.check(folder, only=lambda *row: row in rows, say=lambda line: None, **options)


def test_the_matrix_with_the_cpu_as_the_device(tmp_path: Path) -> None:
    rows = [("keras", "attention"), ("keras", "text_lstm"), ("nodes", "relu"), ("nodes", "matmul_2d")]
    rows += [("torch", "aliased"), ("precision", "unet fp16"), ("determinism", "encoder")]
    report = _check(tmp_path, *rows)
    assert [(row.group, row.name, row.why) for row in report.rows if row.verdict != "passed"] == []
    assert sorted((row.group, row.name) for row in report.rows) == sorted(rows)
    assert (report.status, report.why) == ("passed", "7 passed, 0 failed, 0 skipped")
    found = {row.name: row for row in report.rows}
    live = found["aliased"]
    assert 0 < live.cpu < 1e-5
    assert live.device == live.own == live.cpu
    assert live.apart == 0
    assert sum(live.nodes.values()) > 0
    assert found["unet fp16"].device > live.device  # it is less precise, and that is seen
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert written["status"] == "passed"
    assert len(written["rows"]) == 7
    page = (tmp_path / "gpu-check.md").read_text()
    assert "**passed**: 7 passed, 0 failed, 0 skipped" in page
    assert "2 cases: 2 passed, 0 failed, 0 skipped; 2 ran on CPUExecutionProvider." in page


def test_wrong_weights_fail(monkeypatch: Any, tmp_path: Path) -> None:
    for file in keras_references.FOLDER.glob("residual.*"):
        shutil.copy(file, tmp_path)
    model = onnx.load(tmp_path / "residual.onnx")
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(kernel) * np.float32(1.01)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    onnx.save(model, tmp_path / "residual.onnx")
    monkeypatch.setattr(keras_references, "FOLDER", tmp_path)
    report = _check(tmp_path / "out", ("keras", "residual"))
    assert report.status == "failed"
    assert "against Keras" in report.rows[0].why


def test_an_export_that_is_not_the_model_fails(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Differs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.line(x) * (1.0 if torch.compiler.is_exporting() else 1.01)

    row = gpu_check.Row("torch", "differs")
    gpu_check._torch_row(lambda: (Differs().eval(), torch.zeros(1, 4)), {}, HERE, row)
    assert row.verdict == "failed"
    assert row.why.startswith("on the CPU: ")
    assert row.cpu > 1e-3


def test_a_device_that_runs_nothing_fails(tmp_path: Path) -> None:
    report = _check(tmp_path, ("keras", "residual"), place=NOWHERE)
    (row,) = report.rows
    assert report.status == row.verdict == "failed"
    assert "runs on AzureExecutionProvider" in row.why
    assert {group["operator"] for group in row.elsewhere} >= {"Conv"}


def test_results_that_change_fail(monkeypatch: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    run, rng = Session.run, np.random.default_rng(0)

    def noisy(self: Session, *given: Any) -> Any:
        return {name: x + np.float32(rng.normal() * 1e-7) for name, x in run(self, *given).items()}

    monkeypatch.setattr(Session, "run", noisy)
    row = gpu_check.Row("determinism", "linear")
    torch.manual_seed(0)
    gpu_check._determinism_row(lambda: (torch.nn.Linear(4, 3).eval(), torch.zeros(1, 4)), HERE, row)
    assert row.verdict == "failed"
    assert "different results of 6 runs" in row.why


def test_wrong_values_on_the_device_alone_fail(monkeypatch: Any, tmp_path: Path) -> None:
    run, sessions = Session.run, []

    def off(self: Session, *given: Any) -> Any:
        found = run(self, *given)
        sessions.append(self)
        # The row runs each case on the CPU first, then on the device.
        return found if len(sessions) % 2 else {name: x * np.float32(1.01) for name, x in found.items()}

    monkeypatch.setattr(Session, "run", off)
    report = _check(tmp_path, ("nodes", "relu"))
    assert report.status == "failed"
    assert "other values" in report.rows[0].why


def test_what_was_skipped_is_said(tmp_path: Path) -> None:
    report = _check(tmp_path, ("keras", "residual"), seconds=-1)
    assert report.status == "failed"  # nothing passed
    assert report.why == "0 passed, 0 failed, 1 skipped"
    assert "not begun within" in (tmp_path / "gpu-check.md").read_text()


def test_without_cuda_it_is_skipped_and_never_passed(capsys: Any, tmp_path: Path) -> None:
    if cuda.cuda_problem(onnxruntime()) is None:
        pytest.skip("this machine has CUDA")
    assert gpu_check.main(["--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("skipped: device cuda: this ONNX Runtime has only")
    assert "passed" not in printed
    assert json.loads((tmp_path / "gpu-check.json").read_text())["status"] == "skipped"


def test_a_gpu_that_does_not_compute_is_a_failure(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    if cuda.cuda_problem(onnxruntime()) is None:
        pytest.skip("this machine has CUDA")
    monkeypatch.setattr(gpu, "first_gpu", lambda: gpu.Gpu("H100", "580", 1, 1))
    assert gpu_check.main(["--output", str(tmp_path)]) == 1
    assert "but there is a GPU: H100, driver 580" in capsys.readouterr().out


def test_references_are_what_keras_computes() -> None:
    pytest.importorskip("keras")
    path, feeds, outputs = keras_references.read("residual")
    content, again, expected = keras_references.made("residual")
    assert {name: x.shape for name, x in feeds.items()} == {name: x.shape for name, x in again.items()}
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, again[name])
    for name, array in outputs.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    nodes = [[n.op_type for n in m.graph.node] for m in (onnx.load(path), onnx.load_from_string(content))]
    assert nodes[0] == nodes[1]
    for name, array in Session(content).run(feeds).items():
        np.testing.assert_allclose(array, outputs[name], rtol=1e-4, atol=1e-5)
    assert {file.stem for file in keras_references.FOLDER.iterdir()} == set(keras_references.NAMES)
