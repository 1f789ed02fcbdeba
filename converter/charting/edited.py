"""What was put into a model and taken out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from converter.charting.chart import MOST
from converter.edits import within
from converter.model import Layer, Source, is_glob, matches
from converter.report.chart import CUT_AWAY, DROPPED, NEW, Chart, ChartLayer
from converter.surgery import expanded

__all__ = ["with_edits"]


def with_edits(chart: Chart, original: Source, added: Collection[str], facts: Mapping[str, Any]) -> Chart:
    """The chart of a changed model, with what the original alone has.

    Args:
        chart: of the changed model.
        original: the model as it was.
        added: names of the weights of new layers.
        facts: what was changed, as `Edited.facts` has it.
    """
    before = original.outline(MOST).layers
    names = {layer.name.rpartition("@")[0] or layer.name for layer in before} | {la.name for la in before}
    replaced = list(facts.get("replace", ()))
    ends = set(facts.get("to", ()))
    layers = [_marked(layer, names, added, replaced) for layer in chart.layers]
    layers = [dataclasses.replace(la, frontier=la.frontier or la.name in ends) for la in layers]
    gone = _gone(layers, before)
    dropped = [pattern for written in facts.get("drop", ()) for pattern in expanded(written)]
    places: dict[str, int] = {layer.name: place for place, layer in enumerate(layers)}
    slots: dict[int, list[ChartLayer]] = {}
    place = 0
    for layer in before:
        if layer.name in gone:
            taken = any(_means(pattern, layer.name) for pattern in dropped)
            state = DROPPED if taken or layer.name in replaced else CUT_AWAY
            outputs = tuple(boundary.spec for boundary in layer.boundaries)
            slots.setdefault(place, []).append(
                ChartLayer(layer.name, layer.kind, state, outputs=outputs, parameters=layer.parameters)
            )
        else:
            place = places.get(layer.name, place - 1) + 1
    return _spliced(layers, slots, chart.gaps)


def _marked(
    layer: ChartLayer, names: Collection[str], added: Collection[str], replaced: Sequence[str]
) -> ChartLayer:
    base = layer.name.rpartition("@")[0] or layer.name
    new = layer.name not in names and base not in names
    new = new or any(within(layer.name, name) for name in replaced)
    new = new or (layer.parameters > 0 and any(within(weight, layer.name) for weight in added))
    return dataclasses.replace(layer, state=NEW) if new and layer.pieces else layer


def _gone(layers: Sequence[ChartLayer], before: Sequence[Layer]) -> set[str]:
    """Names of layers of the original that the changed model does not have, under any call or as a holder."""
    there = {layer.name for layer in layers} | {layer.name.rpartition("@")[0] for layer in layers}
    holders = {name[:end] for name in there for end, letter in enumerate(name) if letter in "/."}
    return {layer.name for layer in before} - there - holders


def _means(pattern: str, name: str) -> bool:
    return within(name, pattern) or (is_glob(pattern) and matches(name, pattern))


def _spliced(
    layers: Sequence[ChartLayer], slots: Mapping[int, Sequence[ChartLayer]], gaps: Sequence[tuple[int, int]]
) -> Chart:
    """The chart with layers put in before given places; what is read moves along."""
    moved: dict[int, int] = {}
    found: list[ChartLayer] = []
    for place in range(len(layers) + 1):
        found += slots.get(place, ())
        moved[place] = len(found)
        if place < len(layers):
            found.append(layers[place])
    return Chart(
        tuple(dataclasses.replace(la, reads=tuple(moved[place] for place in la.reads)) for la in found),
        tuple((moved[place], count) for place, count in gaps),
    )
