"""A ranking of blocks for people and programs: a table, JSON, a plot."""

from __future__ import annotations

import dataclasses
import math
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from converter.report.plot import matplotlib, save
from converter.report.terminal import print_table

__all__ = ["plot_rank", "rank_as_json", "rank_table"]

# Names of blocks that are longer lose their middle; the title is broken into lines.
_NAME, _LINE = 44, 105
_BLUE, _ORANGE = "#3b6fb6", "#d08436"


def rank_table(console: Console, ranking: Any, suggested: int = 3) -> None:
    """Print every block in order of depth, and which have the least influence.

    Args:
        console: where to.
        ranking: a `converter.ranking.Ranking`.
        suggested: how many blocks to name at most.
    """

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    say(f"{len(ranking.blocks)} blocks on {ranking.samples} samples, each left out alone")
    classifier = any(block.agreement is not None for block in ranking.blocks)
    heads = ["block", "kind", "parameters", "change", "output error", *(["top-1 kept"] if classifier else [])]
    rows = [
        [block.name, block.kind, f"{block.parameters:,}", _figure(block.change), _figure(block.output_error)]
        + ([_share(block.agreement)] if classifier else [])
        for block in ranking.blocks
    ]
    print_table(console, "", heads, rows)
    for block in ranking.blocks:
        if block.problem is not None:
            say(f"{block.name}: {block.problem}", "red")
    for note in ranking.notes:
        say(note, "yellow")
    least = ranking.least[:suggested]
    if least:
        say(f"least influence first: {', '.join(block.name for block in least)}")
        dropped = " ".join(f"--drop {shlex.quote(name)}" for name in least[0].drop)
        say(f"converter convert {shlex.quote(ranking.source.locator)} {dropped}")
    if not ranking.source.trained:
        say(f"UNTRAINED: the weights are {ranking.source.weights}, and so is the ranking", "yellow")


def rank_as_json(ranking: Any) -> dict[str, Any]:
    """A ranking as JSON-ready values; infinities become strings."""
    blocks = []
    for block in ranking.blocks:
        entry = dataclasses.asdict(block) | {"drop": list(block.drop)}
        blocks.append({k: str(v) if v in (math.inf, -math.inf) else v for k, v in entry.items()})
    return {
        "source": dataclasses.asdict(ranking.source),
        "samples": ranking.samples,
        "outputs": list(ranking.outputs),
        "blocks": blocks,
        "least_influence_first": [block.name for block in ranking.least],
        "notes": list(ranking.notes),
    }


def plot_rank(path: Path, title: str, ranking: Any) -> None:
    """Draw what each block changes, and what the output loses without it, from the input downwards.

    Args:
        path: the picture to write; its suffix says which kind (`.svg`, `.png`, `.pdf`).
        title: what to write above it.
        ranking: a `converter.ranking.Ranking`.

    Raises:
        UsageError: matplotlib is missing, or knows no such kind of picture.
    """
    blocks = ranking.blocks
    figure = matplotlib("figure").Figure(figsize=(10, 1.6 + 0.24 * max(len(blocks), 4)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    best = {block.name for block in ranking.least[:3]}
    _bars(left, [block.change for block in blocks], _BLUE, "change: 1 − cosine of input and output")
    _bars(right, [block.output_error for block in blocks], _ORANGE, "output error without it, of scale")
    for place, block in enumerate(blocks):
        if block.problem is not None:
            at = {"transform": right.get_yaxis_transform(), "va": "center", "fontsize": 7, "color": "#a02020"}
            right.text(0.99, place, block.problem[:60], ha="right", **at)
    left.set_yticks(range(len(blocks)), [_short(block.name) for block in blocks], fontsize=8)
    for label, block in zip(left.get_yticklabels(), blocks, strict=True):
        label.set_fontweight("bold" if block.name in best else "normal")
    left.set_ylim(len(blocks) - 0.4, -0.6)
    left.set_ylabel("from input to output")
    least = ", ".join(_short(block.name) for block in ranking.least[:3])
    line = textwrap.fill(f"least influence first (in bold): {least}", _LINE) if least else ""
    figure.suptitle(f"{title}\n{line}".rstrip(), fontsize=10)
    save(figure, path)


def _bars(axes: Any, values: Sequence[float | None], colour: str, label: str) -> None:
    """Bars, on a logarithmic axis where a few would hide the others."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    axes.barh(
        range(len(values)),
        [value if value is not None and math.isfinite(value) else 0 for value in values],
        color=colour,
        height=0.7,
    )
    positive = sorted(value for value in known if value > 0)
    if positive and positive[-1] > 20 * positive[len(positive) // 2]:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_formatter("{x:g}")  # no power of ten in the label's place
        axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    half = (_NAME - 1) // 2
    return name if len(name) <= _NAME else f"{name[:half]}…{name[-half:]}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
