"""Which layers of a source the pieces of a cut compute, and how layers hang together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from converter.edges import Edges
from converter.model import Layer, LayeredModel, Outline, Piece, Source
from converter.onnxfile import Excerpt, OnnxFile
from converter.report.chart import CUT_AWAY, KEPT, PARTLY, Chart, ChartLayer
from converter.surgery import edges_of

__all__ = ["MOST", "chart"]

# Layers that a chart shows at most: more make a page that browsers are slow with, and nobody reads.
MOST = 1000
# Layers that one may stand in: a hostile name is one letter and a thousand slashes.
_DEEPEST = 32


def chart(source: Source, layered: LayeredModel, pieces: Sequence[Piece]) -> Chart:
    """The chart of a cut.

    A layer is kept by a piece whose nodes compute one of its boundaries. Nothing is traced or run for it: of
    what the export left out, names and kinds are the source's outline, and a part of a traced
    layer shares its fate.

    Args:
        source: the source, as it was asked for this cut.
        layered: what it exported.
        pieces: what was cut out of that, not yet finished.
    """
    edges = edges_of(layered.graph)
    ends = [b for piece in pieces for b in (*piece.starts, *piece.ends)]
    outline = source.outline(MOST, ends)
    traced = () if isinstance(layered.graph, OnnxFile) else source.layers
    computed = {piece.role: _nodes(edges, piece) for piece in pieces}
    outputs = {b.value for b in source.outputs}
    crossing = {b.value for b in ends} - outputs
    crossing |= {b.value for piece in pieces for b in piece.starts}
    layers = _merged(traced, outline, whole=bool(outputs))
    gaps = outline.gaps if not traced else ()
    if len(layers) > MOST:
        layers, gaps = layers[:MOST], ((MOST, len(layers) - MOST),)
    found = []
    for layer in layers:
        values = tuple(b.value for b in layer.boundaries if b.value in edges.ids)
        numbers = {edges.producer.get(edges.ids[value]) for value in values}
        roles = tuple(role for role, nodes in computed.items() if not numbers.isdisjoint(nodes))
        found.append(
            ChartLayer(
                layer.name,
                layer.kind,
                KEPT if roles else CUT_AWAY,
                roles,
                not crossing.isdisjoint(values),
                tuple(b.spec for b in layer.boundaries),
                layer.parameters,
                around=outline.around.get(layer.name, ()),
                values=values,
            )
        )
    found = _inherited(found)
    reads = _reads(edges, [layer.values for layer in found], direct=bool(gaps))
    return Chart(
        tuple(dataclasses.replace(la, reads=r) for la, r in zip(found, reads, strict=True)),
        gaps,
    )


def _nodes(edges: Edges, piece: Piece) -> Collection[int]:
    """The nodes of a graph that a piece computes."""
    if isinstance(piece.graph, Excerpt):
        return set(piece.graph.numbers)
    ends, starts = ([edges.ids[b.value] for b in some] for some in (piece.ends, piece.starts))
    return edges.nodes_for(ends, starts)


def _merged(traced: Sequence[Layer], outline: Outline, *, whole: bool) -> list[Layer]:
    """The layers that were traced, with those that were not.

    A part of a traced layer stands before it, as it does where parts are traced; all others come after the
    cut, at which the trace stopped. What a whole trace never met is not called by the model.
    """
    if not traced:
        return list(outline.layers)
    known = {layer.base for layer in traced} | {layer.name for layer in traced}
    holding = {holder for name in known for holder in _holders(name)}
    inside: dict[str, list[Layer]] = {}
    after: list[Layer] = []
    for layer in outline.layers:
        if layer.name in known or layer.name in holding:
            continue
        holder = next((name for name in _holders(layer.name) if name in known), None)
        if holder is not None:
            inside.setdefault(holder, []).append(layer)
        elif not whole:
            after.append(layer)
    if whole:
        inside = {}
    merged: list[Layer] = []
    for layer in traced:
        merged += inside.pop(layer.base, [])
        merged.append(layer)
    return merged + after


def _holders(name: str) -> Iterable[str]:
    """What a layer stands in, from the innermost: `a/b` and `a` of `a/b.c`."""
    ends = [end for end, letter in enumerate(name) if letter in "/." and end]
    for end in reversed(ends[:_DEEPEST]):
        yield name[:end]


def _inherited(layers: Sequence[ChartLayer]) -> list[ChartLayer]:
    """Parts that were not traced share the state of what holds them; holders have that of their parts."""
    states = {layer.name: layer for layer in layers}
    holders: dict[str, set[str]] = {}
    found = []
    for layer in layers:
        holder = next((states[n] for n in _holders(layer.name) if n in states and states[n].values), None)
        if not layer.values and holder is not None:
            layer = dataclasses.replace(layer, state=holder.state, pieces=holder.pieces)
        for name in _holders(layer.name):
            holders.setdefault(name, set()).add(layer.state)
        found.append(layer)
    return [
        dataclasses.replace(layer, state=PARTLY)
        if layer.state == CUT_AWAY and KEPT in holders.get(layer.name, ())
        else layer
        for layer in found
    ]


def _reads(edges: Edges, layers: Sequence[Sequence[str]], *, direct: bool) -> list[tuple[int, ...]]:
    """The nearest layers that each layer is computed from; where layers are left out, neighbours alone."""
    owner: dict[int, int] = {}
    for place, values in enumerate(layers):
        for value in values:
            owner.setdefault(edges.ids[value], place)
    stops: Mapping[int, int] = owner if direct else {v: owner[v] for v in owner.keys() & edges.varying()}
    return [
        tuple(sorted(_nearest(edges, stops, [edges.ids[v] for v in values], direct) - {place}))
        for place, values in enumerate(layers)
    ]


def _nearest(edges: Edges, stops: Mapping[int, int], values: Sequence[int], direct: bool) -> set[int]:
    met: set[int] = set()
    seen: set[int] = set()
    stack = [read for value in values for read in edges.before(value)]
    while stack:
        read = stack.pop()
        if read in stops:
            met.add(stops[read])
        elif read not in seen and not direct:
            seen.add(read)
            stack.extend(edges.before(read))
    return met
