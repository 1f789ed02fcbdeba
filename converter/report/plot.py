"""Plots for people, by matplotlib, which is an optional extra."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converter.errors import UsageError
from converter.scratch import replacing

__all__ = ["matplotlib", "plot_plan", "save"]


def matplotlib(module: str) -> Any:
    """A module of matplotlib.

    Raises:
        UsageError: it is missing.
    """
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise UsageError("--plot needs matplotlib", hint="pip install 'converter[plot]'") from error


def save(figure: Any, path: Path) -> None:
    """Write a picture; the same one has the same bytes.

    Raises:
        UsageError: matplotlib knows no such kind of picture, or the file cannot be written.
    """
    try:
        with replacing(path) as file:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(file, format=path.suffix[1:] or None, metadata=metadata)
    except (ValueError, OSError) as error:
        raise UsageError(f"--plot {path}: {error}") from error


def plot_plan(path: Path, title: str, cuts: Sequence[Any]) -> None:
    """Draw depth against bytes that cross, and against the MACs before the cut.

    Args:
        path: the picture to write; its suffix says which kind (`.svg`, `.png`, `.pdf`).
        title: what to write above it.
        cuts: `converter.planning.CutCost`s in order of depth.

    Raises:
        UsageError: matplotlib is missing, or knows no such kind of picture.
    """
    figure = matplotlib("figure").Figure(figsize=(9, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    known = [cut for cut in cuts if cut.crossing_bytes]
    for single, marker, label in ((True, "o", "one tensor"), (False, "x", "several tensors")):
        some = [cut for cut in known if cut.single is single]
        if some:
            sizes = [cut.crossing_bytes / 1e3 for cut in some]
            upper.plot([cut.depth for cut in some], sizes, marker, markersize=4, label=label)
    upper.set_yscale("log")
    upper.set_ylabel("crosses, kB a sample")
    upper.legend()
    upper.set_title(title)
    lower.plot([cut.depth for cut in cuts], [cut.trunk.macs / 1e9 for cut in cuts], drawstyle="steps-post")
    lower.set_ylabel("trunk, GMACs")
    lower.set_xlabel("depth of the cut")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    save(figure, path)
