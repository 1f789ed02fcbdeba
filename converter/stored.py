"""A layered model whose weights lie in files once, as a graph that can be changed and loaded many times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx

from converter.model import Boundary, LayeredModel
from converter.onnxfile import OnnxFile, referring
from converter.onnxfile.index import inner_graphs
from converter.surgery import cut
from converter.targets import TARGETS

__all__ = ["read_instead", "stored", "tap"]


def stored(model: LayeredModel, boundaries: Sequence[Boundary], folder: Path) -> tuple[onnx.ModelProto, Path]:
    """The model without its weights, and the folder where these are as external data.

    Of sources that are no ONNX files the boundaries are the outputs, under their own names in the graph: no
    other value has to step aside for them. An ONNX file has its own outputs, and its weights stay where they
    are.

    Args:
        model: the layered model, whole; it is not changed.
        boundaries: what to put out.
        folder: an empty one for the weights, to be removed afterwards.
    """
    if isinstance(model.graph, OnnxFile):
        content, where = referring(model.graph, {})
        proto = onnx.ModelProto.FromString(content)
    else:
        ends = [dataclasses.replace(b, spec=dataclasses.replace(b.spec, name=b.value)) for b in boundaries]
        path, where = folder / "model.onnx", folder
        TARGETS["onnx"].write(cut(model, "model", (), ends), path, {}, beside=True)
        proto = onnx.load(path, load_external_data=False)
    del proto.graph.value_info[:]
    _narrow_identities(proto.graph)
    return proto, where


def tap(graph: onnx.GraphProto, values: Iterable[str]) -> None:
    """Put out further values; inputs of the model are none."""
    there = {info.name for info in (*graph.input, *graph.output)}
    for name in dict.fromkeys(values):
        if name not in there:
            graph.output.add(name=name)  # ONNX Runtime infers its type


def read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let everything that reads one value read another, in inner graphs, too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in inner_graphs(node):
            read_instead(inner, names)


def _narrow_identities(graph: onnx.GraphProto) -> None:
    """Take from an Identity all but its first input: exported loops have such with the shape as a second."""
    for node in graph.node:
        if node.op_type == "Identity":
            del node.input[1:]
        for inner in inner_graphs(node):
            _narrow_identities(inner)
