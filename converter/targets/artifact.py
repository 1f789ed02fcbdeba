"""An artifact opened as it stands: what it takes, what it puts out, a way to run it; no source is needed."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.model import Dim, TensorSpec
from converter.quiet import quiet
from converter.targets.brief import Run

__all__ = ["UNKNOWN", "Artifact", "named", "narrowest", "package"]

# The shape of a tensor of which an artifact says nothing.
UNKNOWN: tuple[Dim, ...] = ("...",)


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A file or folder with a model in it, loaded in its own runtime.

    Attributes:
        kind: the kind of artifact, as targets are called (`onnx`, `savedmodel`).
        path: where it lies.
        inputs: what it takes. A shape may be `UNKNOWN` and a dtype `unknown` where the artifact does not say.
        outputs: what it declares to put out, in its order; the shapes are what it says, not what it does.
        run: inputs by name → outputs by name, in the artifact's own layout and dtypes.
        precision: `float16`, `bfloat16`, `int8` or `int4`, where it computes in less than float32.
        notes: what is to be known of how it is run.
    """

    kind: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Run
    precision: str | None = None
    notes: tuple[str, ...] = ()


def package(name: str, extra: str, kind: str) -> Any:
    """A framework that runs a kind of artifact, imported without its start-up chatter.

    Raises:
        TargetError: it does not import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own switch
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise TargetError(
            f"{kind} needs the package {name.partition('.')[0]}, which does not import: {error}",
            hint=f"pip install 'converter[{extra}]' brings it",
        ) from error


def named(name: str, sizes: Iterable[int | str | None], dtype: str) -> TensorSpec:
    """A spec; sizes that are None or negative become symbols: `batch` on the first axis, else `name_dim2`."""
    dims: list[Dim] = []
    for axis, size in enumerate(sizes):
        free = size is None or (isinstance(size, int) and size < 0)
        dims.append(("batch" if axis == 0 else f"{name}_dim{axis}") if free or size is None else size)
    return TensorSpec(name, tuple(dims), dtype)


def narrowest(dtypes: Iterable[str]) -> str | None:
    """The dtype among these that rounds most, of those that round more than float32; None without such."""
    found = set(dtypes)
    return next((dtype for dtype in ("int4", "int8", "bfloat16", "float16") if dtype in found), None)
