"""A model whose weights lie in files once, of which any number of variants can be loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path

import onnx

from converter.model import Boundary, LayeredModel
from converter.onnxfile import OnnxFile, referring
from converter.onnxfile.index import captured, inner_graphs
from converter.surgery import cut
from converter.targets import TARGETS

__all__ = ["Stored"]


class Stored:
    """A model without its weights, and the folder where these are as external data.

    An ONNX file's weights stay where they are; those of other sources are written to a folder once.

    Attributes:
        folder: where external data lie.
        outputs: names of the model's outputs in the graph.
    """

    def __init__(self, model: LayeredModel, folder: Path) -> None:
        """Store a model.

        Args:
            model: the layered model, whole; it is not changed.
            folder: an empty one, to be removed afterwards.
        """
        self.outputs = tuple(boundary.value for boundary in model.outputs)
        if isinstance(model.graph, OnnxFile):
            content, self.folder = referring(model.graph, {})
            self._proto = onnx.ModelProto.FromString(content)
        else:
            # Under their own names in the graph: no other value has to step aside for them.
            ends = [_as_itself(boundary) for boundary in model.outputs]
            path, self.folder = folder / "model.onnx", folder
            TARGETS["onnx"].write(cut(model, "model", (), ends), path, {}, beside=True)
            self._proto = onnx.load(path, load_external_data=False)
        del self._proto.graph.value_info[:]
        _narrow_identities(self._proto.graph)

    def tapped(self, values: Collection[str]) -> bytes:
        """The model, serialised, with further outputs; inputs of the model are none."""
        model = self._copy()
        there = {info.name for info in (*model.graph.input, *model.graph.output)}
        for name in dict.fromkeys(values):
            if name not in there:
                model.graph.output.add(name=name)  # ONNX Runtime infers its type
        return bytes(model.SerializeToString())

    def without(self, bridges: Iterable[tuple[str, str]]) -> bytes:
        """The model, serialised, in which what goes into blocks goes on to whatever read what came out.

        Args:
            bridges: (value that goes in, value that comes out); nothing that the one is computed from reads
                the other.
        """
        model = self._copy()
        for given, out in bridges:
            _bypass(model.graph, given, out)
        _prune(model.graph)
        return bytes(model.SerializeToString())

    def _copy(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._proto)
        return model


def _as_itself(boundary: Boundary) -> Boundary:
    return dataclasses.replace(boundary, spec=dataclasses.replace(boundary.spec, name=boundary.value))


def _narrow_identities(graph: onnx.GraphProto) -> None:
    """Take from an Identity all but its first input: exported loops have such with the shape as a second."""
    for node in graph.node:
        if node.op_type == "Identity":
            del node.input[1:]
        for inner in inner_graphs(node):
            _narrow_identities(inner)


def _bypass(graph: onnx.GraphProto, given: str, out: str) -> None:
    """Let everything that reads one value read another; an output of the graph keeps its name."""
    _read_instead(graph, out, given)
    if any(info.name == out for info in graph.output):
        for node in graph.node:
            node.output[:] = [f"{out}:before" if name == out else name for name in node.output]
        graph.node.append(onnx.helper.make_node("Identity", [given], [out], name=f"{out}/copy"))


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
        for inner in inner_graphs(node):
            _read_instead(inner, old, new)


def _prune(graph: onnx.GraphProto) -> None:
    """Drop the nodes that no output needs; the others stay in their order."""
    producer = {name: number for number, node in enumerate(graph.node) for name in node.output}
    stack, kept = [info.name for info in graph.output], set[int]()
    while stack:
        number = producer.get(stack.pop())
        if number is None or number in kept:
            continue
        kept.add(number)
        stack.extend(graph.node[number].input)
        stack.extend(name for inner in inner_graphs(graph.node[number]) for name in captured(inner))
    nodes = [node for number, node in enumerate(graph.node) if number in kept]
    del graph.node[:]
    graph.node.extend(nodes)
