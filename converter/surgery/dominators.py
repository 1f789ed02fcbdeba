"""Where a single tensor parts a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from converter.edges import Edges
from converter.model import Boundary, LayeredModel
from converter.surgery.frontier import frontier
from converter.surgery.index import edges_of

__all__ = ["legal_cuts"]


def legal_cuts(model: LayeredModel, ends: Sequence[Boundary]) -> set[str]:
    """Names of the layers from which `ends` can be computed with nothing but that layer's tensors.

    A single tensor parts the graph when every path from the inputs it depends on to the outputs runs
    through it, that is, when it post-dominates those inputs. Immediate post-dominators by the
    algorithm of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm", 2001), which needs one
    round on an acyclic graph. Layers with several tensors are asked of `frontier` one by one.
    """
    edges = edges_of(model.graph)
    ids = edges.ids
    varying = edges.varying()
    parent, depth = _post_dominators(edges, varying, {ids[b.value] for b in ends})
    needed = _sizes_after(edges, varying)
    inputs_of = _inputs_reaching(edges)
    chains = {value: set(_chain(value, parent)) for value in edges.inputs if value in parent}
    legal = set()
    for layer in model.layers:
        if any(b.value not in ids for b in layer.boundaries):
            continue
        values = [ids[b.value] for b in layer.boundaries]
        if len(values) > 1:
            crossing = frontier(model, layer.boundaries, ends)
            if crossing.single and not crossing.idle:
                legal.add(layer.name)
        elif values[0] in depth and needed.get(values[0], frozenset()) <= set(layer.boundaries[0].spec.shape):
            sources = [v for v in inputs_of.get(values[0], ()) if v in chains]
            if sources and all(values[0] in chains[source] for source in sources):
                legal.add(layer.name)
    return legal


def _post_dominators(
    edges: Edges, varying: frozenset[int], ends: set[int]
) -> tuple[dict[int, int | None], dict[int, int]]:
    """Immediate post-dominator of each value on a path to the outputs; None is the exit."""
    parent: dict[int, int | None] = {}
    depth: dict[int, int] = {}

    def meet(a: int | None, b: int | None) -> int | None:
        while a != b:
            if b is None or (a is not None and depth[a] > depth[b]):
                a = None if a is None else parent[a]
            else:
                b = parent[b]
        return a

    readers: dict[int, list[int]] = {}
    for node, reads in enumerate(edges.reads):
        for value in reads:
            readers.setdefault(value, []).extend(edges.writes[node])
    order = [*edges.inputs, *(value for writes in edges.writes for value in writes)]
    for value in reversed(order):
        after = [reader for reader in readers.get(value, ()) if reader in depth]
        if value not in varying or (value not in ends and not after):
            continue
        dominator: int | None = None
        if value not in ends:
            dominator = after[0]
            for reader in after[1:]:
                dominator = meet(dominator, reader)
        parent[value] = dominator
        depth[value] = 0 if dominator is None else depth[dominator] + 1
    return parent, depth


def _sizes_after(edges: Edges, varying: frozenset[int]) -> dict[int, frozenset[str]]:
    """The symbolic sizes of the model's inputs that what comes after each varying value computes with."""
    sizes = edges.symbols_of_constants(varying)
    after: dict[int, frozenset[str]] = {}
    for node in range(len(edges.reads) - 1, -1, -1):
        reads = edges.reads[node]
        parts = [after[v] for v in edges.writes[node] if v in after] + [sizes[v] for v in reads if v in sizes]
        merged: frozenset[str] = frozenset().union(*parts)
        if merged:
            for value in reads:
                if value in varying:
                    after[value] = after.get(value, frozenset()) | merged
    return after


def _chain(value: int, parent: dict[int, int | None]) -> Iterable[int]:
    current: int | None = value
    while current is not None:
        yield current
        current = parent[current]


def _inputs_reaching(edges: Edges) -> dict[int, frozenset[int]]:
    """The graph inputs that each varying value depends on."""
    reaching: dict[int, frozenset[int]] = {v: frozenset([v]) for v in edges.inputs}
    for node, reads in enumerate(edges.reads):
        parts = {reaching[v] for v in reads if v in reaching} if node not in edges.sizes else None
        if parts:
            merged = parts.pop() if len(parts) == 1 else frozenset().union(*parts)
            for output in edges.writes[node]:
                reaching[output] = merged
    return reaching
