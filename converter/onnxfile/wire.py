"""Protobuf's wire format: where the fields of a message are, without reading what is in them.

Source of the format: https://protobuf.dev/programming-guides/encoding. Every length and every tag is checked
against the end of its message, so a walk ends after at most as many steps as there are bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

__all__ = ["Field", "WireError", "fields", "tag", "varint", "varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}
_KINDS = frozenset((VARINT, BYTES, *_FIXED))


class WireError(ValueError):
    """Bytes that are no protobuf message."""


class Buffer(Protocol):
    """Bytes in memory or in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> int: ...


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: its number.
        kind: its wire type.
        begin: offset of its tag.
        start: offset of its payload; for a varint, of the number itself.
        stop: offset after it.
    """

    number: int
    kind: int
    begin: int
    start: int
    stop: int


def varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position after it.

    Raises:
        WireError: it does not end before `end`, or has more than 64 bits.
    """
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    raise WireError(f"a number that does not end, or too large a one, at byte {position}")


def fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message between two offsets, in the order in which they stand there.

    Raises:
        WireError: a field reaches beyond the end, or is of no known type.
    """
    position = start
    while position < end:
        begin = position
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = varint(data, begin, end)
        number, kind = key >> 3, key & 7
        if number == 0 or key >= 1 << 32 or kind not in _KINDS:
            raise WireError(f"no field has the number {number} and the type {kind}, at byte {begin}")
        payload = position
        if kind in _FIXED:
            position += _FIXED[kind]
        else:
            value, position = varint(data, position, end)
            if kind == BYTES:
                payload, position = position, position + value
        if position > end:
            raise WireError(
                f"field {number} at byte {begin} reaches to byte {position}, but its message ends at {end}"
            )
        yield Field(number, kind, begin, payload, position)


def varints(data: Buffer, field: Field) -> list[int]:
    """The numbers of a repeated integer field, packed or not, as signed 64-bit integers."""
    if field.kind == VARINT:
        values = [varint(data, field.start, field.stop)[0]]
    elif field.kind == BYTES:
        values, position = [], field.start
        while position < field.stop:
            value, position = varint(data, position, field.stop)
            values.append(value)
    else:
        raise WireError(f"field {field.number} at byte {field.begin} is no integer")
    return [value - (1 << 64) if value >> 63 else value for value in values]


def tag(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes."""
    encoded = bytearray()
    for value in (number << 3 | BYTES, length):
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)
