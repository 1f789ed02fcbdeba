"""Core ML packages, for Apple's devices: ML programs in float32, in a folder.

They are made and run on macOS. Inputs and outputs are the piece's in its order; Core ML has its own rules
for names. The format: https://apple.github.io/coremltools/docs-guides/source/convert-to-ml-program.html;
programs of PyTorch: https://apple.github.io/coremltools/docs-guides/source/model-exporting.html.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, TargetError, ValidationError
from converter.model import Array, TensorSpec
from converter.targets.artifact import UNKNOWN, Artifact, named
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "expect", "opened", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".mlpackage"
# What Core ML's arrays can hold, for what PyTorch has more of.
_NARROWED = {
    "int64": "int32",
    "int16": "int32",
    "int8": "int32",
    "uint8": "int32",
    "bool": "int32",
    "float64": "float32",
}
# ArrayFeatureType.ArrayDataType of Core ML's Model.proto.
_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32"}


def _package() -> Any:
    if platform.system() != "Darwin":
        raise TargetError(
            f"Core ML models are made and run on macOS, and this is {platform.system()}",
            hint="write onnx or pt2 here, and convert there",
        )
    try:
        return importlib.import_module("coremltools")
    except ImportError as error:
        raise TargetError(
            f"the target 'coreml' needs the package coremltools, which does not import: {error}",
            hint="pip install 'converter[coreml]'",
        ) from error


def expect() -> None:
    """Refuse what cannot be made on this machine, before anything is made for it.

    Raises:
        TargetError: what is missing, and where it can be had.
    """
    _package()


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the program has all that is needed
    """Convert a PyTorch piece; returns the files made, which lie in the folder `path`.

    Raises:
        TargetError: not on macOS, no coremltools, or an operator that Core ML does not have.
    """
    tools = _package()
    try:
        program = made.program.run_decompositions({})  # the dialect (ATEN) that coremltools reads
        model = tools.convert(
            program,
            convert_to="mlprogram",
            compute_precision=tools.precision.FLOAT32,
            compute_units=tools.ComputeUnit.CPU_ONLY,
        )
        model.save(str(path))
    except (TargetError, OSError):
        raise
    except Exception as error:
        raise _failed(f"Core ML Tools cannot convert {path.name}", error) from error
    return sorted(file for file in path.rglob("*") if file.is_file())


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the folder has all that is needed
    """The package in Core ML on the CPU, as a function from the piece's inputs to its outputs, by name.

    Raises:
        TargetError: not on macOS, no coremltools, or Core ML does not load what was saved.
    """
    tools = _package()
    try:
        model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY)
        description = model.get_spec().description
    except Exception as error:
        raise _failed(f"Core ML cannot load {path.name} again", error) from error
    piece = brief.piece
    for got, specs, what in (
        (description.input, piece.inputs, "in"),
        (description.output, piece.outputs, "out"),
    ):
        if len(got) != len(specs):
            raise TargetError(f"{path.name} has {len(got)} {what}puts, and the piece has {len(specs)}")
    inputs = {spec.name: feature.name for spec, feature in zip(piece.inputs, description.input, strict=True)}
    outputs = {feature.name: spec for spec, feature in zip(piece.outputs, description.output, strict=True)}

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = {feature: _narrowed(feeds[name]) for name, feature in inputs.items()}
        try:
            results = model.predict(given)
        except Exception as error:
            raise ValidationError(f"{path.name} does not run: {type(error).__name__}: {error}") from error
        return {
            spec.name: np.asarray(results[name]).astype(spec.numpy_dtype) for name, spec in outputs.items()
        }

    return run


def opened(path: Path) -> Artifact:
    """Any Core ML package whose inputs and outputs are arrays, in Core ML on the CPU.

    Raises:
        SourceError: Core ML does not load it.
        TargetError: not on macOS, or no coremltools.
    """
    tools = _package()
    try:
        model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY)
        description = model.get_spec().description
    except Exception as error:
        raise SourceError(_failed(f"Core ML cannot load {path.name}", error).message) from error
    inputs, outputs = (tuple(map(_spec, got)) for got in (description.input, description.output))

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = model.predict({spec.name: feeds[spec.name] for spec in inputs})
        except Exception as error:
            raise ValidationError(f"{path.name} does not run: {type(error).__name__}: {error}") from error
        return {spec.name: np.asarray(results[spec.name]) for spec in outputs}

    return Artifact("coreml", path, inputs, outputs, run)


def _spec(feature: Any) -> TensorSpec:
    """What a package says of an array; sizes that are free have no number there."""
    array = feature.type.multiArrayType
    dtype = _TYPES.get(int(array.dataType), "unknown")
    if not array.shape or array.WhichOneof("ShapeFlexibility"):
        return TensorSpec(feature.name, UNKNOWN, dtype)
    return named(feature.name, tuple(array.shape), dtype)


def _narrowed(array: Array) -> Array:
    return array.astype(_NARROWED.get(array.dtype.name, array.dtype.name))


def _failed(what: str, error: Exception) -> TargetError:
    return TargetError(
        f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:400]}",
        hint="the ONNX artifact does not have this limit",
    )
