"""Where a model's layers depart from the framework, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converter.report.sizes import counted

__all__ = ["departures"]

_NAMED = 8


def departures(drift: Mapping[str, Any]) -> str:
    """What was found of every layer.

    Args:
        drift: as JSON-ready values (`converter.report.drift.drift_as_json`), or with the `problem` alone
            that there was.
    """
    if "problem" in drift:
        return f"layers could not be compared: {drift['problem']}"
    places = counted(len(drift["layers"]), "boundary", "boundaries")
    if drift["first"] is None:
        errors = [float(row["error"]) for row in drift["layers"] if row["error"] is not None]
        return f"no layer departs: the largest error at {places} is {max(errors, default=0.0):.1e} of scale"
    origins = ", ".join(drift["origins"][:_NAMED])
    return f"first to depart: {drift['first']}, of {places}; departures begin at {origins}"
