"""A drift for people and programs: a table, JSON, a plot."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from converter.report.plot import matplotlib, save
from converter.report.sizes import counted
from converter.report.terminal import print_table

__all__ = ["drift_as_json", "drift_table", "plot_drift"]

# Names of layers that are longer lose their middle; names under a plot at most, named departures at most.
_NAME, _TICKS, _NAMED = 40, 50, 3
_TICK_NAME = 26
_LINE = 150
# Reasons of one kind that are listed on the terminal; JSON has them all.
_LISTED = 8
_BLUE, _GREY, _ORANGE, _RED, _GREEN = "#3b6fb6", "#8a8a8a", "#d08436", "#a02020", "#3d8b55"
_PURPLE = "#7d5ba6"
_ROOM = 300  # times the largest error, above it: for names


def drift_table(console: Console, drift: Any, rows: int = 20) -> None:
    """Print the rows with the largest errors in order of depth, and where departures begin.

    Args:
        console: where to.
        drift: a `converter.drifting.Drift`.
        rows: how many rows; 0 for all.
    """

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    say(
        f"{drift.provider} against {drift.judge}: {counted(len(drift.rows), 'boundary', 'boundaries')}, "
        f"{_samples(drift)}"
    )
    shown = drift.worst(rows)
    if len(shown) < len(drift.rows):
        say(f"the {len(shown)} with the largest errors, in order of depth")
    print_table(console, "", _heads(drift), [_cells(row, drift) for row in shown])
    for row in shown:
        if row.problem is not None:
            say(f"{row.name}: {row.problem}", "red")
    for text, names in _grouped([(row.note, row.name) for row in drift.rows if row.note]):
        say(f"{text}: {names}", "yellow")
    for text, names in _grouped([(reason, name) for name, reason in drift.skipped.items()]):
        say(f"not compared, {text}: {names}", "yellow")
    for note in drift.notes:
        say(note, "yellow")
    for line, style in _verdict(drift):
        say(line, style)
    if not drift.source.trained:
        say(f"UNTRAINED: the weights are {drift.source.weights}", "yellow")


def _samples(drift: Any) -> str:
    return counted(drift.samples, "sample")


def _heads(drift: Any) -> list[str]:
    heads = ["#", "layer", "kind", "of scale", "alone", "SNR dB"]
    return heads + (["from float64", "framework's"] if drift.noise_floor else []) + ["limit", ""]


def _cells(row: Any, drift: Any) -> list[str]:
    cells = [str(row.depth), _short(row.name), row.kind, _figure(row.error), _figure(row.own_error)]
    cells.append("-" if math.isnan(row.snr_db) else f"{row.snr_db:.0f}")
    if drift.noise_floor:
        cells += [_figure(row.ort_distance), _figure(row.framework_distance)]
    link = "most from" if row.verdict == "accumulated" else "from"
    word = row.verdict if row.cause is None else f"{row.verdict}, {link} {_short(row.cause)}"
    return [*cells, _figure(row.limit), "" if word == "agrees" else word]


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else "0" if value == 0 else f"{value:.1e}"


def _grouped(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The names of each reason, the first of many."""
    groups: dict[str, list[str]] = {}
    for reason, name in pairs:
        groups.setdefault(reason, []).append(name)
    return [(reason, _some(names)) for reason, names in groups.items()]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _verdict(drift: Any) -> list[tuple[str, str]]:
    """What was found, in lines with their colours."""
    first = drift.first
    if first is None:
        worst = max((row.error for row in drift.rows if not math.isnan(row.error)), default=0.0)
        return [(f"no layer departs: the largest error is {_figure(worst)} of scale", "green")]
    lines = [(f"first to depart: {first.name} ({first.kind}), {_how(first)}", "bold red")]
    own = [row.name for row in drift.origins if row.verdict == "own"]
    if own:
        lines.append((f"depart on their own: {_some(own)}", "red"))
    adding = [row.name for row in drift.origins if row.verdict == "accumulated"]
    if adding:
        lines.append((f"no layer alone, errors add up or are amplified: {_some(adding)}", "red"))
    inherited = sum(row.verdict == "inherited" for row in drift.rows)
    if inherited:
        lines.append((f"carry the error of layers before them: {inherited}", "red"))
    return lines


def _how(row: Any) -> str:
    if row.verdict == "own":
        if row.problem is not None:
            return f"on its own: {row.problem}"
        return f"on its own: {_figure(row.own_error)} of scale, given the framework's own inputs"
    most = "" if row.cause in (None, row.name) else f", most of it from {row.cause}"
    return f"not on its own: {_figure(row.error)} of scale adds up{most}"


# ---------------------------------------------------------------- JSON


def drift_as_json(drift: Any) -> dict[str, Any]:
    """A drift as JSON-ready values; NaN is null, infinities are strings."""
    first = drift.first
    return {
        "source": dataclasses.asdict(drift.source),
        "judge": drift.judge,
        "provider": drift.provider,
        "samples": drift.samples,
        "tolerance": drift.tolerance,
        "noise_floor": drift.noise_floor,
        "passed": drift.passed,
        "first": None if first is None else first.name,
        "origins": [row.name for row in drift.origins],
        "layers": [_as_json(row) for row in drift.rows],
        "skipped": dict(drift.skipped),
        "notes": list(drift.notes),
    }


def _as_json(row: Any) -> dict[str, Any]:
    entry = dataclasses.asdict(row) | {"inputs": list(row.inputs)}
    return {key: _plain(value) for key, value in entry.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


# ---------------------------------------------------------------- plot


def plot_drift(path: Path, drift: Any) -> None:
    """Draw error by depth: what has come together, and what each layer makes by itself.

    With a noise floor the distances from float64 are drawn instead of the errors. Errors of 0 lie on the
    lowest line.

    Args:
        path: the picture to write; its suffix says which kind (`.svg`, `.png`, `.pdf`).
        drift: a `converter.drifting.Drift`.

    Raises:
        UsageError: matplotlib is missing, or knows no such kind of picture.
    """
    rows = drift.rows
    width = min(18.0, max(8.0, 4 + 0.1 * len(rows)))
    figure = matplotlib("figure").Figure(figsize=(width, 6), layout="constrained")
    axes = figure.subplots()
    series = _series(drift)
    bottom = _bottom([value for _, values, _, _ in series for value in values])
    depths = range(len(rows))
    for label, values, colour, style in series:
        axes.plot(depths, [_drawn(value, bottom) for value in values], style, color=colour, label=label)
    _mark(axes, rows, [_drawn(value, bottom) for value in series[0][1]])
    axes.set_yscale("log")
    axes.set_ylim(bottom / 1.6, _top(series) * (_ROOM if drift.origins else 3))
    axes.set_xlim(-1, len(rows))
    axes.axhline(bottom, color=_GREY, linewidth=0.5)
    lowest, highest = round(math.log10(bottom)), math.floor(math.log10(axes.get_ylim()[1]))
    powers = range(lowest + 1, highest + 1, max(1, (highest - lowest) // 8))
    axes.set_yticks([bottom, *(10.0**n for n in powers)], ["0", *(f"$10^{{{n}}}$" for n in powers)])
    axes.minorticks_off()
    axes.set_ylabel("largest error, of scale" if not drift.noise_floor else "distance from float64, of scale")
    step = max(1, math.ceil(len(rows) / _TICKS))
    axes.set_xticks(depths[::step], [_short(row.name, _TICK_NAME) for row in rows[::step]], rotation=90)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    title = f"{drift.source.locator}: {drift.provider} against {drift.judge}, {_samples(drift)}"
    lines = textwrap.fill(_verdict(drift)[0][0], int(_LINE * width / 18))
    figure.suptitle(f"{title}\n{lines}", fontsize=10)
    save(figure, path)


Series = tuple[str, list[float], str, str]


def _series(drift: Any) -> list[Series]:
    """What is drawn: label, a number a row, colour, style; the one that is judged first."""
    rows = drift.rows
    limit = [row.limit for row in rows]
    alone: Series = ("the layer alone, on the framework's tensors", [r.own_error for r in rows], _GREY, ".")
    if drift.noise_floor:
        return [
            ("ONNX Runtime", [_or_nan(row.ort_distance) for row in rows], _BLUE, ".-"),
            (drift.judge, [_or_nan(row.framework_distance) for row in rows], _GREEN, "-"),
            ("limit", limit, _PURPLE, "--"),
        ]
    return [
        ("from the model's inputs", [row.error for row in rows], _BLUE, ".-"),
        alone,
        ("limit", [value if value > 0 else math.nan for value in limit], _PURPLE, "--"),
    ]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _bottom(values: Sequence[float]) -> float:
    """The power of ten that stands for zero: below all that is larger."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return float(10.0 ** (math.floor(math.log10(min(positive))) - 1)) if positive else 1e-9


def _top(series: Sequence[Series]) -> float:
    values = [value for _, values, _, _ in series for value in values]
    return max((value for value in values if value > 0 and math.isfinite(value)), default=1.0)


def _drawn(value: float, bottom: float) -> float:
    return bottom if value == 0 else value if math.isfinite(value) else math.nan


def _mark(axes: Any, rows: Sequence[Any], heights: Sequence[float]) -> None:
    """Mark departures by their verdicts, and name the first that begin; those without a figure lie on top."""
    known = [height for height in heights if math.isfinite(height)]
    top = max(known, default=1.0)
    places = [height if math.isfinite(height) else top for height in heights]
    for verdict, colour, marker in (
        ("inherited", _ORANGE, "o"),
        ("accumulated", _RED, "s"),
        ("own", _RED, "D"),
    ):
        some = [(row.depth, places[row.depth]) for row in rows if row.verdict == verdict]
        if some:
            axes.plot(*zip(*some, strict=True), marker, color=colour, markersize=4, label=verdict, zorder=4)
    begun = [row for row in rows if row.verdict in ("own", "accumulated")][:_NAMED]
    for number, row in enumerate(begun):
        left = row.depth > len(rows) / 2
        axes.annotate(
            _short(row.name),
            (row.depth, places[row.depth]),
            (-14 if left else 14, 14 + 16 * number),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=_RED,
            arrowprops={"arrowstyle": "-", "color": _RED, "linewidth": 0.7},
            annotation_clip=False,
        )


def _short(name: str, length: int = _NAME) -> str:
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"
