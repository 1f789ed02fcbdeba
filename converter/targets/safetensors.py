"""Weights of a PyTorch piece under their original names, as a `.safetensors` file.

They load into the original architecture with `load_state_dict(…, strict=False)`, nothing unexpected.
The format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".safetensors"


def _package() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise TargetError(
            "the target 'safetensors' needs the package safetensors", hint="pip install 'converter[torch]'"
        ) from error


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Save the piece's weights; returns the files made.

    Raises:
        TargetError: the package safetensors is missing.
    """
    _package().save_file(made.state, path, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # the package lets nobody else read what it writes
    return [path]


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the model has all that is needed
    """The original architecture with the saved weights and no others, as a function of the piece's inputs.

    Raises:
        TargetError: the architecture does not know one of the names.
    """
    run: Run = made.restored(_package().load_file(path))
    return run
