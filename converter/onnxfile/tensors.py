"""Weights in an ONNX file: where they are and what they are, without their bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from converter.onnxfile.wire import BYTES, Field, WireError, fields, tag, varints

__all__ = ["BITS", "SMALL", "Weight", "external_stub", "nbytes_of", "without_payloads"]

# Bits of an element by TensorProto.DataType; strings have none.
BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
_DIMS, _DTYPE, _STRINGS, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 6, 8, 9, 13, 14
# float, int32, string, int64, raw, double and uint64 data.
_PAYLOADS = frozenset((4, 5, 6, 7, 9, 10, 11))
# Payloads up to this size stay: shapes and axes are read from them.
SMALL = 1 << 10
# Bytes of a sparse tensor once it is dense, which is what runtimes make of it.
_MOST_SPARSE = 1 << 34


def nbytes_of(dims: Iterable[int], dtype: int) -> int:
    """Bytes of a tensor's elements as raw data; 0 for strings."""
    return (math.prod(dims) * BITS.get(dtype, 0) + 7) // 8


def external_stub(
    name: str, dims: Iterable[int], dtype: int, place: Mapping[str, object]
) -> onnx.TensorProto:
    """A tensor whose bytes are elsewhere: `place` says location, offset and length."""
    stub = onnx.TensorProto(name=name, dims=dims, data_type=dtype)
    stub.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        stub.external_data.add(key=key, value=str(value))
    return stub


@dataclasses.dataclass(slots=True)
class Weight:
    """An initializer.

    Attributes:
        name: its name.
        dims: its shape.
        dtype: its TensorProto.DataType.
        begin: where it stands in the file, its tag included.
        stop: where it ends.
        raw: begin and end of its bytes where they stand there as they are.
        entries: where its bytes are in another file; else None.
        is_sparse: whether it is a SparseTensorProto.
    """

    name: str
    dims: tuple[int, ...]
    dtype: int
    begin: int
    stop: int
    raw: tuple[int, int] | None = None
    entries: Mapping[str, str] | None = None
    is_sparse: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as raw data; 0 for strings."""
        return nbytes_of(self.dims, self.dtype)

    @staticmethod
    def dense(data: Any, field: Field) -> Weight:
        """A TensorProto.

        Raises:
            WireError: it is none, or its shape is not one.
        """
        dims: list[int] = []
        dtype, name, location, raw = 0, "", 0, None
        entries: dict[str, str] = {}
        typed = 0
        for inner in fields(data, field.start, field.stop):
            number = inner.number
            if number == _DIMS:
                dims += varints(data, inner)
            elif number == _DTYPE:
                dtype = varints(data, inner)[-1]
            elif number == _LOCATION:
                location = varints(data, inner)[-1]
            elif number == _NAME:
                name = str(_bytes(data, inner), "utf-8")
            elif number == _EXTERNAL:
                _note_place(entries, _bytes(data, inner))
            elif number == _RAW:
                if inner.kind != BYTES:
                    raise WireError(f"field {number} at byte {inner.begin} is no bytes")
                raw = (inner.start, inner.stop)
            elif number in _PAYLOADS:
                typed += 1 if number == _STRINGS else inner.stop - inner.begin
        external = entries if location == 1 else None
        weight = Weight(name, tuple(dims), dtype, field.begin, field.stop, raw, external)
        _check(weight, typed)
        return weight

    @staticmethod
    def sparse(data: Any, field: Field) -> Weight:
        """A SparseTensorProto, which goes by the name of its values.

        Raises:
            WireError: it is none, or its shape is not one.
        """
        dims: list[int] = []
        values = indices = None
        for inner in fields(data, field.start, field.stop):
            if inner.number == 3:
                dims += varints(data, inner)
            elif inner.number in (1, 2):
                part = Weight.dense(data, inner)
                if part.entries is not None:
                    raise WireError(f"the sparse tensor {part.name!r} has external data, which ONNX has not")
                values = part if inner.number == 1 else values
                indices = inner if inner.number == 2 else indices
        if values is None or indices is None:
            raise WireError(f"a sparse tensor without values or indices, at byte {field.begin}")
        _check_indices(values, onnx.TensorProto.FromString(data[indices.start : indices.stop]), dims)
        return Weight(
            values.name, tuple(dims), values.dtype, field.begin, field.stop, None, None, is_sparse=True
        )


def _bytes(data: Any, field: Field) -> bytes:
    if field.kind != BYTES:
        raise WireError(f"field {field.number} at byte {field.begin} is no bytes")
    found: bytes = data[field.start : field.stop]
    return found


def _note_place(entries: dict[str, str], content: bytes) -> None:
    """Add what an entry of external data says; said twice, two readers would take it for two things."""
    entry = onnx.StringStringEntryProto.FromString(content)
    if entry.key in entries:
        raise WireError(f"an initializer says twice what the {entry.key} of its external data is")
    entries[entry.key] = entry.value


def _check(weight: Weight, typed: int) -> None:
    """Hold what a weight declares against what it has: `typed` are strings, or bytes of other typed data."""
    if any(size < 0 for size in weight.dims):
        raise WireError(f"the initializer {weight.name!r} has the shape {list(weight.dims)}")
    if weight.dtype != onnx.TensorProto.STRING and weight.dtype not in BITS:
        raise WireError(f"the initializer {weight.name!r} has the unknown element type {weight.dtype}")
    if weight.entries is None and weight.raw is not None:
        length = weight.raw[1] - weight.raw[0]
        # Some exporters leave the raw data of tensors without elements away, or write typed data besides.
        if length != weight.nbytes and not typed:
            raise WireError(
                f"the initializer {weight.name!r} has {length} bytes, its shape {list(weight.dims)} asks for "
                f"{weight.nbytes}"
            )
    # A byte of typed data makes at most four elements (of 2 bits each), a string one.
    most = typed if weight.dtype == onnx.TensorProto.STRING else typed * 4
    if weight.entries is None and weight.raw is None and weight.size > most:
        raise WireError(
            f"the initializer {weight.name!r} has {typed} strings or bytes, its shape "
            f"{list(weight.dims)[:8]} asks for {weight.size} elements"
        )


def _check_indices(values: Weight, indices: onnx.TensorProto, dims: list[int]) -> None:
    """Runtimes write where the indices of a sparse tensor say."""
    if any(size < 0 for size in dims) or math.prod(dims) * BITS.get(values.dtype, 8) // 8 > _MOST_SPARSE:
        raise WireError(f"the sparse tensor {values.name!r} has the shape {dims[:8]}")
    try:
        places = onnx.numpy_helper.to_array(indices).astype(np.int64)
    except (ValueError, TypeError) as error:
        raise WireError(
            f"the indices of the sparse tensor {values.name!r} cannot be read: {error}"
        ) from error
    ends = np.array(dims if places.ndim == 2 else [math.prod(dims)], np.int64)
    places = places.reshape(len(places), -1)
    fits = len(places) == values.size and places.shape[1] == len(ends)
    if len(places) and (not fits or (places < 0).any() or (places >= ends).any()):
        raise WireError(f"the sparse tensor {values.name!r} has indices outside of its shape {dims[:8]}")


# Which fields of a message hold messages in which tensors may be.
_INNER = {
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto"},
}
_DEEPEST = 64


def without_payloads(data: Any, start: int, stop: int, kind: str, depth: int = 0) -> bytes:
    """A message without the bytes of the large tensors in it.

    Raises:
        WireError: it is no such message, or messages are nested deeper than protobuf reads them.
    """
    if depth > _DEEPEST:
        raise WireError(f"messages nested more than {_DEEPEST} deep, at byte {start}")
    parts: list[bytes] = []
    for field in fields(data, start, stop):
        inner = _INNER.get(kind, {}).get(field.number)
        if kind == "TensorProto" and field.number in _PAYLOADS and stop - start > SMALL:
            continue
        if inner is not None and field.kind == BYTES:
            body = without_payloads(data, field.start, field.stop, inner, depth + 1)
            parts += (tag(field.number, len(body)), body)
        else:
            parts.append(data[field.begin : field.stop])
    return b"".join(parts)
