"""ONNX Runtime: the judge of what is written, the framework of ONNX files. No other module imports it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UsageError, ValidationError

__all__ = ["Session", "provider_for", "save_ort", "version"]

# Types that neither go into a session from NumPy nor come out as what they are.
_NO_ARRAYS = frozenset(
    f"tensor({name})"
    for name in "bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz float8e8m0 float4e2m1".split()
) | {"tensor(int4)", "tensor(uint4)", "tensor(int2)", "tensor(uint2)"}
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


def save_ort(model: Path, path: Path) -> None:
    """Optimise an ONNX file and save it in ONNX Runtime's own format, for any CPU.

    Optimised as the official tool does by default for a device that it does not know
    (`onnxruntime.tools.convert_onnx_models_to_ort`): everything but the layout that suits this machine's
    vectors, NCHWc, whose nodes other CPUs cannot run.

    Raises:
        ValidationError: the model does not load, or the format cannot hold it.
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        runtime.InferenceSession(
            str(model), options, providers=[_PROVIDERS["cpu"]], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:
        raise ValidationError(f"ONNX Runtime cannot convert {model.name}: {error}") from error


class Session:
    """A model loaded for inference on one provider, with no silent fallback.

    Attributes:
        inputs: names of what has to be fed.
        outputs: names of what comes out.
        types: output → ONNX Runtime's word for its type (`tensor(float)`), and its sizes.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str = _PROVIDERS["cpu"],
        *,
        folder: Path | None = None,
        optimize: bool = True,
        custom_ops: Sequence[Path] = (),
    ) -> None:
        """Load a model.

        Args:
            model: a file, or a serialised model.
            provider: the execution provider.
            folder: where external data of a serialised model lie.
            optimize: let ONNX Runtime rewrite the graph.
            custom_ops: libraries of operators to load.

        Raises:
            ValidationError: the model does not load, or another provider than the asked-for one would run.
        """
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        if folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings: dict[str, str] = {}
        if provider == _PROVIDERS["cuda"]:
            # TF32 keeps 10 bits of the significand: it would hide errors as large as a wrong epsilon.
            settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        name = model.name if isinstance(model, Path) else "the model"
        try:
            for library in custom_ops:
                options.register_custom_ops_library(str(library.resolve()))
            content = str(model) if isinstance(model, Path) else model
            self._session = runtime.InferenceSession(content, options, providers=[(provider, settings)])
        except Exception as error:
            unknown = "is not a registered" in str(error)
            words = str(error).replace(str(model), name) if isinstance(model, Path) else str(error)
            raise ValidationError(
                f"ONNX Runtime cannot load {name}: {words}",
                hint="--custom-ops LIB names a library with its operators" if unknown else None,
            ) from error
        got = self._session.get_providers()[0]
        if got != provider:
            raise ValidationError(f"{name} was to run on {provider}, but {got} took it")
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        strange = [f"{value.name} ({value.type})" for value in ends if value.type in _NO_ARRAYS]
        if strange:
            raise ValidationError(
                f"ONNX Runtime's Python interface has no arrays of these types: {', '.join(strange)}",
                hint="cut at a tensor of another type, or write without proof: --no-validate",
            )
        self.types = {value.name: (value.type, value.shape) for value in self._session.get_outputs()}
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] = ()) -> dict[str, Any]:
        """Outputs by name, all of them unless some are asked for; sequences are lists, empty optionals None.

        Raises:
            ValidationError: ONNX Runtime refuses the inputs or fails inside the graph.
        """
        wanted = list(outputs) or self.outputs
        given = {name: _fed(feeds[name]) for name in self.inputs}
        try:
            values = self._session.run(wanted, given)
        except Exception as error:
            raise ValidationError(f"ONNX Runtime fails inside the graph: {error}") from error
        return dict(zip(wanted, values, strict=True))


def _fed(value: Any) -> Any:
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
