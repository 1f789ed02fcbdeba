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
from converter.targets.brief import Brief
from converter.targets.keras import reload
from converter.targets.keras import write as save

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".h5"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:
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
    with quiet():  # it warns that the format is a legacy
        return save(made, path, brief)


def _operations(model: Any) -> list[str]:
    """The operations of `keras.ops` in a model, nested models included, as `class 'name'`.

    HDF5 would keep their class names, and Keras would take `Add` for the layer of that name.
    """
    layer = importlib.import_module("keras").Layer
    found = []
    for operation in getattr(model, "operations", []):
        if not isinstance(operation, layer):
            found.append(f"{type(operation).__name__} {operation.name!r}")
        found += _operations(operation)
    return found
