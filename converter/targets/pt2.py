"""PyTorch pieces as ExportedPrograms, which load without the model's code (`torch.export.load`).

The program takes the piece's inputs by position and returns its output, or a tuple of them; `.module()` makes
a trainable module of it. The format: https://docs.pytorch.org/docs/stable/export/pt2_archive.html.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from converter.errors import TargetError
from converter.targets.brief import Brief, Run

__all__ = ["FRAMEWORK", "SUFFIX", "reload", "write"]

FRAMEWORK = "torch"
SUFFIX = ".pt2"


def write(made: Any, path: Path, brief: Brief) -> list[Path]:  # noqa: ARG001  # the model has all that is needed
    """Save the piece's program; returns the files made.

    Raises:
        TargetError: PyTorch cannot export the piece or write what it exported.
    """
    try:
        importlib.import_module("torch").export.save(made.program, path)
    except (TargetError, OSError):
        raise
    except Exception as error:
        raise TargetError(f"PyTorch cannot save {path.name}: {type(error).__name__}: {error}") from error
    return [path]


def reload(path: Path, made: Any, brief: Brief) -> Run:
    """What the file holds, as a function of the piece's inputs.

    Raises:
        TargetError: the file does not load.
    """
    torch = importlib.import_module("torch")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise TargetError(f"{path.name} does not load: {type(error).__name__}: {error}") from error

    outputs = [spec.name for spec in brief.piece.outputs]
    run = made.called(program.module())
    return lambda feeds: dict(zip(outputs, run(feeds), strict=True))
