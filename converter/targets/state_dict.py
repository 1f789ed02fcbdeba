"""Weights of a PyTorch piece under their original names, as `torch.save` writes a state_dict.

They load into the original architecture with `load_state_dict(…, strict=False)`, nothing unexpected.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".pth"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Save the piece's state_dict; returns the files made."""
    importlib.import_module("torch").save(made.state, path)
    return [path]


def reload(path: Path, made: Any, brief: Brief) -> Run:  # noqa: ARG001  # the model has all that is needed
    """The original architecture with the saved weights and no others, as a function of the piece's inputs.

    Raises:
        TargetError: the architecture does not know one of the names.
    """
    state = importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)
    run: Run = made.restored(state)
    return run
