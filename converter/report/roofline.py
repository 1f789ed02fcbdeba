"""The roofline plot: what layers reach, under what a machine can do at their intensity.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from converter.errors import UsageError
from converter.report.plot import matplotlib, save

__all__ = ["check_plot", "plot_roofline"]

_COLOURS = ("#3b6fb6", "#d08436")
_ROOF, _TEXT = "#555555", "#222222"
_LABELS = {1: 10, 2: 6}  # of each of so many files: more cannot be read
_LONGEST = 34  # letters of a label; longer ones lose their middle
_SMALLEST, _LARGEST = 12.0, 420.0  # square points of a mark
_INCHES = (10.0, 6.5)
_FONT = 7.5
_FEW_DECADES = 3e3  # of an axis, up to which ticks between powers of ten are numbered


class Point(NamedTuple):
    """A layer's mark: FLOP a byte, GFLOP/s, its time over that of the slowest layer, name, colour."""

    x: float
    y: float
    share: float
    name: str
    colour: str


def check_plot(path: Path) -> None:
    """Make sure, before anything is measured, that a picture can be written.

    Raises:
        UsageError: matplotlib is missing or knows no such kind of picture, or there is no such folder.
    """
    kinds = matplotlib("backend_bases").FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise UsageError(f"--plot {path}: expected a picture, .svg, .png or .pdf")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def plot_roofline(path: Path, profiles: Sequence[Any], roofs: Any) -> None:
    """Draw each layer with MACs at its intensity and the speed it reaches; its area is its share of the time.

    Args:
        path: the picture to write; its suffix says which kind (`.svg`, `.png`, `.pdf`).
        profiles: one or two `converter.profiling.Profile`s.
        roofs: the machine's `converter.profiling.Roofs`.

    Raises:
        UsageError: as of `check_plot`.
    """
    figure = matplotlib("figure").Figure(figsize=_INCHES, layout="constrained")
    matplotlib("backends.backend_agg").FigureCanvasAgg(figure)  # measures texts
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    points: list[Point] = []
    most = max((row.share for profile in profiles for row in profile.rows if row.gflops), default=1.0)
    for colour, profile in zip(_COLOURS, profiles, strict=False):
        rows = [row for row in profile.rows if row.gflops is not None and row.intensity is not None]
        axes.scatter(
            [row.intensity for row in rows],
            [row.gflops for row in rows],
            s=[_area(row.share / most) for row in rows],
            c=colour,
            alpha=0.55,
            linewidths=0.5,
            edgecolors="white",
            label=_legend(profile, rows),
            zorder=3,
        )
        points += [Point(row.intensity, row.gflops, row.share / most, row.name, colour) for row in rows]
    _limits(axes, points, roofs)
    _draw_roofs(axes, roofs)
    axes.set_xlabel("arithmetic intensity, FLOP a byte moved (2 FLOP a MAC)")
    axes.set_ylabel("reached, GFLOP/s")
    axes.grid(which="major", alpha=0.25)
    axes.set_title(_title(profiles), fontsize=10)
    # The legend's dots would be as large as the first layer's.
    for handle in axes.legend(loc="lower right", fontsize=8).legend_handles:
        handle.set_sizes([40])
    _label(figure, axes, points)
    save(figure, path)


def _area(share: float) -> float:
    """Square points of a mark, of its share in the largest one."""
    return _SMALLEST + (_LARGEST - _SMALLEST) * share


def _legend(profile: Any, rows: Sequence[Any]) -> str:
    share = sum(row.share for row in rows)
    return f"{_file(profile)}: {profile.latency.median:.2f} ms, {share:.0%} of it in layers with MACs"


def _title(profiles: Sequence[Any]) -> str:
    setting = profiles[0].setting
    names = " and ".join(map(_file, profiles))
    return f"{names} on {setting.provider}; area: share of the time"


def _file(profile: Any) -> str:
    """A file with its folder: many are called `model.onnx`."""
    return _short("/".join(profile.path.parts[-2:]))


def _limits(axes: Any, points: Sequence[Point], roofs: Any) -> None:
    """Both axes in whole: the layers, the ridge where the roofs meet, and some room for labels."""
    ridge = roofs.flops / roofs.bandwidth
    across = [ridge, *(point.x for point in points)]
    up = [roofs.flops / 1e9, *(point.y for point in points)]
    axes.set_xlim(min(across) / 3, max(across) * 8)
    axes.set_ylim(min(up) / 4, max(up) * 3)
    ticker = matplotlib("ticker")
    for axis, low, high in ((axes.xaxis, *axes.get_xlim()), (axes.yaxis, *axes.get_ylim())):
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        digits = (2, 5) if high / low < _FEW_DECADES else ()
        axis.set_minor_locator(ticker.LogLocator(subs=range(2, 10), numticks=100))
        axis.set_minor_formatter(ticker.FuncFormatter(functools.partial(_minor, digits)))


def _minor(digits: Sequence[int], value: float, _: int) -> str:
    """The number at a minor tick, if its first digit is one of these."""
    return f"{value:g}" if round(value / 10 ** math.floor(math.log10(value) + 1e-9)) in digits else ""


def _draw_roofs(axes: Any, roofs: Any) -> None:
    left, right = axes.get_xlim()
    peak, bandwidth = roofs.flops / 1e9, roofs.bandwidth / 1e9
    ridge = peak / bandwidth
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=_ROOF, linewidth=1.5, zorder=2)
    axes.annotate(
        f"float32 arithmetic: {peak:.0f} GFLOP/s",
        (right, peak),
        (-6, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_ROOF,
    )
    low = axes.get_ylim()[0]
    start = max(left, low / bandwidth) * 1.15
    axes.annotate(
        f"memory: {bandwidth:.0f} GB/s",
        (start, start * bandwidth),
        (0, 5),
        textcoords="offset points",
        fontsize=8,
        color=_ROOF,
        rotation=_slope(axes),
        rotation_mode="anchor",
    )


def _slope(axes: Any) -> float:
    """Degrees at which a line of slope one lies in these logarithmic axes."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    across = _INCHES[0] / math.log10(right / left)
    up = _INCHES[1] / math.log10(high / low)
    return math.degrees(math.atan2(up, across))


def _worth(points: Sequence[Point]) -> list[Point]:
    """The layers that take most of the time, the slowest first."""
    found: list[Point] = []
    colours = {point.colour for point in points}
    for colour in colours:
        own = sorted((point for point in points if point.colour == colour), key=lambda point: -point.share)
        found += own[: _LABELS[len(colours)]]
    return sorted(found, key=lambda point: -point.share)


def _label(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Name layers beside their marks, at the nearest place that overlaps no other name and no mark."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on places are final
    renderer = figure.canvas.get_renderer()
    boxes = matplotlib("transforms")
    pixels = figure.dpi / 72
    taken = [axes.get_legend().get_window_extent(renderer)]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    centres = {point: axes.transData.transform((point.x, point.y)) for point in points}
    for point, (x, y) in centres.items():
        half = _radius(point) * pixels * 0.8  # a square inside the mark's corners
        taken.append(boxes.Bbox([[x - half, y - half], [x + half, y + half]]))
    inside = axes.get_window_extent(renderer).padded(-4)
    for point in _worth(points):
        probe = figure.text(0, 0, _short(point.name), fontsize=_FONT)
        size = probe.get_window_extent(renderer)
        probe.remove()
        for right, up in _places(_radius(point)):
            x, y = centres[point] + (right * pixels, up * pixels)
            left = x - {"left": 0.0, "right": 1.0, "center": 0.5}[_side(right)] * size.width
            box = boxes.Bbox.from_bounds(left - 2, y - size.height / 2 - 1, size.width + 4, size.height + 2)
            within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if within and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                _write(axes, point, right, up)
                break


def _write(axes: Any, point: Point, right: float, up: float) -> None:
    """Write a layer's name at this distance in points from its mark, with a line to it."""
    axes.annotate(
        _short(point.name),
        (point.x, point.y),
        (right, up),
        textcoords="offset points",
        fontsize=_FONT,
        color=_TEXT,
        ha=_side(right),
        va="center",
        arrowprops={
            "arrowstyle": "-",
            "color": point.colour,
            "linewidth": 0.6,
            "shrinkA": 0,
            "shrinkB": _radius(point),
        },
        zorder=4,
    )


def _side(right: float) -> str:
    """Which end of a label is at its place: names left of their mark end there."""
    return "left" if right > 1 else "right" if right < -1 else "center"


def _radius(point: Point) -> float:
    """Of a mark, in points."""
    return math.sqrt(_area(point.share) / math.pi)


def _places(radius: float) -> list[tuple[float, float]]:
    """Places for a label around its mark, in points, the nearest first, and right of it before others."""
    steps = [0, 30, -30, 180, 150, -150, 60, -60, 120, -120, 90, -90]
    polar = [(radius + 6 + 12 * ring, math.radians(angle)) for ring in range(10) for angle in steps]
    return [(distance * math.cos(angle), distance * math.sin(angle)) for distance, angle in polar]


def _short(name: str) -> str:
    if len(name) <= _LONGEST:
        return name
    half = (_LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
