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
from converter.onnxfile.index import inner_graphs
from converter.onnxfile.tensors import BITS, SMALL, Weight
from converter.onnxfile.wire import tag

__all__ = ["ALIGNMENT", "ONE_FILE_LIMIT", "write_excerpt"]

# Protobuf stops at 2 GiB; above this, weights go to a file of their own, as ONNX's external data.
ONE_FILE_LIMIT = 1_500_000_000
# Of each weight in that file, so that a runtime can map it.
ALIGNMENT = 4096
_CHUNK = 1 << 20
_GRAPH, _METADATA = 7, 14
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _ANNOTATION, _RAW = 1, 5, 11, 12, 14, 9

# Bytes in memory, or bytes of an open file.
Part = bytes | Span


def write_excerpt(
    excerpt: Excerpt,
    path: Path,
    metadata: Mapping[str, str],
    *,
    beside: bool | None = None,
    link: bool = False,
) -> list[Path]:
    """Write a piece of a file; returns the files made.

    Args:
        excerpt: the piece.
        path: the `.onnx` file to make.
        metadata: added to the model's metadata_props.
        beside: weights in `<path>.data` (True), all in one file (False), or by their size (None).
        link: weights that the source has in other files stay there; these are linked into the folder.

    Raises:
        SourceError: external data that is not there, or not where it may be.
        TargetError: the file would be too large for one, or the data files cannot be linked.
    """
    file = excerpt.file
    header = excerpt.header()
    for key, text in metadata.items():
        header.metadata_props.add(key=key, value=text)
    made = [path]
    if beside is None:
        beside = sum(w.nbytes for w in excerpt.weights if not (link and w.entries)) > ONE_FILE_LIMIT
    data = path.with_name(path.name + ".data") if beside else None
    linked: dict[str, None] = {}
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(data.open("wb")) if data else None
        parts = list(_joined(_nodes(excerpt)))
        for weight in excerpt.weights:
            if link and weight.entries is not None:
                file.external.span(weight.name, weight.entries, weight.nbytes)
                linked[weight.entries["location"]] = None
                parts.append(Span(file.handle, weight.begin, weight.stop - weight.begin))
            else:
                parts += _weight(excerpt, weight, store)
        parts += _ends(excerpt)
    if data is not None:
        made.append(data)
    length = sum(len(part) if isinstance(part, bytes) else part.length for part in parts)
    if length >= 1 << 31:
        raise TargetError(
            f"{path.name} would have {length / 1e9:.1f} GB in one file, and protobuf reads no more than 2",
            hint="leave --external-data on auto, or say always",
        )
    with path.open("wb") as out:
        out.write(header.SerializeToString(deterministic=True))
        out.write(tag(_GRAPH, length))
        for part in _joined(parts):
            _copy(part, out)
    made += [_link(file.external.path(location), path.parent / location) for location in linked]
    return made


def _nodes(excerpt: Excerpt) -> Iterable[Part]:
    file = excerpt.file
    for number in excerpt.numbers:
        node = excerpt.changed.get(number)
        if number in file.nodes_with_external_data:
            node = node or file.node(number, whole=True)
            _bring_in(excerpt, node)
        if node is None:
            begin, stop = file.span(number)
            yield Span(file.handle, begin, stop - begin)
        else:
            body = node.SerializeToString(deterministic=True)
            yield tag(_NODE, len(body)) + body
    for name, new in excerpt.copied:
        body = onnx.NodeProto(
            op_type="Identity", name=f"{new}/copy", input=[name], output=[new]
        ).SerializeToString()
        yield tag(_NODE, len(body)) + body


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
    head = onnx.TensorProto(name=weight.name, dims=weight.dims, data_type=weight.dtype)
    if store is None or payload.length <= SMALL:
        start = head.SerializeToString() + tag(_RAW, payload.length)
        return [tag(_INITIALIZER, len(start) + payload.length) + start, payload]
    store.write(b"\0" * (-store.tell() % ALIGNMENT))
    head.data_location = onnx.TensorProto.EXTERNAL
    place = {"location": Path(store.name).name, "offset": store.tell(), "length": payload.length}
    for key, value in place.items():
        head.external_data.add(key=key, value=str(value))
    _copy(payload, store)
    body = head.SerializeToString()
    return [tag(_INITIALIZER, len(body)) + body]


def _bring_in(excerpt: Excerpt, node: onnx.NodeProto) -> None:
    """Put external data of constants inside a node into it."""
    tensors = [attribute.t for attribute in node.attribute if attribute.t.data_location]
    for graph in inner_graphs(node):
        tensors += [tensor for tensor in graph.initializer if tensor.data_location]
        for inner in graph.node:
            _bring_in(excerpt, inner)
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        count = 1
        for size in tensor.dims:
            count *= size
        nbytes = (count * BITS.get(tensor.data_type, 0) + 7) // 8
        name = tensor.name or node.name or node.op_type
        tensor.raw_data = excerpt.file.external.span(name, entries, nbytes).read()
        tensor.ClearField("data_location")
        del tensor.external_data[:]


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
            raise SourceError("a file of weights has become shorter while it was copied")
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


def _link(source: Path, target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(source)):
            os.link(source.resolve(), target)
    except OSError as error:
        raise TargetError(
            f"{source} cannot be linked to {target.parent}: {error.strerror}",
            hint="--link needs the output on the file system of the source; without it weights are copied",
        ) from error
    return target
