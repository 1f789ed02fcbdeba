"""ONNX Runtime's own format, which its builds for phones load without an ONNX parser.

The format: https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from converter.errors import ConverterError, SourceError, TargetError
from converter.model import TensorSpec
from converter.runtime import Session, save_ort
from converter.targets.artifact import Artifact, named
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "opened", "reload", "write"]

FRAMEWORK = "onnx"
SUFFIX = ".ort"
# A flatbuffer with all weights inside; its offsets are signed 32-bit numbers.
_LIMIT = 2**31 - 2**20
# ONNX Runtime's words for element types, where they are not NumPy's.
_WORDS = {"float": "float32", "double": "float64"}


def write(made: Path, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the file has all that is needed
    """Convert an ONNX file, the data beside it included; returns the files made.

    Raises:
        TargetError: too large for the format, or ONNX Runtime cannot convert it.
    """
    total = sum(file.stat().st_size for file in (made, made.with_name(f"{made.name}.data")) if file.exists())
    if total > _LIMIT:
        raise TargetError(
            f"{path.name} would have {total / 1e9:.1f} GB: an .ort file has 2 GB at most",
            hint="the ONNX artifact does not have this limit",
        )
    try:
        save_ort(made, path)
    except ConverterError as error:
        raise TargetError(f"{path.name} cannot be made: {error.message}", hint=error.hint) from error
    return [path]


def reload(path: Path, made: Path, brief: Brief) -> Run:  # noqa: ARG001  # the file has all that is needed
    """The file in ONNX Runtime on the CPU, as a function from the piece's inputs to its outputs.

    Raises:
        TargetError: ONNX Runtime does not load what it saved.
    """
    try:
        session = Session(path)
    except ConverterError as error:
        raise TargetError(error.message, hint=error.hint) from error
    names = [spec.name for spec in brief.piece.outputs]
    return lambda feeds: session.run(feeds, names)


def opened(path: Path) -> Artifact:
    """Any file of this format, in ONNX Runtime on the CPU.

    Raises:
        SourceError: ONNX Runtime does not load it.
    """
    try:
        session = Session(path)
    except ConverterError as error:
        raise SourceError(error.message) from error
    inputs, outputs = (
        tuple(_spec(name, *session.types[name]) for name in names)
        for names in (session.inputs, session.outputs)
    )
    return Artifact("ort", path, inputs, outputs, session.run)


def _spec(name: str, type_: str, shape: Any) -> TensorSpec:
    word = re.fullmatch(r"tensor\((\w+)\)", type_)
    dtype = type_ if word is None else _WORDS.get(word[1], word[1])
    return named(name, shape or (), dtype)
