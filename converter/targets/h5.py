"""Native Keras models as HDF5 files, Keras's format before `.keras`.

The attribute `model_config` has the architecture as JSON, the group `model_weights` the weights by layer:
https://keras.io/api/models/model_saving_apis/. It knows layers alone: classes are found by their bare names.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.quiet import quiet
from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import called, failed

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".h5"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Save a `keras.Model`; returns the files made.

    Raises:
        TargetError: the model computes with more than layers, or a layer cannot be serialised.
    """
    strangers = _operations(made)
    if strangers:
        raise TargetError(
            f"HDF5 keeps layers only, and this model also computes with {', '.join(strangers[:4])}",
            hint="--targets keras writes a .keras archive, which does not have this limit",
        )
    try:
        with quiet():  # it warns that the format is a legacy
            made.save(path)
    except OSError:
        raise
    except Exception as error:
        raise failed(f"Keras cannot save {path.name}", error) from error
    return [path]


def _operations(model: Any) -> list[str]:
    """The operations of `keras.ops` in a model, nested models included, as `class 'name'`.

    HDF5 would keep their class names, and Keras would take `Add` for the layer of that name.
    """
    keras = importlib.import_module("keras")
    found = []
    for operation in getattr(model, "operations", []):
        if not isinstance(operation, keras.Layer):
            found.append(f"{type(operation).__name__} {operation.name!r}")
        found += _operations(operation)
    return found


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the file has all that is needed
    """The saved model as a function from the piece's inputs to its outputs, by name.

    Raises:
        TargetError: Keras does not load what it saved.
    """
    keras = importlib.import_module("keras")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not brief.trust)
    except Exception as error:
        raise failed(f"Keras cannot load {path.name} again", error) from error
    return called(model, brief)
