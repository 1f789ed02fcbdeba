"""PyTorch pieces as ExportedPrograms, which load without the model's code (`torch.export.load`).

The program takes the piece's inputs by position and returns its output, or a tuple of them; `.module()` makes
a trainable module of it. The format: https://docs.pytorch.org/docs/stable/export/pt2_archive.html.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.model import Array, Piece

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".pt2"


def write(native: Any, path: Path) -> list[Path]:
    """Save the piece's program; returns the files made.

    Raises:
        TargetError: PyTorch cannot export the piece or write what it exported.
    """
    try:
        importlib.import_module("torch").export.save(native.program, path)
    except (TargetError, OSError):
        raise
    except Exception as error:
        raise TargetError(f"PyTorch cannot save {path.name}: {type(error).__name__}: {error}") from error
    return [path]


def reload(
    path: Path,
    piece: Piece,
    native: Any,
    *,
    trust: bool,  # noqa: ARG001  # it is the file that was just written
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What the file holds, as a function of the piece's inputs.

    Raises:
        TargetError: the file does not load.
    """
    torch = importlib.import_module("torch")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise TargetError(f"{path.name} does not load: {type(error).__name__}: {error}") from error

    run = native.called(program)
    return lambda feeds: dict(zip((spec.name for spec in piece.outputs), run(feeds), strict=True))
