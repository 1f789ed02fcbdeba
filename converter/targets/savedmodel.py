"""TensorFlow SavedModels: a folder with the graph, its signatures and the variables.

`serving_default` takes the piece's inputs and gives its outputs, under the piece's names (an input whose
name is no Python identifier is respelt, see `keras_calls.arguments`); `trainable_variables` has the weights
to train.
The format: https://www.tensorflow.org/guide/saved_model.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, ValidationError
from converter.model import Array, TensorSpec
from converter.quiet import quiet
from converter.targets.artifact import Artifact, named, narrowest, package
from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import failed, signed, traced

__all__ = ["FRAMEWORK", "SUFFIX", "opened", "reload", "write"]

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


def opened(path: Path) -> Artifact:
    """Any SavedModel, by its signature `serving_default`, or by the only one that it has.

    Loading one runs operators of the graph, some of which write files: the caller has to trust it.

    Raises:
        SourceError: TensorFlow does not load it, or it has no signature to go by.
    """
    tensorflow = package("tensorflow", "keras", "a SavedModel")
    try:
        with quiet():
            loaded = tensorflow.saved_model.load(str(path))
            signatures = dict(loaded.signatures)
    except Exception as error:
        raise SourceError(failed(f"TensorFlow cannot load {path.name}", error).message) from error
    signature = signatures.get(_SIGNATURE)
    if signature is None and len(signatures) == 1:
        signature = next(iter(signatures.values()))
    if signature is None:
        raise SourceError(
            f"{path.name} has no signature {_SIGNATURE!r}: it has {', '.join(signatures) or 'none'}",
            hint="export it with tf.saved_model.save(…, signatures=…) or model.export(…)",
        )
    inputs = _specs(signature.structured_input_signature[1])
    outputs = _specs(signature.structured_outputs)
    precision = narrowest(variable.dtype.name for variable in getattr(loaded, "variables", ()))

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            given = {spec.name: tensorflow.constant(feeds[spec.name]) for spec in inputs}
            return {name: np.asarray(value) for name, value in signature(**given).items()}
        except Exception as error:
            raise ValidationError(failed(f"{path.name} does not run", error).message) from error

    # What the signature computes with is collected together with what it was loaded from.
    run.loaded = loaded  # type: ignore[attr-defined]
    return Artifact("savedmodel", path, inputs, outputs, run, precision)


def _specs(tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, ("...",), tensor.dtype.name)
        if tensor.shape.rank is None
        else named(name, tensor.shape.as_list(), tensor.dtype.name)
        for name, tensor in tensors.items()
    )
