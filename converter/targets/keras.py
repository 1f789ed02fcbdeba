"""Native Keras models, as `.keras` archives."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import TargetError
from converter.model import Array, Piece

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"

SUFFIX = ".keras"


def write(model: Any, path: Path) -> list[Path]:
    """Save a `keras.Model`; returns the files made.

    Raises:
        TargetError: a layer cannot be serialised.
    """
    try:
        model.save(path)
    except OSError:
        raise
    except Exception as error:
        raise TargetError(f"Keras cannot save {path.name}: {type(error).__name__}: {error}") from error
    return [path]


def reload(
    path: Path,
    piece: Piece,
    native: Any,  # noqa: ARG001  # the file has all that is needed
    *,
    trust: bool,
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The saved model as a function from the piece's inputs to its outputs, by name.

    Raises:
        TargetError: Keras does not load what it saved.
    """
    keras = importlib.import_module("keras")
    names = [spec.name for spec in piece.inputs]
    outputs = [spec.name for spec in piece.outputs]
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as error:
        raise TargetError(f"Keras cannot load {path.name} again: {error}") from error

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        values = [keras.ops.convert_to_tensor(feeds[name]) for name in names]
        result = model(values[0] if len(values) == 1 else values, training=False)
        arrays: Sequence[Any] = keras.tree.flatten(result)
        return {name: np.asarray(array) for name, array in zip(outputs, arrays, strict=True)}

    return run
