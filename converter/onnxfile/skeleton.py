"""An ONNX file as a model in memory whose large weights are elsewhere: for whoever needs a whole model."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from converter.errors import SourceError
from converter.onnxfile.bounds import inferred, is_long, refuse_large
from converter.onnxfile.external import Span, bring_in
from converter.onnxfile.tensors import Weight, external_stub, without_payloads
from converter.onnxfile.wire import fields, tag

if TYPE_CHECKING:
    from converter.onnxfile.file import OnnxFile

__all__ = ["infer_types", "referring", "refuse_bombs", "stub_model"]

_GRAPH, _NODE, _INITIALIZER, _OUTPUT = 7, 1, 5, 12
# Weights above this size are referred to where they are.
_REFERRED = 1 << 12
# Nodes whose types are inferred together: a bound on memory, and further than sizes are reckoned with.
_AT_ONCE = 2048


def stub_model(file: OnnxFile) -> onnx.ModelProto:
    """The whole model, without the bytes of its large weights."""
    refuse_bombs(file)
    model = onnx.ModelProto()
    model.CopyFrom(file.header)
    model.graph.CopyFrom(file.about)
    model.graph.name = model.graph.name or "graph"
    file.edges  # noqa: B018  # puts nodes in order
    model.graph.node.extend(file.nodes())
    model.graph.input.extend(file.inputs)
    model.graph.output.extend(file.outputs)
    model.graph.initializer.extend(_stub(file, w) for w in file.weights.values() if not w.is_sparse)
    return model


def infer_types(file: OnnxFile, names: Iterable[str]) -> dict[str, onnx.ValueInfoProto]:
    """Types and shapes of these values as ONNX's shape inference finds them; the others are missing.

    Only what the values are computed from is looked at, and no large weights.
    """
    edges = file.edges
    wanted = {name for name in names if edges.ids.get(name) in edges.producer}
    numbers = sorted(edges.nodes_for(edges.ids[name] for name in wanted))
    found: dict[str, onnx.ValueInfoProto] = {}
    last_read = array("q", [-1]) * len(edges.names)
    for number in numbers:
        for value in edges.reads[number]:
            last_read[value] = number
    for first in range(0, len(numbers), _AT_ONCE):
        part = numbers[first : first + _AT_ONCE]
        for info in _inferred(file, part, found):
            if info.name in wanted or last_read[edges.ids[info.name]] > part[-1]:
                found[info.name] = onnx.ValueInfoProto()
                found[info.name].CopyFrom(info)  # `info` itself would keep all of the part in memory
    return {name: found[name] for name in wanted if name in found and found[name].type.WhichOneof("value")}


def _inferred(
    file: OnnxFile, numbers: Sequence[int], before: Mapping[str, onnx.ValueInfoProto]
) -> Iterable[onnx.ValueInfoProto]:
    """What ONNX's shape inference says of what some nodes write, given what it said of those before."""
    edges = file.edges
    model = onnx.ModelProto()
    model.CopyFrom(file.header)
    graph = model.graph
    graph.name = "g"
    for number in numbers:
        node = file.node(number)
        del node.metadata_props[:]  # kilobytes a node, where exporters leave their stacks
        node.ClearField("doc_string")
        graph.node.append(node)
    graph.input.extend(file.inputs)
    graph.output.extend(file.outputs)
    reads = {edges.names[v] for n in numbers for v in edges.reads[n]}
    graph.input.extend(before[name] for name in reads if name in before)
    for name, weight in file.weights.items():
        if name in reads and not weight.is_sparse:
            graph.initializer.append(_stub(file, weight))
    try:
        graph = inferred(model).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return []  # types that contradict each other, or none that there are: runtimes will say so, too
    return [info for info in (*graph.value_info, *graph.output) if info.name in edges.ids]


def _stub(file: OnnxFile, weight: Weight) -> onnx.TensorProto:
    field = next(fields(file.data, weight.begin, weight.stop))
    body = without_payloads(file.data, field.start, field.stop, "TensorProto")
    stub = onnx.TensorProto()
    try:
        stub.ParseFromString(body)
    except DecodeError as error:
        raise SourceError(f"{file.path}: the weight {weight.name!r} cannot be read: {error}") from error
    return stub


def referring(file: OnnxFile, taps: Mapping[str, onnx.ValueInfoProto]) -> tuple[bytes, Path]:
    """The whole model with further outputs; its weights are external data in the files where they are.

    Args:
        file: the file.
        taps: values to put out besides, by name.

    Returns:
        A serialised model, and the folder to load it with as that of external data.

    Raises:
        SourceError: external data that is not there, or not where it may be.
    """
    refuse_bombs(file)
    moved = _with_data_inside(file)
    places = {w.begin: place for w in file.weights.values() if (place := _place(file, w)) is not None}
    own = file.path.resolve()
    folder = Path(os.path.commonpath([str(path.parent) for path, _ in places.values()] or [str(own.parent)]))
    parts: list[bytes] = []
    weights = {weight.begin: weight for weight in file.weights.values()}
    graph = next(field for field in fields(file.data, 0, file.size) if field.number == _GRAPH)
    position = graph.start
    for field in fields(file.data, graph.start, graph.stop):
        if field.begin not in places and field.begin not in moved:
            continue
        parts.append(file.data[position : field.begin])
        position = field.stop
        if field.begin in moved:
            parts += (tag(_NODE, len(moved[field.begin])), moved[field.begin])
            continue
        weight, (path, span) = weights[field.begin], places[field.begin]
        entries = {"location": path.relative_to(folder), "offset": span.offset, "length": span.length}
        body = external_stub(weight.name, weight.dims, weight.dtype, entries).SerializeToString()
        parts += (tag(_INITIALIZER, len(body)), body)
    parts.append(file.data[position : graph.stop])
    outputs = {info.name for info in file.outputs}
    for name, info in taps.items():
        if name not in outputs:
            body = info.SerializeToString()
            parts += (tag(_OUTPUT, len(body)), body)
    header = file.header.SerializeToString()
    return b"".join([header, tag(_GRAPH, sum(map(len, parts))), *parts]), folder


def _with_data_inside(file: OnnxFile) -> dict[int, bytes]:
    """Where nodes stand whose constants lie in other files → these nodes with the data in them."""
    file.edges  # noqa: B018  # finds them
    found = {}
    for number in file.nodes_with_external_data:
        node = file.node(number, whole=True)
        bring_in(file.external, node)
        found[file.span(number)[0]] = node.SerializeToString()
    return found


def refuse_bombs(file: OnnxFile) -> None:
    """Refuse a file whose graph makes tensors that are larger than the memory there is.

    For whoever is to run it, to fold its constants or to write its functions out. What becomes known of sizes
    only in the run is the runtime's to refuse.

    Raises:
        SourceError: it makes such.
    """
    if not file.bounded:
        found = infer_types(file, [file.edges.names[value] for value in file.edges.producer])
        refuse_large((*file.inputs, *file.outputs))
        file.bounded, file.followed = True, not any(map(is_long, found.values()))


def _place(file: OnnxFile, weight: Weight) -> tuple[Path, Span] | None:
    """The file and the range of bytes that a weight's data are; None for those that stay in the model."""
    if weight.entries is not None:
        span = file.external.span(weight.name, weight.entries, weight.nbytes)
        return file.external.path(weight.entries["location"]).resolve(), span
    if weight.raw is None or weight.is_sparse or weight.stop - weight.begin < _REFERRED:
        return None
    begin, stop = weight.raw
    return file.path.resolve(), Span(file.handle, begin, stop - begin)
