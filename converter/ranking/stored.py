"""A model whose weights lie in files once, of which any number of variants can be loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import onnx

from converter.model import LayeredModel
from converter.onnxfile.index import captured, inner_graphs
from converter.stored import read_instead, stored, tap

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
        self._proto, self.folder = stored(model, model.outputs, folder)

    def tapped(self, values: Collection[str]) -> bytes:
        """The model, serialised, with further outputs; inputs of the model are none."""
        model = self._copy()
        tap(model.graph, values)
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


def _bypass(graph: onnx.GraphProto, given: str, out: str) -> None:
    """Let everything that reads one value read another; an output of the graph keeps its name."""
    read_instead(graph, {out: given})
    if any(info.name == out for info in graph.output):
        for node in graph.node:
            node.output[:] = [f"{out}:before" if name == out else name for name in node.output]
        graph.node.append(onnx.helper.make_node("Identity", [given], [out], name=f"{out}/copy"))


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
