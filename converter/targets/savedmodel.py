"""TensorFlow SavedModels: a folder with the graph, its signatures and the variables.

`serving_default` takes the piece's inputs and gives its outputs, under the piece's names (an input whose
name is no Python identifier is respelt, see `keras_calls.arguments`); `trainable_variables` has the weights
to train.
The format: https://www.tensorflow.org/guide/saved_model.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from converter.quiet import quiet
from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import failed, signed, traced

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".savedmodel"
_SIGNATURE = "serving_default"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:
    """Export a `keras.Model`; returns the files made, which lie in the folder `path`.

    Raises:
        TargetError: TensorFlow cannot trace the model or save it.
    """
    keras = importlib.import_module("keras")
    with quiet():
        function, _ = traced(made, brief)
        try:
            archive = keras.export.ExportArchive()
            archive.track(made)
            archive.add_endpoint(_SIGNATURE, function)
            archive.write_out(path, verbose=False)
        except OSError:
            raise
        except Exception as error:
            raise failed(f"TensorFlow cannot save {path.name}", error) from error
    return sorted(file for file in path.rglob("*") if file.is_file())


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the folder has all that is needed
    """The saved signature as a function from the piece's inputs to its outputs, by name.

    Raises:
        TargetError: TensorFlow does not load what it saved.
    """
    tensorflow = importlib.import_module("tensorflow")
    try:
        with quiet():
            loaded = tensorflow.saved_model.load(str(path))
            signature = loaded.signatures[_SIGNATURE]
    except Exception as error:
        raise failed(f"TensorFlow cannot load {path.name} again", error) from error
    return signed(signature, brief, path.name)
