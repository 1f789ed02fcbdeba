"""Weights of a PyTorch piece under their original names, as `torch.save` writes a state_dict.

They load into the original architecture with `load_state_dict(…, strict=False)`, nothing unexpected.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converter.model import Array, Piece

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".pth"


def write(native: Any, path: Path) -> list[Path]:
    """Save the piece's state_dict; returns the files made."""
    importlib.import_module("torch").save(native.state, path)
    return [path]


def reload(
    path: Path,
    piece: Piece,  # noqa: ARG001  # the verb's
    native: Any,
    *,
    trust: bool,  # noqa: ARG001  # nothing in it needs trust
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The original architecture with the saved weights and no others, as a function of the piece's inputs.

    Raises:
        TargetError: the architecture does not know one of the names.
    """
    state = importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)
    run: Callable[[Mapping[str, Array]], dict[str, Array]] = native.restored(state)
    return run
