"""What crosses a cut, and where a single tensor is enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.analysis import analyze_implicit_usage

from converter.model import Boundary, LayeredModel
from converter.surgery.sizes import symbol_of

__all__ = ["Frontier", "dependencies", "frontier", "legal_cuts"]


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


class Dependencies:
    """What each value of a graph is computed from, values captured by inner graphs included."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._captured: dict[ir.Node, set[ir.Value]] = {}
        captured = analyze_implicit_usage(model.graph)
        for node in model.graph:
            for inner in _inner_graphs(node):
                outer = {v for v in captured.get(inner, ()) if v.graph is model.graph}
                self._captured.setdefault(node, set()).update(outer)

    def of_node(self, node: ir.Node) -> list[ir.Value]:
        captured = sorted(self._captured.get(node, ()), key=lambda value: value.name or "")
        return [value for value in (*node.inputs, *captured) if value is not None]

    def of_value(self, value: ir.Value) -> list[ir.Value]:
        producer = value.producer()
        return [] if producer is None else self.of_node(producer)

    def upstream(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        """The values, and everything they are computed from."""
        seen: set[ir.Value] = set()
        stack = list(values)
        while stack:
            value = stack.pop()
            if value not in seen:
                seen.add(value)
                stack.extend(self.of_value(value))
        return seen

    def varying(self) -> set[ir.Value]:
        """The values that depend on the contents of an input of the graph.

        The rest are constants, or computed from the sizes of inputs alone.
        """
        inputs = {v for v in self.graph.inputs if not v.is_initializer()}
        found = set(inputs)
        for node in self.graph:
            if symbol_of(node) is None and any(value in found for value in self.of_node(node)):
                found.update(node.outputs)
        return found

    def sizes(self, varying: set[ir.Value]) -> dict[ir.Value, frozenset[str]]:
        """The symbolic sizes that each of the other values is computed from; none for constants."""
        found: dict[ir.Value, frozenset[str]] = {}
        for node in self.graph:
            symbol = symbol_of(node)
            if symbol is not None:
                found[node.outputs[0]] = frozenset([symbol])
                continue
            parts = [found[value] for value in self.of_node(node) if value in found]
            if parts:
                merged = frozenset().union(*parts)
                found |= {value: merged for value in node.outputs if value not in varying}
        return found


def _inner_graphs(node: ir.Node) -> Iterable[ir.Graph]:
    """Bodies of loops and branches, at any depth."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies: Sequence[ir.Graph] = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = attribute.as_graphs()
        else:
            continue
        for body in bodies:
            yield body
            for inner in body:
                yield from _inner_graphs(inner)


def dependencies(model: ir.Model) -> Dependencies:
    """Index a graph, whose nodes must be in topological order."""
    return Dependencies(model)


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """The main graph's values by name."""
    graph = model.graph
    named = {value.name: value for node in graph for value in node.outputs}
    named |= {value.name: value for value in graph.inputs}
    return {name: value for name, value in named.items() if name}


def frontier(model: LayeredModel, starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Frontier:
    """What has to be known, besides the model's own inputs, to compute `ends` from `starts`.

    The near side is everything `starts` are computed from. Walking back from `ends`, a branch stops at a
    start, or at the first boundary that belongs to the near side: that one crosses. What lies between
    two boundaries (a transpose, an operator outside any layer) is computed on either side that needs it.
    """
    index = dependencies(model.graph)
    named = values_by_name(model.graph)
    varying = index.varying()
    sizes = index.sizes(varying)
    near = index.upstream(named[b.value] for b in starts) & varying
    wanted = {named[b.value]: b for b in starts}
    boundaries = {named[b.value]: b for layer in model.layers for b in layer.boundaries if b.value in named}
    met: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    needed: set[str] = set()
    stack = [named[b.value] for b in ends]
    while stack:
        value = stack.pop()
        needed |= sizes.get(value, frozenset())
        if value in seen or value not in varying:
            continue
        seen.add(value)
        is_input = value.producer() is None
        if value in wanted or (value in near and (is_input or value in boundaries)):
            met[value] = None
        elif not is_input:
            stack.extend(index.of_value(value))
    known = {size for value in met for size in _symbols(value, boundaries)}
    for value in model.graph.graph.inputs:
        if (needed - known) & set(_symbols(value, boundaries)):
            met[value] = None
            known |= set(_symbols(value, boundaries))
    order = {b.value: i for i, b in enumerate(b for la in model.layers for b in la.boundaries)}
    crossing = [boundaries[v] for v in met if v not in wanted and v.producer() is not None]
    return Frontier(
        cut=tuple(b for v, b in wanted.items() if v in met),
        crossing=tuple(sorted(crossing, key=lambda b: order[b.value])),
        inputs=tuple(sorted(v.name or "" for v in met if v.producer() is None)),
        idle=tuple(b for v, b in wanted.items() if v not in met),
    )


def _symbols(value: ir.Value, boundaries: Mapping[ir.Value, Boundary]) -> list[str]:
    """The symbolic sizes of a boundary or of an input."""
    if value in boundaries:
        return [size for size in boundaries[value].spec.shape if isinstance(size, str)]
    return [d.value for d in value.shape or () if isinstance(d, ir.SymbolicDim) and d.value]


def legal_cuts(model: LayeredModel, ends: Sequence[Boundary]) -> set[str]:
    """Names of the layers from which `ends` can be computed with nothing but that layer's tensors.

    A single tensor parts the graph when every path from the inputs it depends on to the outputs runs
    through it, that is, when it post-dominates those inputs. Immediate post-dominators by the
    algorithm of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm", 2001), which needs one
    round on an acyclic graph. Layers with several tensors are asked of `frontier` one by one.
    """
    index = dependencies(model.graph)
    named = values_by_name(model.graph)
    varying = index.varying()
    parent, depth = _post_dominators(index, varying, {named[b.value] for b in ends})
    needed = _sizes_after(index, varying)
    inputs_of = _inputs_reaching(index, varying)
    chains = {value: set(_chain(value, parent)) for value in model.graph.graph.inputs if value in parent}
    legal = set()
    for layer in model.layers:
        if any(b.value not in named for b in layer.boundaries):
            continue
        values = [named[b.value] for b in layer.boundaries]
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
    index: Dependencies, varying: set[ir.Value], ends: set[ir.Value]
) -> tuple[dict[ir.Value, ir.Value | None], dict[ir.Value, int]]:
    """Immediate post-dominator of each value on a path to the outputs; None is the exit."""
    parent: dict[ir.Value, ir.Value | None] = {}
    depth: dict[ir.Value, int] = {}

    def meet(a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
        while a is not b:
            if b is None or (a is not None and depth[a] > depth[b]):
                a = None if a is None else parent[a]
            else:
                b = parent[b]
        return a

    readers: dict[ir.Value, list[ir.Value]] = {}
    for node in index.graph:
        for value in index.of_node(node):
            readers.setdefault(value, []).extend(node.outputs)
    order = [*index.graph.inputs, *(v for n in index.graph for v in n.outputs)]
    for value in reversed(order):
        after = [reader for reader in readers.get(value, ()) if reader in depth]
        if value not in varying or (value not in ends and not after):
            continue
        dominator: ir.Value | None = None
        if value not in ends:
            dominator = after[0]
            for reader in after[1:]:
                dominator = meet(dominator, reader)
        parent[value] = dominator
        depth[value] = 0 if dominator is None else depth[dominator] + 1
    return parent, depth


def _sizes_after(index: Dependencies, varying: set[ir.Value]) -> dict[ir.Value, frozenset[str]]:
    """The symbolic sizes of the model's inputs that what comes after each varying value computes with."""
    sizes = index.sizes(varying)
    after: dict[ir.Value, frozenset[str]] = {}
    for node in reversed(index.graph):
        reads = index.of_node(node)
        parts = [after.get(v, frozenset()) for v in node.outputs] + [sizes.get(v, frozenset()) for v in reads]
        merged = frozenset().union(*parts)
        if merged:
            for value in reads:
                if value in varying:
                    after[value] = after.get(value, frozenset()) | merged
    return after


def _chain(value: ir.Value, parent: dict[ir.Value, ir.Value | None]) -> Iterable[ir.Value]:
    current: ir.Value | None = value
    while current is not None:
        yield current
        current = parent[current]


def _inputs_reaching(index: Dependencies, varying: set[ir.Value]) -> dict[ir.Value, frozenset[ir.Value]]:
    """The graph inputs that each varying value depends on."""
    reaching: dict[ir.Value, frozenset[ir.Value]] = {
        v: frozenset([v]) for v in index.graph.inputs if v in varying
    }
    for node in index.graph:
        parts = {reaching[v] for v in index.of_node(node) if v in reaching}
        if parts:
            merged = parts.pop() if len(parts) == 1 else frozenset().union(*parts)
            for output in node.outputs:
                reaching[output] = merged
    return reaching
