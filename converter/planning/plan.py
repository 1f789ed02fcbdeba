"""What every cut of a model costs: bytes that cross, and weights, work and memory on either side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from converter.edges import Edges
from converter.model import Boundary, Layer, LayeredModel, TensorSpec
from converter.onnxfile import BITS
from converter.planning.macs import macs_of
from converter.planning.shapes import Shapes, concrete
from converter.surgery import edges_of, frontier, legal_cuts

__all__ = ["CutCost", "Plan", "Side", "plan"]

Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Side:
    """Trunk or head of a cut.

    Attributes:
        parameters: elements of the weights that it reads.
        macs: multiply-accumulate operations for one sample.
        peak_bytes: largest sum of activations that are alive at once, when nodes run in the graph's order.
    """

    parameters: int
    macs: int
    peak_bytes: int


@dataclasses.dataclass(frozen=True)
class CutCost:
    """A cut behind one layer.

    Attributes:
        layer: the layer's name.
        kind: its class or operator.
        depth: how far down it is, from 0 to 1: its place in the order of execution.
        single: whether its own tensor is all that crosses.
        crossing: every tensor that crosses, inputs of the model that both sides need included.
        crossing_bytes: their bytes for one sample; None where a shape is not known.
        trunk: what it takes to compute them.
        head: what is left to compute.
    """

    layer: str
    kind: str
    depth: float
    single: bool
    crossing: tuple[TensorSpec, ...]
    crossing_bytes: int | None
    trunk: Side
    head: Side

    @property
    def elements(self) -> int | None:
        """Elements of what crosses, for one sample."""
        sizes = [math.prod(s for s in spec.shape if isinstance(s, int)) for spec in self.crossing]
        return sum(sizes) if all(isinstance(s, int) for spec in self.crossing for s in spec.shape) else None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every cut of a model.

    Attributes:
        cuts: in order of depth.
        whole: the model uncut.
        inputs: its inputs with the sizes that were reckoned with.
        assumed: symbolic sizes that nobody gave, by name.
        uncounted: nodes whose work is not known, because a shape is not.
    """

    cuts: tuple[CutCost, ...]
    whole: Side
    inputs: tuple[TensorSpec, ...]
    assumed: Mapping[str, int]
    uncounted: tuple[str, ...]


def plan(
    model: LayeredModel, sizes: Mapping[str, Sequence[int]] | None = None, *, every: bool = True
) -> Plan:
    """Reckon what each cut of a model costs.

    Single-tensor cuts are found by dominators (`converter.surgery.legal_cuts`); of other layers, the frontier
    counts: the tensors that the rest needs from what the layer is computed from.

    Args:
        model: the layered model, whole.
        sizes: sizes of inputs, by name; others that are symbolic are assumed (1 sample, images of 224 x 224,
            sequences of 128).
        every: other layers, too, not only those where one tensor is enough.
    """
    shapes = concrete(model, sizes or {})
    book = _Book(model, shapes)
    legal = legal_cuts(model, model.outputs)
    cuts = []
    for place, layer in enumerate(model.layers):
        inputs: Sequence[str] = ()
        if layer.name in legal:
            crossing: Sequence[Boundary] = layer.boundaries
        elif every and layer.boundaries:
            crossing, inputs = _crossing(model, layer)
        else:
            continue
        if not crossing:
            continue
        depth = place / max(len(model.layers) - 1, 1)
        cuts.append(book.cost(layer, crossing, inputs, depth, single=layer.name in legal))
    sized = tuple(_sized(spec.name, spec, shapes) for spec in model.inputs)
    whole = book.side(book.needed, ())
    return Plan(tuple(cuts), whole, sized, shapes.assumed, tuple(book.uncounted))


def _crossing(model: LayeredModel, layer: Layer) -> tuple[Sequence[Boundary], Sequence[str]]:
    """The boundaries that cross a cut behind a layer, and the model's inputs that both sides need."""
    ids = edges_of(model.graph).ids
    if any(b.value not in ids for b in layer.boundaries):
        return (), ()
    edge = frontier(model, layer.boundaries, model.outputs)
    return ((*edge.cut, *edge.crossing), edge.inputs) if edge.cut else ((), ())


def _sized(value: str, spec: TensorSpec, shapes: Shapes) -> TensorSpec:
    return dataclasses.replace(spec, shape=shapes.sizes.get(value, spec.shape))


class _Book:
    """Costs of nodes and sizes of values, as arrays."""

    def __init__(self, model: LayeredModel, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.edges: Edges = edges_of(model.graph)
        self.uncounted: list[str] = []
        names = self.edges.names
        counts = [macs_of(node, shapes) for node in shapes.graph.node]
        for node, count in zip(shapes.graph.node, counts, strict=True):
            if count is None:
                self.uncounted.append(node.name or node.output[0])
        self.macs = np.array([count or 0 for count in counts], np.int64)
        weights = {t.name: math.prod(t.dims) for t in shapes.graph.initializer}
        held = [(value, weights[name]) for value, name in enumerate(names) if name in weights]
        self.weight_sizes = np.array([size for _, size in held], np.int64)
        place = {value: index for index, (value, _) in enumerate(held)}
        pairs = [(n, place[v]) for n, reads in enumerate(self.edges.reads) for v in reads if v in place]
        self.reads_weight = np.array(pairs, np.int64).reshape(-1, 2)
        varying = sorted(self.edges.varying())
        self.activations = np.array([self._bytes(names[value]) or 0 for value in varying], np.int64)
        self.producers = np.array([self.edges.producer.get(value, -1) for value in varying], np.int64)
        self.place = {value: index for index, value in enumerate(varying)}
        reading = [
            (self.place[v], n) for n, reads in enumerate(self.edges.reads) for v in reads if v in self.place
        ]
        self.readers = np.array(reading, np.int64).reshape(-1, 2)
        self.needed = self._nodes_for([b.value for b in model.outputs])

    def _bytes(self, name: str) -> int | None:
        shape = self.shapes.sizes.get(name)
        bits = BITS.get(self.shapes.types.get(name, 0))
        return None if shape is None or bits is None else (math.prod(shape) * bits + 7) // 8

    def _nodes_for(self, values: Sequence[str], stop: Sequence[str] = ()) -> Flags:
        ids = self.edges.ids
        nodes = self.edges.nodes_for([ids[name] for name in values], [ids[name] for name in stop])
        flags = np.zeros(len(self.edges.reads), bool)
        flags[list(nodes)] = True
        return flags

    def cost(
        self, layer: Layer, crossing: Sequence[Boundary], inputs: Sequence[str], depth: float, *, single: bool
    ) -> CutCost:
        """The cost of a cut at these boundaries, over which these inputs of the model go as well."""
        values = [boundary.value for boundary in crossing]
        sizes = [self._bytes(value) for value in (*values, *inputs)]
        fed = [spec for spec in self.model.inputs if spec.name in inputs]
        return CutCost(
            layer=layer.name,
            kind=layer.kind,
            depth=depth,
            single=single,
            crossing=(
                *(_sized(b.value, b.spec, self.shapes) for b in crossing),
                *(_sized(spec.name, spec, self.shapes) for spec in fed),
            ),
            crossing_bytes=None if None in sizes else sum(size or 0 for size in sizes),
            trunk=self.side(self._nodes_for(values), values),
            head=self.side(self._nodes_for([b.value for b in self.model.outputs], values), values),
        )

    def side(self, nodes: Flags, crossing: Sequence[str]) -> Side:
        """What these nodes cost."""
        used = np.zeros(len(self.weight_sizes), bool)
        if len(self.reads_weight):
            used[self.reads_weight[nodes[self.reads_weight[:, 0]], 1]] = True
        return Side(
            parameters=int(self.weight_sizes[used].sum()),
            macs=int(self.macs[nodes].sum()),
            peak_bytes=self._peak(nodes, crossing),
        )

    def _peak(self, nodes: Flags, crossing: Sequence[str]) -> int:
        """The largest sum of values alive at once: from the node that makes one to the last that reads it."""
        steps = int(nodes.sum())
        if steps == 0:
            return 0
        step = np.cumsum(nodes) - 1
        inside = (self.producers >= 0) & nodes[self.producers]
        born = np.where(inside, step[self.producers], 0)
        gone = np.full(len(self.activations), -1)
        reading = self.readers[nodes[self.readers[:, 1]]]
        np.maximum.at(gone, reading[:, 0], step[reading[:, 1]])
        kept = [*(b.value for b in self.model.outputs), *crossing]
        ends = [self.place[v] for v in map(self.edges.ids.__getitem__, kept) if v in self.place]
        gone[ends] = np.where(inside[ends], steps - 1, gone[ends])
        alive = gone >= 0
        change = np.zeros(steps + 1, np.int64)
        np.add.at(change, born[alive], self.activations[alive])
        np.add.at(change, gone[alive] + 1, -self.activations[alive])
        return int(np.cumsum(change).max())
