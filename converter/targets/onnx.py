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
import numpy.typing as npt
import onnx

from converter.model import Piece
from converter.onnxfile import (
    ALIGNMENT,
    FROM_FILE,
    ONE_FILE_LIMIT,
    SMALL,
    Excerpt,
    drop_own_notes,
    external_stub,
    refuse_too_large,
    write_excerpt,
)
from converter.onnxfile.wire import tag

__all__ = ["FRAMEWORK", "SUFFIX", "write"]

FRAMEWORK = "onnx"

SUFFIX = ".onnx"
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


def write(
    piece: Piece,
    path: Path,
    metadata: Mapping[str, str],
    *,
    beside: bool | None = None,
    home: Path | None = None,
) -> list[Path]:
    """Write a piece; returns the files made.

    Args:
        piece: a finished piece.
        path: the `.onnx` file to make; `<path>.data` beside it where the weights are too large for one file.
        metadata: goes into the model's metadata_props, in this order.
        beside: weights in a file beside (True), in the same file (False), or by their size (None).
        home: the folder that the file will end in, for external data of an ONNX source to be referred to.

    Raises:
        TargetError: too large for one file, or data to refer to that lie outside of its folder.
    """
    if isinstance(piece.graph, Excerpt):
        return write_excerpt(piece.graph, path, metadata, beside=beside, home=home)
    proto, tensors = _without_weights(piece, metadata)
    total = sum(tensor.nbytes for _, tensor in tensors)
    if beside or (beside is None and total > ONE_FILE_LIMIT):
        return _write_external(proto, tensors, path)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [_head(name, tensor) for name, tensor in tensors]
    sizes = [
        len(head) + len(tag(_RAW_DATA, tensor.nbytes)) + tensor.nbytes
        for head, (_, tensor) in zip(heads, tensors, strict=True)
    ]
    length = len(graph) + sum(len(tag(_INITIALIZER, size)) + size for size in sizes)
    refuse_too_large(path, length)
    with path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.write(tag(_GRAPH, length))
        file.write(graph)
        for head, size, (_, tensor) in zip(heads, sizes, tensors, strict=True):
            file.write(tag(_INITIALIZER, size))
            file.write(head)
            file.write(tag(_RAW_DATA, tensor.nbytes))
            _write_bytes(file, tensor)
    return [path]


def _write_external(proto: onnx.ModelProto, tensors: Sequence[tuple[str, Any]], path: Path) -> list[Path]:
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for name, tensor in tensors:
            if tensor.nbytes <= SMALL:  # shapes and axes, which runtimes read before the data
                stub = proto.graph.initializer.add()
                stub.ParseFromString(_head(name, tensor))
                stub.raw_data = _bytes(tensor).tobytes()
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            place = {"location": data.name, "offset": file.tell(), "length": tensor.nbytes}
            dims = [int(size) for size in tensor.shape]
            proto.graph.initializer.append(external_stub(name, dims, tensor.dtype, place))
            _write_bytes(file, tensor)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return [path, data]


def _without_weights(
    piece: Piece, metadata: Mapping[str, str]
) -> tuple[onnx.ModelProto, list[tuple[str, Any]]]:
    """The model's proto without initializers in the main graph, and these as (name, tensor)."""
    import onnx_ir as ir

    from converter.onnxfile.memory import without_initializers

    model = piece.graph
    assert isinstance(model, ir.Model)
    streamed = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.dtype.bitwidth >= 8
    }
    proto = without_initializers(model, streamed)
    if model.meta.get(FROM_FILE):
        drop_own_notes(proto)
    else:  # what exporters note speaks of themselves
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


def _write_bytes(file: BinaryIO, tensor: Any) -> None:
    file.write(_bytes(tensor).data)


def _bytes(tensor: Any) -> npt.NDArray[np.uint8]:
    array = np.ascontiguousarray(tensor.numpy())
    if array.nbytes != tensor.nbytes:
        raise ValueError(f"{tensor.name} has {array.nbytes} bytes, declared {tensor.nbytes}")
    return array.reshape(-1).view(np.uint8)
