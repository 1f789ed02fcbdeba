"""Errors by depth as inline SVG, and an error beside what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from converter.report.markup import Element, add, element

__all__ = ["gauge", "plot"]

_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 30
# Ticks at most on either axis.
_TICKS = 8
# The scale of a gauge, as powers of ten: float32 rounds by 6e-8 of its scale, 1 is wrong altogether.
_LOWEST, _HIGHEST = -9.0, 1.0


def gauge(error: float, limit: float) -> Element:
    """An error as a bar on a logarithmic scale, with a mark at what is allowed."""
    end, mark = f"{_share(error):.2f}%", f"{_share(limit):.2f}%"
    picture = element(
        "svg",
        _bar("track", "100%"),
        _bar("allowed", mark),
        _bar("good" if error <= limit else "bad", end),
        element("line", x1=mark, x2=mark, y1="7", y2="33", class_="limit"),
        class_="gauge",
        width="100%",
        height="56",
        role="img",
        aria_label=f"largest error {error:.1e} of scale, {limit:.1e} allowed",
    )
    for power in range(-8, 1, 2):
        place = f"{_share(10.0**power):.2f}%"
        add(picture, element("text", _power(power), x=place, y="50", text_anchor="middle", class_="tick"))
    return picture


def _bar(kind: str, width: str) -> Element:
    return element("rect", x="0", y="14", width=width, height="12", rx="6", class_=kind)


def _share(value: float) -> float:
    """Where a value lies on a gauge, in percent; the least that can be seen for 0."""
    if not value > 0:
        return 1.0
    power = _HIGHEST if math.isinf(value) else math.log10(value)
    return max(1.0, min(100.0, 100 * (power - _LOWEST) / (_HIGHEST - _LOWEST)))


def plot(rows: Sequence[Mapping[str, Any]], *, noise_floor: bool) -> Element:
    """Draw a drift.

    Args:
        rows: the `layers` of a drift as JSON-ready values, in order of depth.
        noise_floor: draw distances from float64 instead of errors.
    """
    names = ("ort_distance", "framework_distance") if noise_floor else ("error", "own_error")
    series = [[_number(row[name]) for row in rows] for name in (*names, "limit")]
    known = [value for values in series for value in values if 0 < value < math.inf]
    low = math.floor(math.log10(min(known, default=1e-9))) - 1
    high = math.ceil(math.log10(max(known, default=1.0)))
    scale = _Scale(len(rows), low, max(high, low + 2))
    picture = element(
        "svg",
        *scale.axes(),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="plot",
        role="img",
        aria_label=f"error by depth of {len(rows)} layers",
    )
    add(
        picture,
        _line(scale, series[2], "limit"),
        _line(scale, series[1], "second") if noise_floor else None,
        *([] if noise_floor else _dots(scale, rows, series[1], "alone")),
        _line(scale, series[0], "first"),
        *_dots(scale, rows, series[0], "point"),
    )
    return picture


class _Scale:
    """From depth and error to places on the picture."""

    def __init__(self, count: int, low: int, high: int) -> None:
        self._count, self._low, self._high = count, low, high

    def x(self, depth: int) -> float:
        return _LEFT + (depth + 0.5) * (_WIDTH - _LEFT - _RIGHT) / max(1, self._count)

    def y(self, value: float) -> float:
        """Zero lies on the lowest line."""
        power = self._low if value <= 0 else math.log10(value) if value < math.inf else self._high
        share = (power - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - min(1.0, max(0.0, share)) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> list[Element]:
        made = []
        step = max(1, math.ceil((self._high - self._low) / _TICKS))
        for power in range(self._low, self._high + 1, step):
            y = f"{self.y(10.0**power):.1f}"
            made.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
            label = "0" if power == self._low else _power(power)
            made.append(
                element("text", label, x=_LEFT - 8, y=y, dy="0.35em", text_anchor="end", class_="tick")
            )
        every = max(1, math.ceil(self._count / _TICKS))
        for depth in range(0, self._count, every):
            made.append(
                element(
                    "text",
                    str(depth),
                    x=f"{self.x(depth):.1f}",
                    y=_HEIGHT - 10,
                    text_anchor="middle",
                    class_="tick",
                )
            )
        return made


def _line(scale: _Scale, values: Iterable[float], kind: str) -> Element:
    """A line through what is known; it breaks where nothing is."""
    parts, broken = [], True
    for depth, value in enumerate(values):
        if math.isnan(value) or (kind == "limit" and value == 0):
            broken = True
            continue
        parts.append(f"{'M' if broken else 'L'}{scale.x(depth):.1f} {scale.y(value):.1f}")
        broken = False
    return element("path", d="".join(parts), class_=kind)


def _dots(
    scale: _Scale, rows: Sequence[Mapping[str, Any]], values: Sequence[float], kind: str
) -> list[Element]:
    made = []
    for depth, (row, value) in enumerate(zip(rows, values, strict=True)):
        if math.isnan(value):
            continue
        off = kind == "point" and row["verdict"] != "agrees"
        radius = "5" if off else "2.5" if kind == "point" else "2"
        dot = element(
            "circle",
            element("title", f"{depth} {row['name']} ({row['kind']}): {value:.1e}"),
            cx=f"{scale.x(depth):.1f}",
            cy=f"{scale.y(value):.1f}",
            r=radius,
            class_=f"{kind} off" if off else kind,
        )
        made.append(dot)
    return made


def _number(value: Any) -> float:
    """A figure of a report: null is none, infinities are texts."""
    return math.nan if value is None else float(value)


def _power(power: int) -> str:
    return f"10{str(power).translate(_RAISED)}" if power else "1"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
