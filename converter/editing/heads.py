"""New layers from what the user names: a text, a file, an object of the source's framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from converter.errors import SourceError, TargetError, UsageError, ValidationError
from converter.heads import Head
from converter.model import Array, Source
from converter.onnxfile import OnnxFile, referring
from converter.runtime import Session
from converter.sources import Opening, resolve
from converter.sources.functions import function_of
from converter.sources.onnx import OnnxSource

__all__ = ["OnnxHead", "channels_last_of", "open_new"]


@dataclasses.dataclass(frozen=True)
class OnnxHead:
    """New layers as an ONNX model of one input.

    Attributes:
        name: of the file.
        model: the model.
        run: its outputs by name, computed by ONNX Runtime from the file.
    """

    name: str
    model: onnx.ModelProto
    run: Callable[[Array], dict[str, Array]]


def channels_last_of(source: Source) -> bool:
    """Whether images usually have their channels last: of files, as their maker has them, else first."""
    if not isinstance(source, OnnxSource):
        return source.info.kind == "keras"
    facts = {entry.key: entry.value for entry in source.file.header.metadata_props}
    return bool(facts.get("converter.source", "").startswith("keras:"))


def open_new(new: str | Head | Any, kind: str, trust: bool) -> Head | OnnxHead | Any:
    """What is to be put into a model of this kind of source.

    Raises:
        UsageError: a text that names no layers.
        SourceError: a file that cannot be opened.
        TargetError: layers of another framework.
    """
    if not isinstance(new, (str, Path)):
        return new if isinstance(new, Head) else _of_framework(new, kind, type(new).__name__)
    text = str(new)
    path = Path(text)
    suffix = path.suffix.casefold()
    if suffix == ".onnx":
        return _onnx_head(path)
    if suffix in (".keras", ".h5", ".hdf5"):
        opened = resolve(path, Opening(weights="pretrained", trust=trust, cache=False))
        return _of_framework(opened.model, kind, text)  # type: ignore[attr-defined]
    if text.rpartition(":")[0].endswith(".py"):
        return _of_framework(function_of(text)(), kind, text)
    if suffix in (".pt2", ".pt", ".pth", ".safetensors"):
        raise UsageError(f"{text} has no layers to put on: --head takes .onnx, .keras or file.py:factory")
    return Head.parse(text)


def _of_framework(new: Any, kind: str, name: str) -> Any:
    """The object itself, if it is a layer or module of the source's framework."""
    packages = {base.__module__.partition(".")[0] for base in type(new).__mro__}
    if kind in packages and callable(new):
        return new
    found = next((p for p in ("keras", "torch") if p in packages), None)
    if found is None or found == kind:
        raise UsageError(
            f"{name} is no layers: expected words such as dense(5), a file, or a layer or module"
        )
    raise TargetError(
        f"{name} is of {found}, and the model is one of {kind}",
        hint="a head in ONNX (--head head.onnx) goes onto any model",
    )


def _onnx_head(path: Path) -> OnnxHead:
    if not path.is_file():
        raise SourceError(f"no file {str(path)!r}")
    file = OnnxFile(path)
    content, folder = referring(file, {})  # as strict about sizes and places as with any source
    try:
        model = onnx.load(path)
    except Exception as error:
        raise SourceError(f"{path} is no ONNX model that can be read: {error}") from error
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in held]
    if len(inputs) != 1:
        raise UsageError(f"{path} takes {len(inputs)} inputs: a head takes one")
    try:
        session = Session(content, folder=folder, optimize=False)
    except ValidationError as error:
        raise SourceError(error.message, hint=error.hint) from error
    return OnnxHead(path.name, model, lambda value: session.run({inputs[0]: value}))
