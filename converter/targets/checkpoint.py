"""Weights of a Keras piece as a TensorFlow checkpoint.

They go into the same architecture, built anew: `tf.train.Checkpoint(model=trunk).restore(path)`. Two files,
`<path>.index` and `<path>.data-00000-of-00001`; the format: https://www.tensorflow.org/guide/checkpoint.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import TargetError
from converter.quiet import quiet
from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import called, failed

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".ckpt"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the verb's
    """Save the weights of a `keras.Model`; returns the files made.

    Raises:
        TargetError: there are no weights, or TensorFlow cannot save them.
    """
    if not made.variables:
        raise TargetError("there are no weights in this piece to save")
    tensorflow = importlib.import_module("tensorflow")
    try:
        with quiet():
            checkpoint = tensorflow.train.Checkpoint(model=made)
            checkpoint.save_counter.assign(1)  # `restore` asks for it, and only `save` would put it there
            checkpoint.write(str(path))
    except OSError:
        raise
    except Exception as error:
        raise failed(f"TensorFlow cannot save {path.name}", error) from error
    return sorted(path.parent.glob(f"{path.name}.*"))


def reload(path: Path, made: Any, brief: Brief) -> Run:
    """The same architecture, built anew, with the saved weights and no others.

    Every weight is NaN, or an integer's complement, before it is restored, so that one that the checkpoint
    lacks is seen in the result.

    Raises:
        TargetError: the checkpoint has not every weight of the architecture, or others besides.
    """
    tensorflow = importlib.import_module("tensorflow")
    keras = importlib.import_module("keras")
    try:
        with quiet():
            model = keras.models.clone_model(made)
            for variable in model.variables:
                variable.assign(_other(np.asarray(variable)))
            status = tensorflow.train.Checkpoint(model=model).restore(str(path))
            status.assert_existing_objects_matched()
            status.assert_consumed()
    except Exception as error:
        raise failed(f"{path.name} does not go into the architecture built anew", error) from error
    return called(model, brief)


def _other(value: Any) -> Any:
    if value.dtype == bool or np.issubdtype(value.dtype, np.integer):
        return ~value
    return np.full_like(value, np.nan)
