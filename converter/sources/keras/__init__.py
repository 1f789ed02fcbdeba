"""Keras models: applications by name, `.keras` and `.h5` files, live models."""

from converter.sources.keras.source import (
    KerasSource,
    open_application,
    open_keras_file,
    open_live,
)

__all__ = ["KerasSource", "open_application", "open_keras_file", "open_live"]
