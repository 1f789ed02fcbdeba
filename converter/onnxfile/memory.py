"""Part of an ONNX file as an onnx_ir model, whose large weights are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_ir as ir

from converter.onnxfile.excerpt import Excerpt
from converter.onnxfile.skeleton import refuse_bombs
from converter.onnxfile.tensors import Weight, external_stub
from converter.onnxfile.wire import fields

__all__ = ["as_model", "without_initializers"]


def as_model(excerpt: Excerpt) -> ir.Model:
    """The excerpt as a model of its own; weights are lazy."""
    file = excerpt.file
    refuse_bombs(file)
    proto = excerpt.header()
    graph = proto.graph
    graph.CopyFrom(file.about)
    for number in excerpt.numbers:
        graph.node.append(excerpt.rewritten(number) or file.node(number, whole=True))
    graph.node.extend(excerpt.copies)
    graph.input.extend([*excerpt.inputs, *excerpt.weights_as_inputs])
    graph.output.extend(excerpt.outputs)
    ends = {info.name for info in (*excerpt.inputs, *excerpt.outputs)}
    graph.value_info.extend(file.types(excerpt.values - ends).values())
    for weight in excerpt.weights:
        if weight.is_sparse:
            graph.sparse_initializer.add().ParseFromString(_message(excerpt, weight))
        else:
            place = {"location": file.path.name}  # replaced below
            graph.initializer.append(external_stub(weight.name, weight.dims, weight.dtype, place))
    model = ir.from_proto(proto)
    for weight in excerpt.weights:
        if not weight.is_sparse:
            model.graph.initializers[weight.name].const_value = _tensor(excerpt, weight)
    return model


def without_initializers(model: ir.Model, names: Iterable[str]) -> onnx.ModelProto:
    """The model serialised without these initializers of its main graph; the model stays as it is."""
    graph = model.graph
    held = dict(graph.initializers)
    for name in names:
        del graph.initializers[name]
    try:
        proto: onnx.ModelProto = ir.serde.serialize_model(model)
    finally:
        for name in held:
            graph.initializers.pop(name, None)
        graph.initializers.update(held)
    return proto


def _tensor(excerpt: Excerpt, weight: Weight) -> ir.TensorProtocol:
    place = (
        None
        if weight.entries is None
        else excerpt.file.external.span(weight.name, weight.entries, weight.nbytes)
    )

    def read() -> ir.TensorProtocol:
        tensor = onnx.TensorProto(name=weight.name, dims=weight.dims, data_type=weight.dtype)
        if place is None:
            tensor.ParseFromString(_message(excerpt, weight))
        else:
            tensor.raw_data = place.read()
        return ir.serde.deserialize_tensor(tensor)

    if weight.dtype == onnx.TensorProto.STRING:
        return read()
    return ir.LazyTensor(read, ir.DataType(weight.dtype), ir.Shape(weight.dims), name=weight.name)


def _message(excerpt: Excerpt, weight: Weight) -> bytes:
    file = excerpt.file
    field = next(fields(file.data, weight.begin, weight.stop))
    body: bytes = file.data[field.start : field.stop]
    return body
