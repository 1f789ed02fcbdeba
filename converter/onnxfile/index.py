"""The edges of an ONNX file: which node reads and writes which value, what inner graphs capture included."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import onnx

from converter.edges import Edges, is_random
from converter.errors import SourceError

if TYPE_CHECKING:
    from converter.onnxfile.file import OnnxFile

__all__ = [
    "STANDARD",
    "OutOfOrderError",
    "attached",
    "captured",
    "index_nodes",
    "inner_graphs",
    "refers_outside",
    "running_order",
    "symbolic_sizes",
]


def index_nodes(file: OnnxFile) -> Edges:
    """The edges of the main graph, whose nodes keep their numbers.

    Raises:
        OutOfOrderError: a node reads what no node before it computes.
        SourceError: two nodes compute the same, an output is not computed, or a node's name is no text.
    """
    index = _Index(file)
    for number, node in enumerate(file.nodes()):
        index.add(number, node)
    for info in file.outputs:
        if info.name not in index.known:
            raise SourceError(f"{file.path}: the output {info.name!r} is not computed")
        index.edges.value(info.name)  # it may be a weight that no node reads
    return index.edges


# Names of ONNX's own domain.
STANDARD = frozenset(("", "ai.onnx"))
_NOTED = frozenset(("QuantizeLinear", "DequantizeLinear", "Shape"))


class _Index:
    """The edges of the nodes seen so far."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.edges = Edges()
        self.known = {"", *(info.name for info in file.inputs), *file.weights}
        self.sizes = {i.name: symbolic_sizes(i) for i in file.inputs if i.name not in file.weights}
        imported = (o.version for o in file.header.opset_import if o.domain in STANDARD)
        self.opset = max(imported, default=1)
        self.draws = _random_functions(file.header.functions)
        for name, sizes in self.sizes.items():
            self.edges.add_input(name, filter(None, sizes))

    def add(self, number: int, node: onnx.NodeProto) -> None:
        """The next node. Runs once a node of files with hundreds of thousands: hence the plain style."""
        reads, writes, kind = node.input, node.output, node.op_type
        texts: tuple[object, ...] = (kind, node.name)
        if not all(isinstance(text, str) for text in texts):  # protobuf hands out bytes that are no UTF-8
            raise SourceError(f"{self.file.path}: the name or operator of a node is no text: {kind!r}")
        graphs = inner_graphs(node) if node.attribute else ()
        if graphs:
            reads = [*reads, *(name for graph in graphs for name in captured(graph))]
        known = self.known
        if not known.issuperset(reads):
            missing = next(name for name in reads if name not in known)
            raise OutOfOrderError(f"node {_called(node, number)} reads {missing!r}")
        for name in writes:
            if name in known and name:
                raise SourceError(f"{self.file.path}: {name!r} is computed twice, or is an input as well")
            known.add(name)
        self.edges.add_node(reads, writes)
        if number in self.file.mentioning and refers_outside(node):
            self.file.nodes_with_external_data.add(number)
        standard = node.domain in STANDARD
        drawn = self.draws and (node.domain, kind) in self.draws
        if drawn or (standard and is_random(kind, node.input)) or _draws(graphs):
            self.edges.random.add(number)
        if standard and kind in _NOTED and reads and writes:
            self._note(number, node)

    def _note(self, number: int, node: onnx.NodeProto) -> None:
        """Pairs of quantisation, and sizes that are read from an input."""
        edges, data = self.edges, node.input[0]
        if node.op_type == "QuantizeLinear":
            edges.quantized[edges.value(node.output[0])] = []
        elif node.op_type == "DequantizeLinear" and edges.ids.get(data) in edges.quantized:
            edges.quantized[edges.ids[data]].append(number)
        elif node.op_type == "Shape" and data in self.sizes and self.opset >= 15:  # before, it had no bounds
            symbol = _size_read(node, self.sizes[data])
            if symbol is not None:
                edges.sizes[number] = symbol


class OutOfOrderError(Exception):
    """A node stands before one that it reads from."""


def running_order(file: OnnxFile) -> list[int]:
    """The numbers of the nodes in an order in which they can run, as near to the file's as that may be.

    Raises:
        SourceError: a node reads what nobody computes, or nodes form a circle.
    """
    reads: list[set[str]] = []
    producer: dict[str, int] = {}
    for number, node in enumerate(file.nodes()):
        reads.append({*node.input, *(name for graph in inner_graphs(node) for name in captured(graph))})
        producer |= {name: number for name in node.output if name}
    given = {info.name for info in file.inputs} | set(file.weights) | {""}
    waiting: list[int] = []
    readers: dict[int, list[int]] = {}
    for number, names in enumerate(reads):
        unknown = sorted(names - given - producer.keys())
        if unknown:
            called = _called(file.node(number), number)
            raise SourceError(f"{file.path}: node {called} reads {unknown[0]!r}, which nothing computes")
        before = {producer[name] for name in names - given}
        waiting.append(len(before))
        for other in before:
            readers.setdefault(other, []).append(number)
    ready = [number for number, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for reader in readers.get(number, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(reads):
        stuck = next(number for number, count in enumerate(waiting) if count)
        raise SourceError(
            f"{file.path}: node {_called(file.node(stuck), stuck)} reads what depends on itself"
        )
    return order


def _called(node: onnx.NodeProto, number: int) -> str:
    return f"{node.name!r}" if node.name else f"{number} ({node.op_type})"


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Bodies of loops and branches."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def captured(graph: onnx.GraphProto) -> list[str]:
    """Names that a body reads from outside of it, each once."""
    own = {value.name for value in graph.input}
    own |= {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    outer: dict[str, None] = {}
    for node in graph.node:
        names = list(node.input)
        for inner in inner_graphs(node):
            names += captured(inner)
        outer |= {name: None for name in names if name and name not in own}
        own.update(node.output)
    outer |= {value.name: None for value in graph.output if value.name not in own}
    return list(outer)


def refers_outside(node: onnx.NodeProto) -> bool:
    """Whether a tensor among the node's attributes, or in its inner graphs, lies in another file."""
    return any(tensor.data_location for tensor in attached(node))


def attached(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """The tensors among a node's attributes, and those in its inner graphs."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor):
            yield from (sparse.values, sparse.indices)
    for graph in inner_graphs(node):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for inner in graph.node:
            yield from attached(inner)


def _draws(graphs: Iterable[onnx.GraphProto]) -> bool:
    return any(
        is_random(node.op_type, node.input) or _draws(inner_graphs(node)) for g in graphs for node in g.node
    )


def _random_functions(functions: Iterable[onnx.FunctionProto]) -> set[tuple[str, str]]:
    """Local functions in which something is random, through what they call as well."""
    bodies = {(f.domain, f.name): f for f in functions}
    found = {
        key
        for key, body in bodies.items()
        if any(is_random(n.op_type, n.input) or _draws(inner_graphs(n)) for n in body.node)
    }
    while True:
        more = {
            key
            for key, body in bodies.items()
            if key not in found and any((n.domain, n.op_type) in found for n in body.node)
        }
        if not more:
            return found
        found |= more


def symbolic_sizes(info: onnx.ValueInfoProto) -> list[str]:
    """The names of a tensor's symbolic sizes, empty for the others; [] where the rank is not known."""
    return [size.dim_param for size in info.type.tensor_type.shape.dim]


def _size_read(node: onnx.NodeProto, sizes: list[str]) -> str | None:
    """The symbolic size that a `Shape` of one axis reads."""
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    start, end = bounds.get("start", 0), bounds.get("end", len(sizes))
    start, end = (bound + len(sizes) if bound < 0 else bound for bound in (start, end))
    return (sizes[start] or None) if end == start + 1 and 0 <= start < len(sizes) else None
