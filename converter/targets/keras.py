"""Keras models as `.keras` archives."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import called, failed

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".keras"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Save a `keras.Model`; returns the files made.

    Raises:
        TargetError: a layer cannot be serialised.
    """
    try:
        made.save(path)
    except OSError:
        raise
    except Exception as error:
        raise failed(f"Keras cannot save {path.name}", error) from error
    return [path]


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
