"""Cutting an ONNX file: which of its nodes to keep. Nodes stay as they stand in the file, but for few."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import onnx

from converter.errors import CutError
from converter.model import Boundary, LayeredModel, Piece
from converter.onnxfile import Excerpt, OnnxFile

__all__ = ["cut_file"]


def cut_file(model: LayeredModel, role: str, starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Piece:
    """`cut` of an ONNX file.

    What reads a start keeps reading its name, which is now an input's; a kept node that computes it still,
    because of another of its outputs, gives that another name.
    """
    file = model.graph
    assert isinstance(file, OnnxFile)
    edges = file.edges
    begun = {b.value for b in starts}
    numbers = sorted(
        edges.nodes_for((edges.ids[b.value] for b in ends), [edges.ids[value] for value in begun])
    )
    changed = _sizes_from(file, numbers, starts)
    reads = {v for n in numbers if n not in changed for v in edges.reads[n]}
    reads |= {edges.ids[name] for node in changed.values() for name in node.input if name}
    reads |= {edges.ids[b.value] for b in ends}
    for number in numbers:
        if any(edges.names[value] in begun for value in edges.writes[number]):
            node = file.node(number, whole=True)
            node.output[:] = [_fresh(edges.ids, name) if name in begun else name for name in node.output]
            changed[number] = node
    fed = [edges.names[value] for value in edges.inputs if value in reads]
    inputs = [spec for spec in model.inputs if spec.name in fed]
    taken = {*fed, *begun}
    specs = [
        dataclasses.replace(b.spec, name=_fresh(edges.ids, b.value, ":out")) if b.value in taken else b.spec
        for b in ends
    ]
    types = file.typed([*fed, *begun, *(b.value for b in ends)])
    unknown = [b.value for b in starts if b.value not in types]
    if unknown:
        raise CutError(
            f"nothing says of what type {', '.join(unknown)} is, and an input needs one",
            hint="operators that ONNX does not know compute it: note its type in the file's value_info",
        )
    return Piece(
        role=role,
        graph=Excerpt(
            file,
            numbers,
            [types[name] for name in fed] + [_typed(types, b.value, b.value) for b in starts],
            [_typed(types, b.value, s.name) for b, s in zip(ends, specs, strict=True)],
            changed,
            [(b.value, s.name) for b, s in zip(ends, specs, strict=True) if b.value != s.name],
        ),
        inputs=(*inputs, *(b.spec for b in starts)),
        outputs=tuple(specs),
        starts=tuple(starts),
        ends=tuple(ends),
    )


def _sizes_from(
    file: OnnxFile, numbers: Iterable[int], starts: Sequence[Boundary]
) -> dict[int, onnx.NodeProto]:
    """Nodes that read a size from the model's input, reading it from what crosses the cut instead."""
    edges = file.edges
    axes: dict[str, tuple[str, int]] = {}
    for boundary in starts:
        for axis, size in enumerate(boundary.spec.shape):
            if isinstance(size, str):
                axes.setdefault(size, (boundary.value, axis))
    changed = {}
    for number in edges.sizes.keys() & set(numbers):
        if edges.sizes[number] not in axes:
            continue
        name, axis = axes[edges.sizes[number]]
        node = file.node(number)
        node.input[0] = name
        del node.attribute[:]
        node.attribute.extend(
            onnx.helper.make_attribute(k, v) for k, v in (("start", axis), ("end", axis + 1))
        )
        changed[number] = node
    return changed


def _typed(types: Mapping[str, onnx.ValueInfoProto], name: str, new: str) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto()
    if name in types:
        info.CopyFrom(types[name])
    info.name = new
    return info


def _fresh(taken: Mapping[str, int], name: str, suffix: str = ":before") -> str:
    """A name that no value of the file has."""
    new = f"{name}{suffix}"
    while new in taken:
        new += "_"
    return new
