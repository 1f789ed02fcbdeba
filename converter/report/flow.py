"""The layers of a model as a flow of rows, folded by block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from converter.report.blocks import Block, fold
from converter.report.chart import CUT_AWAY, DROPPED, KEPT, NEW, PARTLY, Chart, ChartLayer
from converter.report.markup import Element, add, element
from converter.report.sizes import count as number_of
from converter.report.sizes import counted

__all__ = ["figure_of", "flow", "shape_of"]

# Layers up to which all blocks are open at first.
_FEW = 40
_WORDS = {
    KEPT: "kept",
    CUT_AWAY: "cut away",
    PARTLY: "kept in part",
    NEW: "new",
    DROPPED: "taken out",
}
_CLASSES = {CUT_AWAY: "away"}


def flow(chart: Chart, roles: Iterable[str]) -> Element:
    """The layers from the model's inputs down.

    Each layer is a `details` element, so that it opens by click and keyboard without any script. `data-i` is
    its place in the chart, `data-r` the places of those that it reads: a script draws the edges.

    Args:
        chart: the layers.
        roles: the pieces, in order.
    """
    drawing = _Drawing(chart, list(roles))
    made = element("div", class_="flow", id="flow")
    gaps = dict(chart.gaps)
    for part in fold(chart.layers):
        add(made, *drawing.part(part, gaps))
    for place in sorted(gaps):
        add(made, _gap(gaps[place]))
    return made


class _Drawing:
    def __init__(self, chart: Chart, roles: list[str]) -> None:
        self._layers = chart.layers
        self._roles = roles
        self._few = len(chart.layers) <= _FEW

    def part(self, part: Block | int, gaps: dict[int, int]) -> list[Element]:
        """A layer or a block, and before it what was left out there, which is taken from `gaps`."""
        first = part if isinstance(part, int) else next(iter(part.places()), 0)
        before = [_gap(gaps.pop(place)) for place in sorted(gaps) if place <= first]
        return [*before, self._layer(part) if isinstance(part, int) else self._block(part, gaps)]

    def _layer(self, place: int) -> Element:
        layer = self._layers[place]
        row = element(
            "summary",
            element("bdi", layer.name, class_="name"),
            element("span", layer.kind, class_="kind"),
            element("span", "✂ cut here", class_="chip cut") if layer.frontier else None,
            self._chip(layer),
            _shape(layer),
            _error(layer),
        )
        known = bool(layer.values)
        return element(
            "details",
            row,
            self._facts(layer),
            class_=f"row layer {self._class(layer)}",
            data_i=place,
            data_r=" ".join(map(str, layer.reads)) if known else None,
        )

    def _class(self, layer: ChartLayer) -> str:
        words = [_CLASSES.get(layer.state, layer.state)]
        words += ["frontier"] if layer.frontier else []
        words += [f"p{self._roles.index(role)}" for role in layer.pieces[:1] if role in self._roles]
        return " ".join(words)

    def _chip(self, layer: ChartLayer) -> Element | None:
        if layer.state in (NEW, DROPPED):
            return element("span", _WORDS[layer.state], class_=f"chip {layer.state}")
        if layer.state in (CUT_AWAY, PARTLY):
            return element("span", _WORDS[layer.state], class_="unseen")
        role = " and ".join(layer.pieces)
        return element("span", role, class_="unseen") if len(self._roles) > 1 else None

    def _facts(self, layer: ChartLayer) -> Element:
        made = element("dl")
        state = _WORDS[layer.state]
        if layer.pieces and len(self._roles) > 1:
            state = f"{state}, in the {' and the '.join(layer.pieces)}"
        _fact(made, "state", f"{state}; a cut is here" if layer.frontier else state)
        for spec in layer.outputs:
            known = "shape not known before it runs" if spec.shape == ("...",) else shape_of(spec.shape)
            dtype = "" if spec.dtype == "unknown" else f" {spec.dtype}"
            label = "" if spec.name == layer.name else f"{spec.name}: "
            _fact(made, "output", f"{label}{known}{dtype}")
        if not layer.outputs:
            _fact(made, "output", "not known: this part of the model was not traced")
        _fact(made, "parameters", f"{layer.parameters:,}" if layer.parameters else "none")
        _fact(made, "error", _sentence(layer))
        reads = [self._layers[place].name for place in layer.reads]
        if reads:
            more = f" and {len(reads) - 12} more" if len(reads) > 12 else ""
            _fact(made, "reads", ", ".join(reads[:12]) + more)
        return made

    def _block(self, block: Block, gaps: dict[int, int]) -> Element:
        inside = [self._layers[place] for place in block.places()]
        own = None if block.own is None else self._layers[block.own]
        every = [*inside, *([] if own is None else [own])]
        state, kept = _state(inside)
        share = f", {kept} kept" if 0 < kept < len(inside) else ""
        weights = own.parameters if own is not None else sum(layer.parameters for layer in inside)
        ends = own is not None and own.frontier
        crossing = any(layer.frontier for layer in every)
        roles = {role for layer in every for role in layer.pieces[:1]}
        place = f" p{self._roles.index(min(roles))}" if len(roles) == 1 and roles <= set(self._roles) else ""
        known = [layer for layer in every if layer.error is not None]
        worst = max(known, key=lambda layer: (_off(layer), layer.error or 0.0), default=None)
        row = element(
            "summary",
            element("bdi", block.name, class_="name"),
            None if own is None else element("span", own.kind, class_="kind"),
            element("span", f"✂ cut {'here' if ends else 'inside'}", class_="chip cut") if crossing else None,
            element("span", _WORDS[state], class_=f"chip {state}") if state in (NEW, DROPPED) else None,
            element("span", f"{counted(len(inside), 'layer')}{share}", class_="count"),
            element("span", f"{number_of(weights)} parameters", class_="count") if weights else None,
            None if own is None else _shape(own),
            None if worst is None else _error(worst, f"the largest in {block.name}, at {worst.name}: "),
        )
        parts = element("div", class_="parts")
        for part in block.parts:
            add(parts, *self.part(part, gaps))
        if own is not None:
            title = element("summary", "about ", element("bdi", own.name))
            add(parts, element("details", title, self._facts(own), class_="about"))
        return element(
            "details",
            row,
            parts,
            class_=f"row block {_CLASSES.get(state, state)}{' frontier' * ends}{place}",
            open=self._few or crossing,
            data_own=block.own,
        )


def _state(inside: Sequence[ChartLayer]) -> tuple[str, int]:
    """The state of a block, and how many of its layers are in a piece."""
    states = Counter(layer.state for layer in inside)
    for state in (NEW, DROPPED):
        if states[state] == len(inside):
            return state, states[NEW]
    kept = states[KEPT] + states[NEW] + states[PARTLY]
    return (CUT_AWAY if not kept else KEPT if kept == len(inside) else PARTLY), kept


def _gap(count: int) -> Element:
    return element("p", f"… and {count:,} more layers", class_="gap")


def _fact(made: Element, name: str, text: str | None) -> None:
    if text:
        add(made, element("dt", name), element("dd", text))


def _shape(layer: ChartLayer) -> Element | None:
    text = " + ".join(shape_of(spec.shape) for spec in layer.outputs[:2] if spec.shape != ("...",))
    return element("span", text, class_="shape") if text else None


def _error(layer: ChartLayer, whose: str = "") -> Element | None:
    if layer.error is None:
        return None
    said = f"{whose}{_sentence(layer)}"
    return element(
        "span", figure_of(layer.error), title=said, class_=f"error {'off' if _off(layer) else 'fine'}"
    )


def _off(layer: ChartLayer) -> bool:
    if layer.verdict is not None:
        return layer.verdict != "agrees"
    return layer.error is not None and layer.limit is not None and not layer.error <= layer.limit


def _sentence(layer: ChartLayer) -> str | None:
    if layer.error is None:
        return None
    text = f"{figure_of(layer.error)} of scale"
    text += "" if layer.limit is None else f" ({figure_of(layer.limit)} allowed)"
    text += "" if layer.own_error is None else f", {figure_of(layer.own_error)} by the layer alone"
    verdicts: Mapping[str, str] = {"own": "departs by itself", "inherited": "carries an error from before"}
    word = verdicts.get(layer.verdict or "", "errors add up" if layer.verdict == "accumulated" else "")
    return f"{text}; {word}" if word else text


def figure_of(value: float) -> str:
    """An error for people: `1.2e-06`, `exact` for none."""
    return "exact" if value == 0 else "-" if math.isnan(value) else f"{value:.1e}"


def shape_of(shape: Iterable[int | str]) -> str:
    """`batch × 7 × 7 × 512`; a scalar's is `scalar`."""
    return " × ".join(map(str, shape)) or "scalar"
