from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from converter import runtime as module
from converter.errors import UsageError, ValidationError
from converter.runtime import Session, provider_for


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
