"""PyTorch modules as source text, `trunk.py`, with their weights in `trunk.safetensors`.

The text needs PyTorch and the package safetensors, nothing else; `load()` in it makes the trained module. The
format of the weights: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "REBUILT", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".py"
# Of a PyTorch model, too, it is rebuilt: the author's own code stays with the author.
REBUILT = True


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
    name = f"converter_reloaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        model = module.load()
    except Exception as error:
        raise TargetError(f"{path.name} does not load: {type(error).__name__}: {error}") from error
    outputs = [output.name for output in brief.piece.outputs]
    run = made.called(model)
    return lambda feeds: dict(zip(outputs, run(feeds), strict=True))


def _package() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise TargetError(
            "the target 'torch' needs the package safetensors", hint="pip install 'converter[torch]'"
        ) from error
