"""Targets that this machine cannot make, and what they say."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from converter.errors import TargetError
from converter.targets import coreml, tensorrt

NEW = "h5 savedmodel checkpoint tflite tflite_fp16 tflite_int8 openvino ort tensorrt coreml".split()


def test_every_target_has_the_same_verbs_and_a_suffix_of_its_own() -> None:
    modules = [importlib.import_module(f"converter.targets.{name}") for name in NEW]
    assert len({module.SUFFIX for module in modules}) == len(modules)
    for module in modules:
        assert module.FRAMEWORK in ("keras", "torch", "onnx")
        assert module.__all__ == sorted(module.__all__, key=lambda name: (name.islower(), name))
        assert getattr(module, "PRECISION", "float32") in ("float32", "float16", "int8")


def test_importing_them_loads_no_framework() -> None:
    imports = ", ".join(f"converter.targets.{name}" for name in NEW)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {imports}; print(*(m.partition('.')[0] for m in sys.modules))"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    frameworks = {
        "tensorflow",
        "keras",
        "torch",
        "h5py",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "coremltools",
    }
    assert not set(done.stdout.split()) & frameworks


@pytest.mark.parametrize("verb", ["write", "reload"])
def test_tensorrt_says_which_package_is_missing(
    verb: str, onnx_made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match=r"needs the package tensorrt(?s:.*)converter\[tensorrt\]"):
        _call(tensorrt, verb, onnx_made.model, tmp_path / "trunk.engine", onnx_made.brief)


def test_tensorrt_says_that_there_is_no_gpu(
    onnx_made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setitem(sys.modules, "tensorrt", _module(__version__="10.16.1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(TargetError, match=r"is built without CUDA(?s:.*)trtexec"):
        tensorrt.write(onnx_made.model, tmp_path / "trunk.engine", onnx_made.brief)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(TargetError, match="PyTorch finds none"):
        tensorrt.write(onnx_made.model, tmp_path / "trunk.engine", onnx_made.brief)


def test_an_old_tensorrt_is_refused(onnx_made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", _module(__version__="8.6.1"))
    with pytest.raises(TargetError, match=r"10 or newer is needed, got 8\.6\.1"):
        tensorrt.write(onnx_made.model, tmp_path / "trunk.engine", onnx_made.brief)


def test_tensorrt_takes_no_free_sizes_but_the_batch() -> None:
    assert tensorrt._profile("x", (-1, 3, 8, 8)) == [(1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8)]
    with pytest.raises(TargetError, match=r"free sizes besides its batch \(\?, 3, \?, \?\)"):
        tensorrt._profile("x", (-1, 3, -1, -1))


@pytest.mark.parametrize("verb", ["write", "reload"])
def test_core_ml_is_refused_where_it_does_not_run(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(TargetError, match=r"made and run on macOS, and this is Linux(?s:.*)write onnx"):
        _call(coreml, verb, None, tmp_path / "trunk.mlpackage", None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(TargetError, match=r"needs the package coremltools(?s:.*)converter\[coreml\]"):
        _call(coreml, verb, None, tmp_path / "trunk.mlpackage", None)


def _call(target: Any, verb: str, made: Any, path: Path, brief: Any) -> None:
    if verb == "write":
        target.write(made, path, brief)
    else:
        target.reload(path, made, brief)


def _module(**names: Any) -> types.ModuleType:
    module = types.ModuleType("made_up")
    vars(module).update(names)
    return module
