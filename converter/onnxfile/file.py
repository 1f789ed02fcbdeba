"""An ONNX file, opened at the cost of its nodes: weights stay where they are until somebody writes them.

The format is that of onnx.proto. The file's fields are walked; small messages are parsed, and of those that
hold weights only names, shapes and places are kept. What a piece keeps is copied byte for byte.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from converter.edges import Edges
from converter.errors import SourceError
from converter.mistaken import expect_downloaded
from converter.onnxfile.bounds import check_functions
from converter.onnxfile.disk import FileBytes
from converter.onnxfile.external import ExternalData, refuse_holes
from converter.onnxfile.index import OutOfOrderError, index_nodes, refers_outside, running_order
from converter.onnxfile.skeleton import infer_types
from converter.onnxfile.tensors import Weight, without_payloads
from converter.onnxfile.wire import BYTES, Field, WireError, fields

__all__ = ["OnnxFile"]

_GRAPH, _TRAINING = 7, 20
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO, _ANNOTATION, _SPARSE = 1, 5, 11, 12, 13, 14, 15
# Nodes above this size are looked into for weights; others are parsed as they are.
_LARGE_NODE = 1 << 12
_RUN = 1 << 18
# The key under which external data say where they are.
_PLACE = b"location"


class OnnxFile:
    """An ONNX model in a file.

    Attributes:
        path: the file.
        header: the model without its graph: versions, opsets, metadata, local functions.
        about: the graph without nodes, weights, inputs, outputs and types of values: name, documentation,
            metadata and quantisation annotations.
        inputs: the graph's inputs, those that are initializers, too, included.
        outputs: the graph's outputs.
        weights: the initializers by name, in the file's order.
        external: the files beside it that hold weights.
        size: bytes of the file.
        mentioning: nodes that may have external data: they have the word that its place begins with.
        bounded: `converter.onnxfile.skeleton.refuse_bombs` has found nothing.
        followed: inference may follow the values of sizes; known once the file is `bounded`.
        nodes_with_external_data: known once `edges` were asked for.
    """

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        """Open a file.

        Args:
            path: the file.
            trust: follow links from external data out of the folder.

        Raises:
            SourceError: it is no regular file, or no ONNX model.
        """
        self.path = path
        self.external = ExternalData(path.parent, trust=trust)
        self.nodes_with_external_data: set[int] = set()
        self.mentioning: set[int] = set()
        self.bounded = False
        self.followed = False
        self._typed: dict[str, onnx.ValueInfoProto | None] = {}
        self.data = FileBytes(path)
        refuse_holes(str(path), self.data.handle, os.fstat(self.data.handle))
        self.size = len(self.data)
        try:
            self._read()
        except (WireError, DecodeError, UnicodeDecodeError) as error:
            expect_downloaded(path)
            raise SourceError(f"{path} is not a readable ONNX file: {error}") from error

    def _read(self) -> None:
        graphs, header = [], bytearray()
        for field in fields(self.data, 0, self.size):
            if field.number == _GRAPH:
                graphs.append(_message(field))
            elif field.number != _TRAINING:
                header += self.data[field.begin : field.stop]
        self.header = onnx.ModelProto.FromString(bytes(header))
        self._check_header()
        if len(graphs) != 1:
            raise WireError(f"a model has one graph, this file {len(graphs)}")
        spans: dict[int, list[Field]] = {number: [] for number in _REPEATED}
        about = bytearray()
        for field in fields(self.data, graphs[0].start, graphs[0].stop):
            if field.number in spans:
                spans[field.number].append(_message(field))
            else:
                about += self.data[field.begin : field.stop]
        self.about = onnx.GraphProto.FromString(bytes(about))
        self.annotations = [self._parsed(onnx.TensorAnnotation, f) for f in spans[_ANNOTATION]]
        self.inputs = [self._parsed(onnx.ValueInfoProto, f) for f in spans[_INPUT]]
        self.outputs = [self._parsed(onnx.ValueInfoProto, f) for f in spans[_OUTPUT]]
        self._nodes = _Spans(spans[_NODE])
        self._value_infos = spans[_VALUE_INFO]
        read = [(Weight.dense, f) for f in spans[_INITIALIZER]] + [(Weight.sparse, f) for f in spans[_SPARSE]]
        self.weights: dict[str, Weight] = {}
        for make, field in sorted(read, key=lambda pair: pair[1].begin):
            weight = make(self.data, field)
            if weight.name in self.weights:
                raise WireError(f"two initializers are called {weight.name!r}")
            self.weights[weight.name] = weight

    def _check_header(self) -> None:
        check_functions(self.header.functions)
        for function in self.header.functions:
            if any(map(refers_outside, function.node)):
                raise SourceError(
                    f"{self.path}: the function {function.name!r} has external data, which ONNX has not"
                )

    def _parsed(self, kind: Any, field: Field) -> Any:
        return kind.FromString(self.data[field.start : field.stop])

    @property
    def handle(self) -> int:
        """The descriptor of the open file."""
        return self.data.handle

    def __len__(self) -> int:
        return len(self._nodes)

    def span(self, number: int) -> tuple[int, int]:
        """Where a node stands in the file, its tag included."""
        return self._nodes.begin[number], self._nodes.stop[number]

    def node(self, number: int, *, whole: bool = False) -> onnx.NodeProto:
        """A node; without its large constants unless the whole is asked for."""
        start, stop = self._nodes.start[number], self._nodes.stop[number]
        small = whole or stop - start < _LARGE_NODE
        content = self.data[start:stop] if small else without_payloads(self.data, start, stop, "NodeProto")
        if _PLACE in content:
            self.mentioning.add(number)
        node = onnx.NodeProto()
        node.ParseFromString(content)
        return node

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Every node in running order, without large constants; a few at a time are in memory."""
        begin, start, stop = self._nodes.begin, self._nodes.start, self._nodes.stop
        count, first = len(self), 0
        while first < count:
            last = first
            while (
                last < count and stop[last] - start[last] < _LARGE_NODE and stop[last] - begin[first] < _RUN
            ):
                last += 1
                if last < count and begin[last] != stop[last - 1]:
                    break
            if last == first:
                yield self.node(first)
                first += 1
                continue
            content = self.data[begin[first] : stop[last - 1]]
            if _PLACE in content:
                self.mentioning.update(range(first, last))
            yield from onnx.GraphProto.FromString(content).node
            first = last

    @cached_property
    def edges(self) -> Edges:
        """What each node reads and writes; nodes that stand out of order in the file are sorted first.

        Raises:
            SourceError: a node reads what nobody computes, two compute the same, or nodes form a circle.
        """
        try:
            try:
                return index_nodes(self)
            except OutOfOrderError:
                self._nodes = self._nodes.ordered(running_order(self))
                return index_nodes(self)
        except (WireError, DecodeError, UnicodeDecodeError) as error:
            raise SourceError(f"{self.path} is not a readable ONNX file: {error}") from error

    def typed(self, wanted: Iterable[str]) -> dict[str, onnx.ValueInfoProto]:
        """Types and shapes of these values: what ONNX infers, else what the file says, else missing."""
        names = set(wanted)
        unknown = {name for name in names if name not in self._typed}
        if unknown:
            # Notes go stale when somebody makes a batch symbolic: what can be inferred counts for more.
            noted, inferred = self.types(unknown), infer_types(self, unknown)
            self._typed |= {name: _better(inferred.get(name), noted.get(name)) for name in unknown}
        return {name: info for name in names if (info := self._typed[name]) is not None}

    def note(self, info: onnx.ValueInfoProto) -> None:
        """Keep the type of a value that neither the file nor inference has."""
        self._typed[info.name] = info

    def types(self, wanted: Iterable[str]) -> dict[str, onnx.ValueInfoProto]:
        """What the file itself says about these values: inputs, outputs and noted types."""
        names = set(wanted)
        found = {info.name: info for info in (*self.inputs, *self.outputs) if info.name in names}
        for field in self._value_infos:
            name = self._name_of(field)
            if name in names and name not in found:
                found[name] = self._parsed(onnx.ValueInfoProto, field)
        return found

    def _name_of(self, field: Field) -> str:
        for inner in fields(self.data, field.start, field.stop):
            if inner.number == 1 and inner.kind == BYTES:
                return str(self.data[inner.start : inner.stop], "utf-8")
        return ""

    def type_spans(self, keep: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Where the noted types of values stand whose name is to be kept."""
        return [(field.begin, field.stop) for field in self._value_infos if keep(self._name_of(field))]

    def expect_unchanged(self) -> None:
        """Make sure that all that was read so far, weights included, is of one state of the files.

        Raises:
            SourceError: one of them was written to, or another put in its place.
        """
        self.data.expect_unchanged()
        self.external.expect_unchanged()

    def close(self) -> None:
        """Close the file and those beside it."""
        self.external.close()
        self.data.close()


def _better(
    inferred: onnx.ValueInfoProto | None, noted: onnx.ValueInfoProto | None
) -> onnx.ValueInfoProto | None:
    """What inference says of a value, where it says a shape; names and sizes it has not are the file's."""
    if inferred is None or noted is None:
        return inferred or noted
    kind, other = inferred.type.tensor_type, noted.type.tensor_type
    if not inferred.type.HasField("tensor_type") or not kind.HasField("shape"):
        return noted
    if len(kind.shape.dim) == len(other.shape.dim):
        for own, there in zip(kind.shape.dim, other.shape.dim, strict=True):
            unnamed = not own.HasField("dim_value") and not own.dim_param
            if unnamed or (own.dim_param.startswith("unk__") and there.dim_param):
                own.CopyFrom(there)
    return inferred


class _Spans:
    """Begin of the tag, begin and end of the payload of many fields, in a few bytes each."""

    def __init__(self, found: Iterable[Field]) -> None:
        self.begin, self.start, self.stop = array("q"), array("q"), array("q")
        for field in found:
            self.begin.append(field.begin)
            self.start.append(field.start)
            self.stop.append(field.stop)

    def __len__(self) -> int:
        return len(self.begin)

    def ordered(self, order: Sequence[int]) -> _Spans:
        """The same in another order."""
        other = _Spans(())
        for name in ("begin", "start", "stop"):
            numbers = getattr(self, name)
            setattr(other, name, array("q", [numbers[index] for index in order]))
        return other


_REPEATED = (_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO, _ANNOTATION, _SPARSE)


def _message(field: Field) -> Field:
    if field.kind != BYTES:
        raise WireError(f"field {field.number} at byte {field.begin} is no message")
    return field
