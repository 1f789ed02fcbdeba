"""OpenVINO IR: the graph as XML, the weights in a `.bin` beside it, in the precision of the ONNX file.

The format: https://docs.openvino.ai/2026/documentation/openvino-ir-format.html.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.errors import SourceError, TargetError, ValidationError
from converter.model import Array, TensorSpec
from converter.targets.artifact import Artifact, named, narrowest
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "expect", "opened", "reload", "write"]

FRAMEWORK = "onnx"
SUFFIX = ".xml"
# Or it would take bfloat16 where the CPU is fast at it.
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}


def _package() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise TargetError(
            f"the target 'openvino' needs the package openvino, which does not import: {error}",
            hint="pip install 'converter[openvino]'",
        ) from error


def expect() -> None:
    """Refuse what cannot be made on this machine, before anything is made for it.

    Raises:
        TargetError: what is missing, and where it can be had.
    """
    _package()


def _expect_rounding(made: Path, path: Path) -> None:
    """Refuse what OpenVINO 2026.4 reads and computes wrongly: antialias is for images of floats there."""
    graph = onnx.load(made, load_external_data=False).graph
    for node in graph.node:
        smooth = any(attribute.name == "antialias" and attribute.i for attribute in node.attribute)
        if node.op_type == "Resize" and smooth and node.name.startswith("preprocess"):
            raise TargetError(
                f"{path.name} cannot be made: OpenVINO resizes pixels of 8 bits wrongly with antialias",
                hint="give it images of the model's size, without resize in --preprocess",
            )


def write(made: Path, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the file has all that is needed
    """Convert an ONNX file; returns the files made.

    Raises:
        TargetError: the package openvino is missing, or OpenVINO cannot read the model.
    """
    openvino = _package()
    _expect_rounding(made, path)
    try:
        # The reader behind openvino.convert_model, which besides that sends a note of its use to its makers.
        model = _core(openvino).read_model(str(made))
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except OSError:
        raise
    except Exception as error:
        raise _failed(f"OpenVINO cannot convert {made.name}", error) from error
    return [path, path.with_suffix(".bin")]


def reload(path: Path, made: Path, brief: Brief) -> Run:  # noqa: ARG001  # the files have all that is needed
    """The model in OpenVINO on the CPU, in float32, as a function from the piece's inputs to its outputs.

    Raises:
        TargetError: the package openvino is missing, or OpenVINO does not load what it saved.
    """
    openvino = _package()
    try:
        model = _core(openvino).compile_model(str(path), "CPU", _SETTINGS)
    except Exception as error:
        raise _failed(f"OpenVINO cannot load {path.name} again", error) from error
    inputs = _places(model.inputs, [spec.name for spec in brief.piece.inputs], path)
    outputs = _places(model.outputs, [spec.name for spec in brief.piece.outputs], path)

    return _running(model, inputs, outputs, path)


def opened(path: Path) -> Artifact:
    """Any OpenVINO IR, in OpenVINO on the CPU, in float32.

    Raises:
        SourceError: OpenVINO does not load it.
        TargetError: the package openvino is missing.
    """
    openvino = _package()
    try:
        core = _core(openvino)
        read = core.read_model(str(path))
        model = core.compile_model(read, "CPU", _SETTINGS)
        inputs = [_spec(port, f"input_{place}") for place, port in enumerate(model.inputs)]
        outputs = [_spec(port, f"output_{place}") for place, port in enumerate(model.outputs)]
        precision = narrowest(_computed_in(operation) for operation in read.get_ops())
    except Exception as error:
        message = " ".join(str(error).split())[-300:]
        raise SourceError(
            f"OpenVINO cannot load {path.name}: {message}",
            hint="the weights lie in a file of the same name that ends in .bin, beside it",
        ) from error
    takes, gives = ({spec.name: place for place, spec in enumerate(specs)} for specs in (inputs, outputs))
    run = _running(model, takes, gives, path)
    return Artifact("openvino", path, tuple(inputs), tuple(outputs), run, precision)


def _spec(port: Any, otherwise: str) -> TensorSpec:
    sizes = [dim.get_length() if dim.is_static else None for dim in port.get_partial_shape()]
    name = min(port.get_names(), default=otherwise)
    return named(name, sizes, port.get_element_type().to_dtype().name)


def _computed_in(operation: Any) -> str:
    """The precision that an operator of a graph tells of."""
    if operation.get_type_name() == "FakeQuantize":
        return "int8"
    if operation.get_type_name() == "Constant" and operation.get_output_size():
        return {"f16": "float16", "bf16": "bfloat16"}.get(
            operation.get_output_element_type(0).get_type_name(), ""
        )
    return ""


def _running(model: Any, inputs: Mapping[str, int], outputs: Mapping[str, int], path: Path) -> Run:
    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        request = model.create_infer_request()
        try:
            given = {index: np.ascontiguousarray(feeds[name]) for name, index in inputs.items()}
            results = request.infer(given)
        except Exception as error:
            raise ValidationError(f"{path.name} does not run: {type(error).__name__}: {error}") from error
        return {name: np.array(results[index]) for name, index in outputs.items()}

    return run


def _core(openvino: Any) -> Any:
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the files may be moved while they are in use
    return core


def _places(ports: Sequence[Any], names: Sequence[str], path: Path) -> dict[str, int]:
    """Name → the place among the inputs or outputs of the tensor that bears it."""
    found = {name: place for place, port in enumerate(ports) for name in port.get_names()}
    missing = [name for name in names if name not in found]
    if missing:
        raise TargetError(f"{path.name} has no {', '.join(missing[:4])}: it has {', '.join(found)}")
    return {name: found[name] for name in names}


def _failed(what: str, error: Exception) -> TargetError:
    return TargetError(f"{what}: {' '.join(str(error).split())[-400:]}")
