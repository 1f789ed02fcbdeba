"""TensorFlow Lite (LiteRT) models: flatbuffers for phones and microcontrollers.

The signature `serving_default` has the piece's names (an input whose name is no Python identifier is respelt,
see `keras_calls.arguments`), every operator is one of TensorFlow Lite's own, the batch is free. The format:
https://ai.google.dev/edge/litert; quantisation: Jacob et al., arXiv:1712.05877, and
https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization.

The weights become constants before the converter sees the model: TensorFlow 2.21's leaves Keras 3's variables
as `VAR_HANDLE`s that nothing ever fills, and the result is NaN. It runs in a process of its own, for it is
known to abort, and to talk.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, TargetError
from converter.quiet import quiet
from converter.targets.artifact import Artifact
from converter.targets.brief import Brief, Run
from converter.targets.keras_calls import arguments, failed, signed, traced

__all__ = ["FRAMEWORK", "SUFFIX", "opened", "reload", "write"]

FRAMEWORK = "keras"
SUFFIX = ".tflite"
_SIGNATURE = "serving_default"
_CHILD = Path(__file__).with_name("tflite_child.py")
_PROBE = Path(__file__).with_name("tflite_probe.py")
# Flatbuffers have 32-bit offsets, and protobuf messages, which carry the constants there, 2 GB at most.
_LIMIT = 2**31 - 2**24
_HINT = "cut before the layer that needs it, or write ONNX for ONNX Runtime on the device"
_REFUSED = re.compile(r"(?:TF Select|Flex|Custom) ops: ([^\n]+)")


def write(made: Any, path: Path, brief: Brief, *, precision: str = "float32") -> list[Path]:
    """Convert a `keras.Model`; returns the files made.

    Args:
        made: the model.
        path: the file to make.
        brief: the piece; its calibration samples give the ranges of values for `int8`.
        precision: `float32`, `float16` (weights only; they are computed with in float32) or `int8` (weights
            and activations; inputs and outputs stay float32).

    Raises:
        TargetError: too large, operators that TensorFlow Lite does not have, or a converter that fails.
    """
    total = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in made.variables)
    if total > _LIMIT:
        raise TargetError(
            f"{path.name} would have {total / 1e9:.1f} GB of weights: a .tflite file has 2 GB at most"
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tflite-") as scratch:
        folder = Path(scratch)
        with quiet():
            _save_frozen(made, folder / "frozen", brief)
        if precision == "int8":
            _save_calibration(folder, brief)
        _convert(folder, precision, path)
    return [path]


def _save_frozen(made: Any, folder: Path, brief: Brief) -> None:
    """A SavedModel without variables, all weights constants of the graph, with one signature."""
    tensorflow = importlib.import_module("tensorflow")
    constants = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    _, concrete = traced(made, brief)
    try:
        frozen = constants.convert_variables_to_constants_v2(concrete)
        # The frozen function has lost the names: its inputs are placeholders, its outputs sorted by key.
        placeholders = [tensor.op.name for tensor in frozen.inputs]
        keys = sorted(spec.name for spec in brief.piece.outputs)

        def call(**feeds: Any) -> dict[str, Any]:
            results = frozen(*(feeds[name] for name in placeholders))
            return dict(zip(keys, tensorflow.nest.flatten(results), strict=True))

        module = tensorflow.Module()
        module.call = tensorflow.function(call, autograph=False)
        specs = concrete.structured_input_signature[1]
        signature = module.call.get_concrete_function(**specs)
        # Gradients (swish has one of its own) would hold on to tensors that freezing has taken away.
        options = tensorflow.saved_model.SaveOptions(experimental_custom_gradients=False)
        tensorflow.saved_model.save(module, str(folder), signatures={_SIGNATURE: signature}, options=options)
    except OSError:
        raise
    except Exception as error:
        raise failed("TensorFlow cannot make constants of the weights", error) from error


def _save_calibration(folder: Path, brief: Brief) -> None:
    names = arguments([spec.name for spec in brief.piece.inputs])
    samples = brief.calibration()
    if not samples:
        raise TargetError("int8 needs samples to measure the range of values on, and there are none")
    for index, feeds in enumerate(samples):
        arrays: dict[str, Any] = {argument: feeds[name] for name, argument in names.items()}
        np.savez(folder / f"calibration-{index:06}.npz", **arrays)


def _convert(folder: Path, precision: str, path: Path) -> None:
    done = _run(_CHILD, str(folder), precision)
    if done.returncode == 0:
        (folder / "model.tflite").replace(path)
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        end = " ".join(done.stderr.split())[-300:]
        raise TargetError(f"TensorFlow Lite's converter crashed ({name}): {end}", hint=_HINT)
    said = folder / "error.txt"
    raise _refusal(said.read_text() if said.exists() else done.stderr)


def _run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script beside this one in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # -P: or else the modules beside it, `keras` among them, would hide the packages of these names.
    command = [sys.executable, "-P", str(script), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


def _refusal(message: str) -> TargetError:
    """What the converter's pages of messages come down to."""
    refused = ", ".join(dict.fromkeys(_REFUSED.findall(message)))
    if refused:
        return TargetError(f"TensorFlow Lite has no operators of its own for {refused}", hint=_HINT)
    if "tensor list ops" in message:
        return TargetError(
            "TensorFlow Lite cannot loop over a sequence, as recurrent layers and TimeDistributed do, "
            "where the batch is free",
            hint="give the model's Input a batch_size, or recurrent layers unroll=True",
        )
    errors = " ".join(dict.fromkeys(re.findall(r"error: ([^\n]+)", message))) or " ".join(message.split())
    return TargetError(f"TensorFlow Lite's converter fails: {errors[:400]}", hint=_HINT)


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the file has all that is needed
    """The file in TensorFlow Lite's interpreter, as a function from the piece's inputs to its outputs.

    Raises:
        TargetError: the interpreter does not load the file.
    """
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tf.lite.Interpreter will move to ai_edge_litert
            interpreter = _interpreter()(model_path=str(path))
            interpreter.allocate_tensors()  # here, where nobody has to read of its delegates
            signature = interpreter.get_signature_runner(_SIGNATURE)
    except TargetError:
        raise
    except Exception as error:
        raise failed(f"TensorFlow Lite cannot load {path.name} again", error) from error
    return signed(signature, brief, path.name)


def opened(path: Path, *, trust: bool) -> Artifact:
    """Any TensorFlow Lite model, by its first signature, or by its tensors where it has none.

    Inputs and outputs that are quantised are taken and given in real numbers: the tensor's scale and zero
    point convert them.

    Args:
        path: the file.
        trust: let it have operators of TensorFlow (`Flex…`), some of which write files.

    Raises:
        SourceError: no such file, or one that the interpreter does not load, or crashes on.
    """
    from converter.targets.tflite_tensors import Tensors, foreign_operators

    foreign = foreign_operators(path)
    if foreign and not trust:
        raise SourceError(
            f"{path.name} has operators of TensorFlow, which can write files: {', '.join(foreign[:4])}",
            hint="--trust loads it all the same; only do so with a file from somebody you trust",
        )
    probed = _run(_PROBE, str(path)).returncode
    if probed < 0:
        name = signal.Signals(-probed).name
        raise SourceError(f"{path.name} is damaged: TensorFlow Lite's interpreter crashes on it ({name})")
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = _interpreter()(model_path=str(path))
            interpreter.allocate_tensors()
            tensors = Tensors(interpreter, path.name)
    except TargetError:
        raise
    except Exception as error:
        raise SourceError(failed(f"TensorFlow Lite cannot load {path.name}", error).message) from error
    return Artifact(
        "tflite", path, tensors.inputs, tensors.outputs, tensors.run, tensors.precision, tensors.notes
    )


def _interpreter() -> Any:
    """TensorFlow's interpreter; LiteRT's once TensorFlow has none."""
    found = getattr(importlib.import_module("tensorflow").lite, "Interpreter", None)
    if found is not None:
        return found
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError as error:
        raise TargetError(
            "this TensorFlow has no TensorFlow Lite interpreter", hint="pip install ai-edge-litert"
        ) from error
