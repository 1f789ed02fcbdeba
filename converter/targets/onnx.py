"""ONNX files, written weight by weight.

The model without its weights is serialised by protobuf; the weights follow as fields of the same
message, each read, written and let go in turn, so that no copy of all weights is ever made. The format
is that of onnx.proto: ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir

from converter.model import Piece

__all__ = ["FRAMEWORK", "SUFFIX", "write"]

FRAMEWORK = None  # of any source

SUFFIX = ".onnx"
# Protobuf stops at 2 GiB; above this, weights go to a file of their own, as onnx's external data.
_ONE_FILE_LIMIT = 1_500_000_000
_ALIGNMENT = 4096
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


def write(piece: Piece, path: Path, metadata: Mapping[str, str]) -> list[Path]:
    """Write a piece; returns the files made.

    Args:
        piece: a finished piece.
        path: the `.onnx` file to make; `<path>.data` beside it where the weights are too large for one file.
        metadata: goes into the model's metadata_props, in this order.
    """
    proto, tensors = _without_weights(piece, metadata)
    total = sum(tensor.nbytes for _, tensor in tensors)
    if total > _ONE_FILE_LIMIT:
        return _write_external(proto, tensors, path)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [_head(name, tensor) for name, tensor in tensors]
    sizes = [
        len(head) + len(_tag(_RAW_DATA, tensor.nbytes)) + tensor.nbytes
        for head, (_, tensor) in zip(heads, tensors, strict=True)
    ]
    length = len(graph) + sum(len(_tag(_INITIALIZER, size)) + size for size in sizes)
    with path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.write(_tag(_GRAPH, length))
        file.write(graph)
        for head, size, (_, tensor) in zip(heads, sizes, tensors, strict=True):
            file.write(_tag(_INITIALIZER, size))
            file.write(head)
            file.write(_tag(_RAW_DATA, tensor.nbytes))
            _write_bytes(file, tensor)
    return [path]


def _write_external(proto: onnx.ModelProto, tensors: Sequence[tuple[str, Any]], path: Path) -> list[Path]:
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for name, tensor in tensors:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            stub = proto.graph.initializer.add()
            stub.ParseFromString(_head(name, tensor))
            stub.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": data.name, "offset": file.tell(), "length": tensor.nbytes}
            for key, value in place.items():
                stub.external_data.add(key=key, value=str(value))
            _write_bytes(file, tensor)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return [path, data]


def _without_weights(
    piece: Piece, metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, list[tuple[str, Any]]]:
    """The model's proto without initializers in the main graph, and these as (name, tensor)."""
    model, graph = piece.graph, piece.graph.graph
    held = dict(graph.initializers)
    streamed = {
        name: value.const_value
        for name, value in held.items()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.dtype.bitwidth >= 8
    }
    for name in streamed:
        del graph.initializers[name]
    try:
        proto = ir.serde.serialize_model(model)
    finally:
        for name in held:
            graph.initializers.pop(name, None)
        graph.initializers.update(held)
    proto.producer_name, proto.producer_version = "converter", version("converter")
    proto.ClearField("doc_string")
    proto.graph.ClearField("doc_string")
    proto.graph.name = piece.role
    del proto.metadata_props[:]
    for key, text in metadata.items():
        proto.metadata_props.add(key=key, value=text)
    return proto, list(streamed.items())


def _head(name: str, tensor: Any) -> bytes:
    """A TensorProto without its data."""
    dims = [int(d) for d in tensor.shape]
    head = onnx.TensorProto(name=name, dims=dims, data_type=tensor.dtype)
    return bytes(head.SerializeToString())


def _tag(field: int, length: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    encoded = bytearray([field << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def _write_bytes(file: BinaryIO, tensor: Any) -> None:
    array = np.ascontiguousarray(tensor.numpy())
    if array.nbytes != tensor.nbytes:
        raise ValueError(f"{tensor.name} has {array.nbytes} bytes, declared {tensor.nbytes}")
    file.write(array.reshape(-1).view(np.uint8).data)
