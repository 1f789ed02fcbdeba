"""The tensors at both ends of a TensorFlow Lite model, in real numbers.

A quantised tensor stands for scale * (q - zero point):
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, ValidationError
from converter.model import Array, TensorSpec
from converter.targets.artifact import named, package

__all__ = ["Tensors", "dequantized", "foreign_operators", "quantized"]


def foreign_operators(path: Path) -> list[str]:
    """The operators of TensorFlow itself that a file asks for, as `FlexWriteFile`.

    Raises:
        SourceError: no such file, or no TensorFlow Lite model.
    """
    schema = package("tensorflow.lite.python.schema_py_generated", "keras", "a TensorFlow Lite model")
    try:
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise SourceError(f"{path.name} is no TensorFlow Lite model (no TFL3 in its first 8 bytes)")
        model = schema.Model.GetRootAs(data)
        codes = [model.OperatorCodes(index).CustomCode() for index in range(model.OperatorCodesLength())]
        found = [code.decode("utf-8", "replace") for code in codes if code]
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{path.name} is not readable: {type(error).__name__}: {error}") from error
    return sorted({code for code in found if code.startswith("Flex")})


class Tensors:
    """What goes into an interpreter and comes out of it, by name.

    Attributes:
        inputs: the inputs; quantised ones as float32, with the range that their integers reach.
        outputs: the outputs; quantised ones as float32.
        precision: `int8` or `float16`, where some tensor of the model is one.
        notes: which of them are quantised, and how.
    """

    def __init__(self, interpreter: Any, name: str) -> None:
        self._interpreter, self._name = interpreter, name
        signatures = interpreter.get_signature_list()
        self._runner = None
        if signatures:
            self._runner = interpreter.get_signature_runner(next(iter(signatures)))
            self._takes = dict(self._runner.get_input_details())
            self._gives = dict(self._runner.get_output_details())
        else:
            self._takes = {detail["name"]: detail for detail in interpreter.get_input_details()}
            self._gives = {detail["name"]: detail for detail in interpreter.get_output_details()}
        self.inputs = tuple(_spec(key, detail) for key, detail in self._takes.items())
        self.outputs = tuple(_spec(key, detail) for key, detail in self._gives.items())
        self.precision = _precision(interpreter.get_tensor_details())
        self.notes = tuple(
            f"{key} is {np.dtype(detail['dtype']).name}: real = {scale:.6g} * (q - {zero})"
            for key, detail in (*self._takes.items(), *self._gives.items())
            if (scale := _scale(detail)) and (zero := int(detail["quantization"][1])) is not None
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            ValidationError: the model refuses these inputs.
        """
        given = {key: _into(feeds[key], detail) for key, detail in self._takes.items()}
        try:
            found = self._runner(**given) if self._runner is not None else self._invoked(given)
        except Exception as error:
            raise ValidationError(f"{self._name} does not run: {type(error).__name__}: {error}") from error
        return {key: _out(np.array(found[key]), detail) for key, detail in self._gives.items()}

    def _invoked(self, given: Mapping[str, Array]) -> dict[str, Array]:
        interpreter = self._interpreter
        for key, detail in self._takes.items():
            interpreter.resize_tensor_input(detail["index"], given[key].shape)
        interpreter.allocate_tensors()
        for key, detail in self._takes.items():
            interpreter.set_tensor(detail["index"], given[key])
        interpreter.invoke()
        return {key: interpreter.get_tensor(detail["index"]) for key, detail in self._gives.items()}


def quantized(array: Array, scale: float, zero: int, dtype: np.dtype[Any]) -> Array:
    """Real numbers as the nearest integers of a quantised tensor, clipped to those that it has."""
    limits = np.iinfo(dtype)
    integers = np.round(np.asarray(array, np.float64) / scale) + zero
    return np.clip(integers, limits.min, limits.max).astype(dtype)


def dequantized(array: Array, scale: float, zero: int) -> Array:
    """The real numbers, as float32, that a quantised tensor's integers stand for."""
    return np.asarray((array.astype(np.float64) - zero) * scale, np.float32)


def _scale(detail: Mapping[str, Any]) -> float:
    """The scale of a tensor of integers; 0 for others."""
    return float(detail["quantization"][0]) if np.dtype(detail["dtype"]).kind in "iu" else 0.0


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    sizes = [int(size) for size in detail.get("shape_signature", detail["shape"])]
    # Without free sizes a converter may leave the signature of the shape out.
    spec = named(name, sizes or [int(size) for size in detail["shape"]], dtype.name)
    scale, zero = _scale(detail), int(detail["quantization"][1])
    if not scale:
        return spec
    limits = np.iinfo(dtype)
    reach = (scale * (limits.min - zero), scale * (limits.max - zero))
    return TensorSpec(name, spec.shape, "float32", reach)


def _precision(details: list[Mapping[str, Any]]) -> str | None:
    """What the model computes with: integers that have a scale, or weights in float16."""
    if any(_scale(d) and np.dtype(d["dtype"]).itemsize <= 2 for d in details):
        return "int8"
    halves = any(np.dtype(d["dtype"]) == np.float16 for d in details)
    return "float16" if halves else None


def _into(array: Array, detail: Mapping[str, Any]) -> Array:
    scale = _scale(detail)
    if not scale:
        return np.ascontiguousarray(array)
    return quantized(array, scale, int(detail["quantization"][1]), np.dtype(detail["dtype"]))


def _out(array: Array, detail: Mapping[str, Any]) -> Array:
    scale = _scale(detail)
    return dequantized(array, scale, int(detail["quantization"][1])) if scale else array
