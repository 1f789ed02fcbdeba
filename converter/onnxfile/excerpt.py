"""Part of an ONNX file: which of its nodes and weights, between which inputs and outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import onnx

from converter.onnxfile.external import bring_in
from converter.onnxfile.file import OnnxFile
from converter.onnxfile.index import inner_graphs
from converter.onnxfile.tensors import Weight

__all__ = ["Excerpt"]


@dataclasses.dataclass
class Excerpt:
    """A piece of a file that is yet to be written.

    Attributes:
        file: the file.
        numbers: the nodes to keep, in running order.
        inputs: what has to be fed.
        outputs: what is computed.
        changed: nodes that are not written as they stand in the file.
        copied: (name, new name) of values that pass through; Identity nodes at the end make them.
    """

    file: OnnxFile
    numbers: Sequence[int]
    inputs: Sequence[onnx.ValueInfoProto]
    outputs: Sequence[onnx.ValueInfoProto]
    changed: Mapping[int, onnx.NodeProto]
    copied: Sequence[tuple[str, str]]

    @property
    def nodes(self) -> int:
        """Number of nodes of the main graph."""
        return len(self.numbers) + len(self.copied)

    @property
    def parameters(self) -> int:
        """Number of elements of the initializers."""
        return sum(weight.size for weight in self.weights)

    @cached_property
    def values(self) -> frozenset[str]:
        """Names of all values of the main graph, inputs and weights included."""
        edges = self.file.edges
        numbers = {v for n in self.numbers for v in (*edges.reads[n], *edges.writes[n])}
        names = {edges.names[number] for number in numbers}
        names |= {info.name for info in (*self.inputs, *self.outputs)}
        return frozenset(names | {name for pair in self.copied for name in pair})

    @cached_property
    def weights(self) -> list[Weight]:
        """The initializers that are read, in the file's order."""
        fed = {info.name for info in self.inputs}
        return [
            weight
            for name, weight in self.file.weights.items()
            if name not in fed and (name in self.values or name in self._parameters)
        ]

    @cached_property
    def annotations(self) -> list[onnx.TensorAnnotation]:
        """Quantisation annotations of the values."""
        return [note for note in self.file.annotations if note.tensor_name in self.values]

    @cached_property
    def _parameters(self) -> frozenset[str]:
        """Names of scales and zero points that annotations refer to."""
        return frozenset(p.value for note in self.annotations for p in note.quant_parameter_tensor_names)

    @property
    def weights_as_inputs(self) -> list[onnx.ValueInfoProto]:
        """Inputs that have a weight as their default, as all weights had before IR version 4."""
        kept = {weight.name for weight in self.weights}
        return [info for info in self.file.inputs if info.name in kept]

    def rewritten(self, number: int) -> onnx.NodeProto | None:
        """A node that is not to be written as it stands in the file: changed, or with data outside of it."""
        node = self.changed.get(number)
        if number in self.file.nodes_with_external_data:
            node = node or self.file.node(number, whole=True)
            bring_in(self.file.external, node)
        return node

    @property
    def copies(self) -> list[onnx.NodeProto]:
        """The nodes that give values which pass through a name of their own."""
        return [
            onnx.NodeProto(op_type="Identity", name=f"{new}/copy", input=[name], output=[new])
            for name, new in self.copied
        ]

    def kept_nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes, without large constants."""
        file = self.file
        if len(self.numbers) == len(file):
            yield from file.nodes()
        else:
            yield from (file.node(number) for number in self.numbers)

    def header(self) -> onnx.ModelProto:
        """The model without its graph; of opset imports and local functions those that are used."""
        header = onnx.ModelProto()
        header.CopyFrom(self.file.header)
        if len(header.opset_import) < 2 and not header.functions:
            return header
        bodies = {(f.domain, f.name, f.overload): f for f in self.file.header.functions}
        used: set[str] = {""}
        called: dict[tuple[str, str, str], None] = {}
        stack = list(self.kept_nodes())
        while stack:
            node = stack.pop()
            used.add(_domain(node.domain))
            key = (node.domain, node.op_type, node.overload)
            if key in bodies and key not in called:
                called[key] = None
                stack.extend(bodies[key].node)
            stack.extend(inner for graph in inner_graphs(node) for inner in graph.node)
        del header.functions[:], header.opset_import[:]
        header.functions.extend(body for key, body in bodies.items() if key in called)
        header.opset_import.extend(o for o in self.file.header.opset_import if _domain(o.domain) in used)
        return header


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
