"""Packages that not everyone has, imported on use."""

from __future__ import annotations

import importlib
from typing import Any

from converter.errors import TargetError

__all__ = ["extra"]


def extra(module: str, purpose: str) -> Any:
    """A module of a package that is not everyone's.

    Args:
        module: its dotted name (`PIL.Image`).
        purpose: what is being done, the beginning of a sentence (`reading images`).

    Raises:
        TargetError: the package is missing or does not import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TargetError(
            f"{purpose} needs {module.partition('.')[0]}, which does not import: {error}",
            hint="pip install 'converter[fit]'",
        ) from error
