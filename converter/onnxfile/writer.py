"""Writing part of an ONNX file: bytes that stay the same are copied from file to file by the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import onnx

from converter.errors import SourceError, TargetError
from converter.onnxfile.excerpt import Excerpt
from converter.onnxfile.external import Span
from converter.onnxfile.tensors import SMALL, Weight, external_stub
from converter.onnxfile.wire import tag

__all__ = [
    "ALIGNMENT",
    "FROM_FILE",
    "ONE_FILE_LIMIT",
    "drop_own_notes",
    "refuse_too_large",
    "write_excerpt",
]

# Protobuf stops at 2 GiB; above this, weights go to a file of their own, as ONNX's external data.
ONE_FILE_LIMIT = 1_500_000_000
# Of each weight in that file, so that a runtime can map it.
ALIGNMENT = 4096
# Key of `onnx_ir.Model.meta` of models that were part of a file, whose notes are to stay.
FROM_FILE = "converter.from_file"
_CHUNK = 1 << 20
_GRAPH = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _ANNOTATION, _RAW = 1, 5, 11, 12, 14, 9

# Bytes in memory, or bytes of an open file.
Part = bytes | Span


def write_excerpt(
    excerpt: Excerpt,
    path: Path,
    metadata: Mapping[str, str],
    *,
    beside: bool | None = None,
    home: Path | None = None,
) -> list[Path]:
    """Write a piece of a file; returns the files made.

    Args:
        excerpt: the piece.
        path: the `.onnx` file to make.
        metadata: put into the model's metadata_props.
        beside: weights in `<path>.data` (True), all in one file (False), or by their size (None).
        home: the folder that the file will end in, where weights that the source has in other files are to be
            referred to and not copied. These must lie in it or below.

    Raises:
        SourceError: external data that is not there, or not where it may be.
        TargetError: the file would be too large for one, or data to refer to lie outside of its folder.
    """
    header = excerpt.header()
    drop_own_notes(header)
    for key, text in metadata.items():
        header.metadata_props.add(key=key, value=text)
    if beside is None:
        beside = home is None and sum(weight.nbytes for weight in excerpt.weights) > ONE_FILE_LIMIT
    data = path.with_name(path.name + ".data") if beside else None
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(data.open("xb")) if data else None
        parts = list(_joined(_nodes(excerpt)))
        for weight in excerpt.weights:
            if home is not None and weight.entries is not None:
                parts.append(_referring(excerpt, weight, home))
            else:
                parts += _weight(excerpt, weight, store)
        parts += _ends(excerpt)
    length = sum(len(part) if isinstance(part, bytes) else part.length for part in parts)
    refuse_too_large(path, length)
    with path.open("xb") as out:
        out.write(header.SerializeToString(deterministic=True))
        out.write(tag(_GRAPH, length))
        for part in _joined(parts):
            _copy(part, out)
    return [path] if data is None else [path, data]


def refuse_too_large(path: Path, length: int) -> None:
    """Refuse a graph of more bytes than protobuf reads.

    Raises:
        TargetError: it has 2 GiB or more.
    """
    if length >= 1 << 31:
        raise TargetError(
            f"{path.name} would have {length / 1e9:.1f} GB in one file, and protobuf reads no more than 2",
            hint="leave --external-data on auto, or say always",
        )


def drop_own_notes(model: onnx.ModelProto) -> None:
    """Take away what an earlier cut of this package noted in a model's metadata."""
    kept = [entry for entry in model.metadata_props if not entry.key.startswith("converter.")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _referring(excerpt: Excerpt, weight: Weight, home: Path) -> bytes:
    """An initializer whose bytes stay where the source has them."""
    external = excerpt.file.external
    assert weight.entries is not None
    span = external.span(weight.name, weight.entries, weight.nbytes)
    place = external.path(weight.entries["location"])
    real = place.parent.resolve() / place.name
    if not real.is_relative_to(home.resolve()):
        raise TargetError(
            f"{place} lies outside of {home}, and runtimes read no external data from there",
            hint="--link needs --output to be the folder of the weights, or one above it",
        )
    entries = {"location": real.relative_to(home.resolve()), "offset": span.offset, "length": span.length}
    return _external(weight, entries)


def _external(weight: Weight, place: Mapping[str, object]) -> bytes:
    body: bytes = external_stub(weight.name, weight.dims, weight.dtype, place).SerializeToString()
    return tag(_INITIALIZER, len(body)) + body


def _nodes(excerpt: Excerpt) -> Iterable[Part]:
    file = excerpt.file
    for number in excerpt.numbers:
        node = excerpt.rewritten(number)
        if node is None:
            begin, stop = file.span(number)
            yield Span(file.handle, begin, stop - begin)
        else:
            yield _node(node)
    yield from map(_node, excerpt.copies)


def _node(node: onnx.NodeProto) -> bytes:
    body: bytes = node.SerializeToString(deterministic=True)
    return tag(_NODE, len(body)) + body


def _ends(excerpt: Excerpt) -> list[Part]:
    """Everything of the graph that is neither nodes nor weights."""
    file = excerpt.file
    ends = {info.name for info in (*excerpt.inputs, *excerpt.outputs)}
    messages: list[tuple[int, Any]] = [
        (_INPUT, info) for info in (*excerpt.inputs, *excerpt.weights_as_inputs)
    ]
    messages += [(_OUTPUT, info) for info in excerpt.outputs]
    messages += [(_ANNOTATION, note) for note in excerpt.annotations]
    parts: list[Part] = [file.about.SerializeToString(deterministic=True)]
    for number, message in messages:
        body = message.SerializeToString(deterministic=True)
        parts.append(tag(number, len(body)) + body)
    kept = excerpt.values - ends
    parts += [Span(file.handle, b, e - b) for b, e in file.type_spans(kept.__contains__)]
    return parts


def _weight(excerpt: Excerpt, weight: Weight, store: BinaryIO | None) -> list[Part]:
    """An initializer; its bytes go to `store` where there is one."""
    file = excerpt.file
    whole = Span(file.handle, weight.begin, weight.stop - weight.begin)
    if weight.entries is not None:
        payload = file.external.span(weight.name, weight.entries, weight.nbytes)
    elif weight.raw is None or weight.is_sparse or store is None or weight.nbytes <= SMALL:
        return [whole]
    else:
        payload = Span(file.handle, weight.raw[0], weight.raw[1] - weight.raw[0])
    if store is None or payload.length <= SMALL:
        head = onnx.TensorProto(name=weight.name, dims=weight.dims, data_type=weight.dtype)
        start = head.SerializeToString() + tag(_RAW, payload.length)
        return [tag(_INITIALIZER, len(start) + payload.length) + start, payload]
    store.write(b"\0" * (-store.tell() % ALIGNMENT))
    entries = {"location": Path(store.name).name, "offset": store.tell(), "length": payload.length}
    _copy(payload, store)
    return [_external(weight, entries)]


def _joined(parts: Iterable[Part]) -> Iterable[Part]:
    """The same parts, neighbours made one."""
    last: Part | None = None
    for part in parts:
        if last is None:
            last = part
        elif isinstance(last, bytes) and isinstance(part, bytes):
            last += part
        elif (
            isinstance(last, Span)
            and isinstance(part, Span)
            and last.handle == part.handle
            and last.offset + last.length == part.offset
        ):
            last = Span(last.handle, last.offset, last.length + part.length)
        else:
            yield last
            last = part
    if last is not None:
        yield last


def _copy(part: Part, out: BinaryIO) -> None:
    if isinstance(part, bytes):
        out.write(part)
        return
    out.flush()
    done = 0
    while done < part.length:
        count = _copied(part, done, out)
        if count == 0:
            raise SourceError("a file of weights was changed while it was copied: it has become shorter")
        done += count


def _copied(part: Span, done: int, out: BinaryIO) -> int:
    """Copy some of the rest; how many bytes. In the kernel where the file systems allow it."""
    rest, offset = part.length - done, part.offset + done
    if rest > _CHUNK and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(part.handle, out.fileno(), rest, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        else:
            out.seek(0, os.SEEK_END)
            return count
    chunk = os.pread(part.handle, min(rest, _CHUNK), offset)
    out.write(chunk)
    return len(chunk)
