"""PyTorch modules as source text, `trunk.py`, with their weights in `trunk.safetensors`.

The text needs PyTorch and the package safetensors, nothing else; `load()` in it makes the trained module. The
format of the weights: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError, TargetError, ValidationError
from converter.model import Array, TensorSpec
from converter.targets.artifact import UNKNOWN, Artifact, named, narrowest, package
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "REBUILT", "SUFFIX", "opened", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".py"
# Of a PyTorch model, too, it is rebuilt: the author's own code stays with the author.
REBUILT = True
# A line of the text that says what goes in or comes out: `x: float32[batch, 3, 224, 224]`.
_TENSOR = re.compile(r" {8}(.+): (\w+)\[([^\]]*)\]")


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Write a rebuilt model's text and weights; returns the files made.

    Raises:
        TargetError: the package safetensors is missing.
    """
    weights = _weights(made, path)
    path.write_text(made.text_for(weights.name), encoding="utf-8")
    return [path, weights]


def _weights(made: Any, path: Path) -> Path:
    """The file of the weights; under another name where one of other weights stands in its place."""
    safetensors = _package()
    data = safetensors.save(made.state, metadata={"format": "pt"})
    for name in (f"{path.stem}.safetensors", f"{path.stem}.torch.safetensors"):
        file = path.with_name(name)
        if not file.exists() or file.read_bytes() == data:
            break
    file.write_bytes(data)
    return file


def reload(path: Path, made: Any, brief: Brief) -> Run:
    """The module that the file's own `load` makes, as a function from the piece's inputs to its outputs.

    Raises:
        TargetError: the text does not run, or the weights do not fit it.
    """
    try:
        model = _loaded(path)
    except Exception as error:
        raise TargetError(f"{path.name} does not load: {type(error).__name__}: {error}") from error
    outputs = [output.name for output in brief.piece.outputs]
    run = made.called(model)
    return lambda feeds: dict(zip(outputs, run(feeds), strict=True))


def opened(path: Path) -> Artifact:
    """Any Python file whose function `load` makes a module in evaluation mode, tensors in and tensors out.

    The file is run: the caller has to trust it. The files that this package writes say in the class's
    docstring what goes in and what comes out; of others the arguments of `forward` alone are known.

    Raises:
        SourceError: the file does not run, has no `load`, or that makes no module.
    """
    torch = package("torch", "torch", "a module of PyTorch")
    try:
        model = _loaded(path)
    except Exception as error:
        raise SourceError(f"{path.name} does not load: {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise SourceError(f"load() of {path.name} makes a {type(model).__name__}, expected a torch.nn.Module")
    model.eval()
    arguments = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
    ]
    takes, _, gives = (type(model).__doc__ or "").partition("Outputs:")
    known = {spec.name: spec for spec in _described(takes)}
    inputs = tuple(known.get(name, TensorSpec(name, UNKNOWN, "unknown")) for name in arguments)
    outputs = _described(gives)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            with torch.no_grad():
                found = model(*(torch.tensor(np.asarray(feeds[name])) for name in arguments))
            arrays = [np.asarray(tensor) for tensor in (found if isinstance(found, tuple) else (found,))]
        except Exception as error:
            raise ValidationError(f"{path.name} does not run: {type(error).__name__}: {error}") from error
        names = [spec.name for spec in outputs]
        if len(names) != len(arrays):
            names = [f"output_{place}" for place in range(len(arrays))]
        return dict(zip(names, arrays, strict=True))

    dtypes = (str(tensor.dtype).removeprefix("torch.") for tensor in model.state_dict().values())
    return Artifact("torch", path, inputs, outputs, run, narrowest(dtypes))


def _described(text: str) -> tuple[TensorSpec, ...]:
    found = (_TENSOR.fullmatch(line) for line in text.splitlines())
    return tuple(_tensor(*match.groups()) for match in found if match is not None)


def _tensor(name: str, dtype: str, sizes: str) -> TensorSpec:
    dims = [dim.strip() for dim in sizes.split(",") if dim.strip()]
    return named(name, [int(dim) if dim.isdigit() else dim for dim in dims], dtype)


def _loaded(path: Path) -> Any:
    """What the file's own `load` makes; whatever it raises."""
    spec = importlib.util.spec_from_file_location(f"converter_reloaded_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


def _package() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise TargetError(
            "the target 'torch' needs the package safetensors", hint="pip install 'converter[torch]'"
        ) from error
