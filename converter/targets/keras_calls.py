"""Calls of Keras models under a piece's names: what the targets made of Keras models have in common.

A model's inputs and outputs are the piece's in the same order. Their names may differ (Keras allows no `:` in
them), so what is here goes by position on the model's side and by name on the piece's.
"""

from __future__ import annotations

import importlib
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converter.errors import TargetError, ValidationError
from converter.model import Array
from converter.targets.brief import Brief, Run

__all__ = ["arguments", "called", "failed", "signed", "traced"]


def failed(what: str, error: Exception) -> TargetError:
    """What a framework said when it could not do something, in a line or two."""
    return TargetError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:400]}")


def called(model: Any, brief: Brief) -> Run:
    """A Keras model as a function from the piece's inputs to its outputs, by name.

    Raises:
        ValidationError: when called: the model refuses what the piece takes.
    """
    keras = importlib.import_module("keras")
    names = [spec.name for spec in brief.piece.inputs]
    outputs = [spec.name for spec in brief.piece.outputs]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = [keras.ops.convert_to_tensor(feeds[name]) for name in names]
        try:
            result = model(values[0] if len(values) == 1 else values, training=False)
        except Exception as error:
            raise ValidationError(f"the model does not run: {type(error).__name__}: {error}") from error
        arrays: Sequence[Any] = keras.tree.flatten(result)
        return {name: np.asarray(array) for name, array in zip(outputs, arrays, strict=True)}

    return run


def arguments(names: Sequence[str]) -> dict[str, str]:
    """Name → the argument of a `tf.function` that stands for it: itself where it is a lower-case identifier.

    `block5_pool` stays; `Encoder/pool:0` becomes `encoder_pool_0`.
    """
    made: dict[str, str] = {}
    reserved = {name for name in names if _legal(name)}
    for name in names:
        argument = name
        if not _legal(name):
            argument = stem = f"x_{name}"[0 if re.match(r"[^A-Za-z]", name) else 2 :]
            argument = stem = re.sub(r"[^a-z0-9_]", "_", stem.lower())
            count = 1
            while argument in reserved or not _legal(argument):
                count += 1
                argument = f"{stem}_{count}"
        reserved.add(argument)
        made[name] = argument
    return made


def _legal(name: str) -> bool:
    """TensorFlow takes identifiers, strips leading underscores, and writes signatures in lower case."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)) and not keyword.iskeyword(name)


def traced(model: Any, brief: Brief) -> tuple[Any, Any]:
    """A Keras model as a `tf.function` from arguments to a dictionary of outputs by the piece's names.

    Returns:
        The function, and its concrete function for the model's own shapes and dtypes.

    Raises:
        TargetError: TensorFlow cannot trace the model.
    """
    tensorflow = importlib.import_module("tensorflow")
    keras = importlib.import_module("keras")
    names = list(arguments([spec.name for spec in brief.piece.inputs]).values())
    outputs = [spec.name for spec in brief.piece.outputs]

    def call(**feeds: Any) -> dict[str, Any]:
        values = [feeds[name] for name in names]
        result = model(values[0] if len(values) == 1 else values, training=False)
        # An output that is an input, or another output, needs a node of its own.
        flat = [tensorflow.identity(tensor) for tensor in keras.tree.flatten(result)]
        return dict(zip(outputs, flat, strict=True))

    specs = {
        name: tensorflow.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(names, model.inputs, strict=True)
    }
    function = tensorflow.function(call, autograph=False)
    try:
        return function, function.get_concrete_function(**specs)
    except Exception as error:
        raise failed("TensorFlow cannot trace the model", error) from error


def signed(signature: Any, brief: Brief, what: str) -> Run:
    """A signature — of a SavedModel, of TensorFlow Lite — as a function of the piece's inputs.

    Raises:
        ValidationError: when called: the signature refuses what the piece takes, or lacks an output.
    """
    names = arguments([spec.name for spec in brief.piece.inputs])

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = signature(**{argument: feeds[name] for name, argument in names.items()})
            return {spec.name: np.asarray(results[spec.name]) for spec in brief.piece.outputs}
        except Exception as error:
            raise ValidationError(f"{what} does not run: {type(error).__name__}: {error}") from error

    return run
