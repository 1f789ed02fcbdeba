from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from rich.console import Console

import converter
from converter import cuda, devices, pipeline
from converter import runtime as module
from converter.devices import Device, device_for, provider_for
from converter.errors import UsageError, ValidationError
from converter.gpu import Gpu, parsed
from converter.placement import Assigned, Placement
from converter.placing import explained
from converter.precision import Precision
from converter.report import Terminal
from converter.request import Request
from converter.runtime import Session, loads


def test_providers() -> None:
    assert provider_for("cpu") == "CPUExecutionProvider"
    assert provider_for("auto") in ("CPUExecutionProvider", "CUDAExecutionProvider")
    with pytest.raises(UsageError, match="expected auto, cpu or cuda"):
        provider_for("gpu")


def test_cuda_that_is_not_there_is_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(ValidationError, match=r"converter\[gpu\]"):
        provider_for("cuda")


def test_without_onnxruntime_the_message_says_which_to_install(monkeypatch: Any) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(ValidationError) as error:
        provider_for("auto")
    assert "converter[cpu]" in str(error.value)
    assert "converter[gpu]" in str(error.value)
    assert importlib is module.importlib


def test_another_provider_than_asked_for_is_an_error(monkeypatch: Any, tmp_path: Path) -> None:
    class Falls:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: Falls())
    with pytest.raises(
        ValidationError, match="was to run on CUDAExecutionProvider, but CPUExecutionProvider"
    ):
        Session(tmp_path / "x.onnx", "CUDAExecutionProvider")


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ValidationError, match=r"cannot load bad\.onnx"):
        Session(tmp_path / "bad.onnx", "CPUExecutionProvider")


ROOT = Path(__file__).resolve().parents[1]
# A provider that every build of ONNX Runtime has beside the CPU's, and that has kernels for nothing here.
OTHER = "AzureExecutionProvider"
MODEL = """<ir_version: 8, opset_import: ["": 17]>
g (float[N, 4] x, float[4, 4] w, bool c) => (float[N, 4] y, int64[2] s) {
   s = Shape(x)
   t = MatMul(x, w)
   u = Relu(t)
   y = If(c) <then_branch = a () => (float[N, 4] p) { p = Neg(u) },
              else_branch = b () => (float[N, 4] q) { q = Abs(u) }>
}"""


def _model() -> bytes:
    return onnx.parser.parse_model(MODEL).SerializeToString()


def test_auto_says_what_it_took_and_why() -> None:
    device = device_for("auto")
    if device.provider == "CPUExecutionProvider":
        assert "ONNX Runtime" in device.why
        assert str(device) == f"CPUExecutionProvider (auto: {device.why})"
    else:
        assert device.facts["gpu"] in str(device)
    assert str(device_for("cpu")) == "CPUExecutionProvider"


def test_placement_of_a_provider_that_runs_all() -> None:
    placement = Session(_model()).placement
    assert placement.counts == {"CPUExecutionProvider": 6}  # both bodies of If count
    assert placement.groups == ()
    assert placement.problem is None


def test_a_registered_provider_that_runs_nothing_is_found_out() -> None:
    # ONNX Runtime makes it without a word, and get_providers() names the provider first.
    session = Session(_model(), OTHER)
    placement = explained(session.placement, _model())
    assert placement.counts == {OTHER: 0, "CPUExecutionProvider": 6}
    assert placement.problem == f"none of 6 nodes runs on {OTHER}"
    reasons = {group.operator: group.reason for group in placement.groups}
    assert reasons["MatMul"] == f"{OTHER} has no kernel for it of float"
    assert reasons["Neg"] == reasons["MatMul"]  # types inside bodies are known
    assert "bodies" in reasons["If"]


def test_names_tell_nodes_of_one_operator_apart() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N] x, int64[N] i) => (float[N] y, int64[N] j) {
           y = Neg(x)
           j = Neg(i)
        }"""
    )
    for node, name in zip(model.graph.node, ("floats", "integers"), strict=True):
        node.name = name
    content = model.SerializeToString()
    groups = explained(Session(content, OTHER).placement, content).groups
    found = {group.nodes: group.reason for group in groups}
    assert found == {
        ("floats",): f"{OTHER} has no kernel for it of float",
        ("integers",): f"{OTHER} has no kernel for it of int64",
    }


def test_reasons_where_a_kernel_is_there() -> None:
    """Nodes of a graph that runs on the CPU, as if that had been asked for and another had taken them."""
    found = [Assigned("Another", kind, "") for kind in ("Shape", "MatMul", "Missing")]
    placement = explained(Placement("CPUExecutionProvider", found), _model())
    reasons = {group.operator: group.reason for group in placement.groups}
    assert "keeps computations of shapes on the CPU" in reasons["Shape"]
    assert reasons["MatMul"] == "a kernel is there: ONNX Runtime chose the CPU"
    assert reasons["Missing"] == "the reason is not known"


def test_what_is_no_run_on_a_device() -> None:
    def placed(**nodes: str) -> str | None:
        return Placement("Gpu", [Assigned(where, kind, "") for kind, where in nodes.items()]).problem

    assert placed(Conv="Gpu", Shape="Cpu") is None
    assert placed(Relu="Gpu", Shape="Cpu") is None
    assert placed() is None
    assert placed(Shape="Cpu") == "none of 1 nodes runs on Gpu"
    assert placed(Relu="Gpu", Conv="Cpu") == "none of 1 nodes of weight (Conv) runs on Gpu"
    assert placed(Conv="Gpu", MatMul="Cpu") is None


def test_a_kernel_of_the_cpu_does_not_count_for_another_provider() -> None:
    assert loads(_model(), OTHER)
    assert not loads(_model(), OTHER, alone=True)
    assert loads(_model(), "CPUExecutionProvider", alone=True)


def test_what_cuda_is_asked_for(monkeypatch: Any) -> None:
    """The options as they reach ONNX Runtime; what they bring is seen on a GPU alone."""
    import onnxruntime

    seen: dict[str, Any] = {}

    class Stops(Exception):
        pass

    def session(content: Any, options: Any, **given: Any) -> None:
        seen.update(given, deterministic=options.use_deterministic_compute)
        raise Stops

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(cuda, "_gpu", lambda: Gpu("H100", "580", 80 << 30, 10 << 30))
    with pytest.raises(ValidationError):
        Session(_model(), "CUDAExecutionProvider")
    ((provider, options),) = seen["providers"]
    assert provider == "CUDAExecutionProvider"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert int(options["gpu_mem_limit"]) == 8 << 30
    assert seen["deterministic"] is True
    assert seen["enable_fallback"] == 0  # else a run that fails on CUDA goes on on the CPU


def test_what_nvidia_smi_says() -> None:
    """A line in the form that its --query-gpu documents."""
    assert parsed("NVIDIA H100 80GB HBM3, 580.159.04, 81559, 81005\n") == Gpu(
        "NVIDIA H100 80GB HBM3", "580.159.04", 81559 << 20, 81005 << 20
    )
    assert parsed("NVIDIA GB10, 580.95, [N/A], [N/A]\n") is None
    assert parsed("No devices were found\n") is None
    assert parsed("") is None


def test_a_cuda_provider_that_does_not_load_says_why(monkeypatch: Any, tmp_path: Path) -> None:
    """A build that lists CUDA, and whose library is broken: ONNX Runtime itself goes on on the CPU."""

    class Build:
        __file__ = str(tmp_path / "__init__.py")

        def get_available_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def preload_dlls(self, directory: str | None = None) -> None:
            print("Failed to load libcublasLt.so.13")

    (tmp_path / "capi").mkdir()
    for name in ("cuda", "shared"):
        (tmp_path / "capi" / f"libonnxruntime_providers_{name}.so").write_bytes(b"no library")
    monkeypatch.setattr(devices, "onnxruntime", Build)
    with pytest.raises(ValidationError, match=r"does not load: .*libonnxruntime_providers_shared") as error:
        device_for("cuda")
    assert "--device cpu" in str(error.value)
    device = device_for("auto")
    assert device.provider == "CPUExecutionProvider"
    assert "does not load" in device.why


def _file(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) {
           w = Constant<value = float[4, 4] {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}>()
           t = MatMul(x, w)
           y = Tanh(t)
        }"""
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def test_nothing_is_written_where_nothing_ran_on_the_device(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(pipeline, "device_for", lambda asked: Device(asked, OTHER, "asked for"))
    with pytest.raises(ValidationError, match=f"model: none of 2 nodes runs on {OTHER}") as error:
        converter.load(_file(tmp_path)).cut().save(tmp_path / "out")
    assert f"1 MatMul: {OTHER} has no kernel for it of float" in str(error.value)
    assert "--device cpu" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_report_says_where_it_ran(monkeypatch: Any, tmp_path: Path) -> None:
    """With the check that refuses it taken away, to see what a report has of nodes that ran elsewhere."""
    monkeypatch.setattr(pipeline, "device_for", lambda asked: Device(asked, OTHER, "asked for", {"gpu": "G"}))
    monkeypatch.setattr(Placement, "problem", None)
    document = converter.load(_file(tmp_path)).cut().save(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    assert report["validation"]["device"] == {
        "asked": "auto",
        "provider": OTHER,
        "why": "asked for",
        "gpu": "G",
    }
    placed = report["validation"]["placement"]["model"]
    assert placed["nodes"] == {OTHER: 0, "CPUExecutionProvider": 2}
    assert {group["operator"]: group["count"] for group in placed["elsewhere"]} == {"MatMul": 1, "Tanh": 1}
    console = Console(file=io.StringIO(), width=120)
    Terminal(console).report(document, "out")
    printed = console.file.getvalue()
    assert f"placement model: 0 on {OTHER}, 2 on CPUExecutionProvider" in printed
    assert f"1 MatMul on CPUExecutionProvider: {OTHER} has no kernel" in printed


def test_auto_leaves_integer_products_of_the_run_to_the_cpu(monkeypatch: Any) -> None:
    def cuda_is_there(asked: str) -> Device:
        provider = "CPUExecutionProvider" if asked == "cpu" else "CUDAExecutionProvider"
        return Device(asked, provider, "asked for")

    monkeypatch.setattr(pipeline, "device_for", cuda_is_there)
    chosen = pipeline._device(Request(precision=Precision("int8-dynamic")))
    assert (chosen.asked, chosen.provider) == ("auto", "CPUExecutionProvider")
    assert "ConvInteger" in str(chosen)
    assert pipeline._device(Request(precision=Precision("fp16"))).provider == "CUDAExecutionProvider"
    asked = Request(device="cuda", precision=Precision("int8-dynamic"))
    assert pipeline._device(asked).provider == "CUDAExecutionProvider"
