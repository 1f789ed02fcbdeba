"""What crosses a cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from converter.edges import Edges
from converter.model import Boundary, LayeredModel
from converter.surgery.index import edges_of

__all__ = ["Frontier", "frontier"]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The tensors that cross a cut.

    Attributes:
        cut: the boundaries that were asked for and that the far side really reads.
        crossing: boundaries computed before the cut that the far side needs besides.
        inputs: inputs of the model that both sides need.
        idle: asked-for boundaries that the far side does not read.
    """

    cut: tuple[Boundary, ...]
    crossing: tuple[Boundary, ...]
    inputs: tuple[str, ...]
    idle: tuple[Boundary, ...]

    @property
    def single(self) -> bool:
        """Whether what was asked for is all that crosses."""
        return not self.crossing and not self.inputs


def frontier(model: LayeredModel, starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Frontier:
    """What has to be known, besides the model's own inputs, to compute `ends` from `starts`.

    The near side is everything `starts` are computed from. Walking back from `ends`, a branch stops at a
    start, or at the first boundary that belongs to the near side: that one crosses. What lies between
    two boundaries (a transpose, an operator outside any layer) is computed on either side that needs it,
    unless chance decides its values: such a node runs once. A tensor that was quantised crosses as what it is
    dequantised to, so that such pairs stay whole.
    """
    edges = edges_of(model.graph)
    wanted = {edges.ids[b.value]: b for b in starts}
    # Layers put out tensors of sizes alone besides others; a tensor that was itself asked for is meant.
    varying = edges.varying(also=() if model.anywhere is None else wanted)
    sizes = edges.symbols_of_constants(varying)
    near = set(edges.upstream(wanted) & varying)
    together = [node for node in edges.random if not near.isdisjoint(edges.writes[node])]
    together += [node for value, nodes in edges.quantized.items() if value in near for node in nodes]
    near.update(value for node in together for value in edges.writes[node])
    met, needed = _walk_back(
        model, edges, [edges.ids[b.value] for b in ends], set(wanted), near, varying, sizes
    )
    known = {size for value in met for size in _symbols(model, edges, value)}
    for value, symbols in edges.symbols.items():
        if (needed - known) & set(symbols):
            met[value] = None
            known |= set(symbols)
    order = model.order
    crossing = [value for value in met if value not in wanted and value in edges.producer]
    crossing.sort(key=lambda value: (order.get(edges.names[value], -1), edges.producer[value], value))
    return Frontier(
        cut=tuple(b for value, b in wanted.items() if value in met),
        crossing=tuple(_boundary(model, edges, value) for value in crossing),
        inputs=tuple(sorted(edges.names[v] for v in met if v not in edges.producer and v not in wanted)),
        idle=tuple(b for value, b in wanted.items() if value not in met),
    )


def _walk_back(
    model: LayeredModel,
    edges: Edges,
    ends: Sequence[int],
    wanted: set[int],
    near: set[int],
    varying: frozenset[int],
    sizes: dict[int, frozenset[str]],
) -> tuple[dict[int, None], set[str]]:
    """The values at which walking back from `ends` stops, and the symbolic sizes that are needed."""
    met: dict[int, None] = {}
    seen: set[int] = set()
    needed: set[str] = set()
    stack = list(ends)
    while stack:
        value = stack.pop()
        needed |= sizes.get(value, frozenset())
        if value in seen or value not in varying:
            continue
        seen.add(value)
        is_input = value not in edges.producer
        if value in wanted or (value in near and (is_input or model.is_boundary(edges.names[value]))):
            met[value] = None
        elif not is_input:
            stack.extend(edges.before(value))
    return met, needed


def _boundary(model: LayeredModel, edges: Edges, value: int) -> Boundary:
    boundary = model.boundary(edges.names[value])
    assert boundary is not None
    return boundary


def _symbols(model: LayeredModel, edges: Edges, value: int) -> Sequence[str]:
    """The symbolic sizes of a boundary or of an input."""
    boundary = model.boundary(edges.names[value])
    if boundary is None:
        return edges.symbols.get(value, ())
    return [size for size in boundary.spec.shape if isinstance(size, str)]
