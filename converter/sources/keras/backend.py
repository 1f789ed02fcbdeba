"""Importing Keras on TensorFlow, quietly and with a clear message when it cannot be had."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from typing import Any

from converter.errors import SourceError, UnknownModelError
from converter.quiet import quiet

__all__ = ["keras", "tensorflow", "tf2onnx"]

_INSTALL = "pip install 'converter[keras]' brings TensorFlow, Keras and tf2onnx"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnknownModelError(
            f"a Keras model needs the package {name!r}, which does not import: {error}",
            hint=_INSTALL,
        ) from error


@functools.cache
def tensorflow() -> Any:
    """The module `tensorflow`, without its start-up chatter."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        module = _import("tensorflow")
    module.get_logger().setLevel(logging.ERROR)
    return module


@functools.cache
def keras() -> Any:
    """The module `keras`, running on TensorFlow.

    Raises:
        SourceError: Keras is missing, older than 3, or already runs on another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    tensorflow()
    with quiet():
        module = _import("keras")
    if int(module.__version__.partition(".")[0]) < 3:
        raise SourceError(f"Keras 3 or newer is needed, got {module.__version__}", hint=_INSTALL)
    if module.backend.backend() != "tensorflow":
        raise SourceError(
            f"Keras runs on the backend {module.backend.backend()!r}; TensorFlow is needed",
            hint="set KERAS_BACKEND=tensorflow before keras is imported",
        )
    return module


@functools.cache
def tf2onnx() -> Any:
    """The module `tf2onnx.tfonnx`, told to speak of errors only."""
    tensorflow()
    with quiet():
        module = _import("tf2onnx.tfonnx")
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    return module
