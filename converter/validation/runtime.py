"""ONNX Runtime, the judge. The only module that imports it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UsageError, ValidationError
from converter.model import Array

__all__ = ["Session", "provider_for", "version"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ValidationError(
            f"validation needs ONNX Runtime, which does not import: {error}",
            hint="install exactly one of: pip install 'converter[cpu]' (onnxruntime), "
            "or 'converter[gpu]' (onnxruntime-gpu) on a machine with an NVIDIA GPU",
        ) from error


def version() -> str:
    """ONNX Runtime's version."""
    return str(_onnxruntime().__version__)


def provider_for(device: str) -> str:
    """The execution provider for `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: an unknown device.
        ValidationError: `cuda` was asked for and this ONNX Runtime has no CUDA provider.
    """
    if device not in ("auto", *_PROVIDERS):
        raise UsageError(f"device {device!r}: expected auto, cpu or cuda")
    available = _onnxruntime().get_available_providers()
    if device == "auto":
        # onnxruntime-gpu lists CUDA on machines without a driver as well; the driver's file decides.
        usable = _PROVIDERS["cuda"] in available and Path("/proc/driver/nvidia/version").exists()
        device = "cuda" if usable else "cpu"
    provider = _PROVIDERS[device]
    if provider not in available:
        raise ValidationError(
            f"device {device}: this ONNX Runtime has only {', '.join(available)}",
            hint="pip uninstall onnxruntime, then pip install 'converter[gpu]'",
        )
    return provider


class Session:
    """A model file loaded for inference on one provider, with no silent fallback.

    Raises:
        ValidationError: the file does not load, or another provider than the asked-for one would run.
    """

    def __init__(self, path: Path, provider: str) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        settings: dict[str, str] = {}
        if provider == _PROVIDERS["cuda"]:
            # TF32 keeps 10 bits of the significand: it would hide errors as large as a wrong epsilon.
            settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[(provider, settings)])
        except Exception as error:
            raise ValidationError(f"ONNX Runtime cannot load {path.name}: {error}") from error
        got = self._session.get_providers()[0]
        if got != provider:
            raise ValidationError(f"{path.name} was to run on {provider}, but {got} took it")
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name.

        Raises:
            ValidationError: ONNX Runtime refuses the inputs or fails inside the graph.
        """
        given = {name: np.ascontiguousarray(feeds[name]) for name in self.inputs}
        try:
            values = self._session.run(self.outputs, given)
        except Exception as error:
            raise ValidationError(f"ONNX Runtime fails inside the graph: {error}") from error
        return dict(zip(self.outputs, values, strict=True))
