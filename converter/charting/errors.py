"""How far each layer is from the framework's own answer, as far as that was measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from converter.model import Piece
from converter.report.chart import Chart
from converter.validation import Comparison

__all__ = ["with_comparisons", "with_drift"]


def with_comparisons(chart: Chart, pieces: Iterable[Piece], comparisons: Sequence[Comparison]) -> Chart:
    """The chart with the errors of what the pieces put out: the largest of all batches, of the ONNX files."""
    errors: dict[str, Comparison] = {}
    for piece in pieces:
        values = {spec.name: b.value for b, spec in zip(piece.ends, piece.outputs, strict=False)}
        for made in comparisons:
            value = values.get(made.output)
            if made.piece == piece.role and value is not None and not math.isnan(made.scaled_error):
                before = errors.get(value)
                if before is None or made.scaled_error > before.scaled_error:
                    errors[value] = made
    found = []
    for layer in chart.layers:
        own = [errors[value] for value in layer.values if value in errors]
        if own:
            worst = max(own, key=lambda made: made.scaled_error)
            layer = dataclasses.replace(layer, error=worst.scaled_error, limit=worst.tolerance)
        found.append(layer)
    return dataclasses.replace(chart, layers=tuple(found))


def with_drift(chart: Chart, rows: Sequence[Mapping[str, Any]]) -> Chart:
    """The chart with the errors of every boundary that a drift compared.

    Args:
        chart: the chart.
        rows: `layers` of a drift as JSON-ready values.
    """
    named = {row["name"]: row for row in rows}
    found = []
    for layer in chart.layers:
        names = dict.fromkeys((layer.name, *(spec.name for spec in layer.outputs)))
        own = [named[name] for name in names if name in named]
        own = [row for row in own if isinstance(row["error"], float)]
        if own:
            worst = max(own, key=lambda row: (row["verdict"] != "agrees", row["error"]))
            alone = worst["own_error"]
            layer = dataclasses.replace(
                layer,
                error=worst["error"],
                own_error=alone if isinstance(alone, float) else None,
                limit=worst["limit"] if isinstance(worst["limit"], float) else None,
                verdict=worst["verdict"],
            )
        found.append(layer)
    return dataclasses.replace(chart, layers=tuple(found))
