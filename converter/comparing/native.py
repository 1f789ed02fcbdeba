"""Artifacts that can be sources, too, by the sources' safe loaders: ONNX, Keras, programs of PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.errors import SourceError, ValidationError
from converter.model import Array, TensorSpec
from converter.onnxfile import OnnxFile, referring
from converter.quiet import quiet
from converter.runtime import Session
from converter.samples import vocabularies
from converter.targets.artifact import Artifact, named, narrowest

__all__ = ["open_keras", "open_onnx", "open_pt2"]

_NARROW: dict[int, str] = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.INT4: "int4",
    onnx.TensorProto.UINT4: "int4",
}
# Operators of ONNX and of ONNX Runtime that compute with, or stand for, numbers of 8 bits or fewer.
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


def open_onnx(
    path: Path, *, trust: bool, custom_ops: Sequence[Path], provider: str = "CPUExecutionProvider"
) -> Artifact:
    """An ONNX file in ONNX Runtime, with its optimizations.

    Raises:
        SourceError: no ONNX model, external data outside of its folder, or ONNX Runtime does not load it.
    """
    from converter.sources.onnx import open_onnx_file

    source = open_onnx_file(path, trust=trust, custom_ops=custom_ops)
    model, folder = referring(source.file, {})
    precision = _precision(source.file)
    blocked = precision != "float16"  # ONNX Runtime 1.31 crashes on some of these
    try:
        session = Session(model, provider, folder=folder, custom_ops=custom_ops, blocked=blocked)
    except ValidationError as error:
        raise SourceError(f"{path.name}: {error.message}", hint=error.hint) from error
    tables = vocabularies(source.file)
    inputs = tuple(
        dataclasses.replace(spec, value_range=(0, tables[spec.name] - 1)) if spec.name in tables else spec
        for spec in source.inputs
    )
    outputs = tuple(boundary.spec for boundary in source.outputs)
    return Artifact("onnx", path, inputs, outputs, session.run, precision)


def _precision(file: OnnxFile) -> str | None:
    found = {_NARROW.get(weight.dtype, "") for weight in file.weights.values()}
    for node in file.nodes():
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear"):
            found.add("int8")
        elif node.op_type == "MatMulNBits":  # ONNX Runtime's own
            found.add("int4" if next((a.i for a in node.attribute if a.name == "bits"), 4) <= 4 else "int8")
    return narrowest(found)


def open_keras(path: Path, *, trust: bool, custom_objects: Path | None) -> Artifact:
    """A `.keras` or `.h5` file in Keras, run eagerly.

    Raises:
        SourceError: damaged, never built, or not loadable without trust.
    """
    from converter.sources.keras import backend
    from converter.sources.keras.files import open_file
    from converter.sources.keras.signature import signature

    with quiet():
        model = open_file(path, trust=trust, custom_objects=custom_objects)
    called = signature(model)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = [backend.tensorflow().constant(feeds[spec.name]) for spec in called.inputs]
            outputs = called.call(model, values)
        except Exception as error:
            words = " ".join(str(error).split())[:400]
            raise ValidationError(f"{path.name} does not run: {type(error).__name__}: {words}") from error
        return {name: np.asarray(value) for name, value in called.name_outputs(model, outputs)}

    kind = "keras" if path.suffix.casefold() == ".keras" else "h5"
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    dtypes |= {str(variable.dtype) for variable in model.variables}
    return Artifact(kind, path, called.inputs, _declared(model, called), run, narrowest(dtypes))


def _declared(model: Any, called: Any) -> tuple[TensorSpec, ...]:
    """The outputs of models whose graph Keras knows; those of others are known once they have run."""
    structure = getattr(model, "_outputs_struct", None)
    if structure is None:
        return ()
    named_tensors = called.name_outputs(model, structure)
    return tuple(named(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in named_tensors)


def open_pt2(path: Path, *, trust: bool) -> Artifact:
    """A program of `torch.export.save` in PyTorch, in evaluation mode.

    Raises:
        SourceError: not trusted (loading one unpickles), not readable, or not a program for inference.
    """
    from converter.sources.torch import open_exported

    source = open_exported(path, trust=trust)
    outputs = source.outputs

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = source.run(feeds, outputs)
        except SourceError as error:
            raise ValidationError(error.message) from error
        return {boundary.name: found[boundary.value] for boundary in outputs}

    precision = narrowest(weight.dtype.name.lower() for weight in source.weights().values())
    return Artifact("pt2", path, source.inputs, tuple(b.spec for b in outputs), run, precision)
