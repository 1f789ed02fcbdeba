"""The nodes of an ONNX file as layers, as far as the file itself says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx

from converter.model import Boundary, Layer, Outline, TensorSpec
from converter.onnxfile import OnnxFile
from converter.sources.onnx.scopes import scopes_of

__all__ = ["outline_of"]


def outline_of(
    file: OnnxFile, most: int, near: Iterable[str], spec: Callable[[onnx.ValueInfoProto], TensorSpec]
) -> Outline:
    """The nodes in running order, but for constants, under the names that `Names.all` gives them.

    Nothing is inferred: shapes are those that the file notes. Of a file with too many nodes those at
    both ends and those around the cut are there, without shapes and call numbers.

    Args:
        file: the file.
        most: how many nodes at most.
        near: names of tensors that were cut at.
        spec: makes a tensor's spec of what the file notes of it.
    """
    edges = file.edges
    whole = len(file) <= most
    numbers = list(range(len(file))) if whole else _ends_and(file, most, near)
    nodes = dict(_real(file, numbers, whole))
    names = [edges.names[value] for number in nodes for value in edges.writes[number]]
    noted = file.types(names) if whole else {}
    times = Counter(node.name for node in nodes.values()) if whole else Counter[str]()
    seen: Counter[str] = Counter()
    layers, around = [], {}
    for number, node in nodes.items():
        name = node.name or edges.names[edges.writes[number][0]]
        if times[name] > 1:
            seen[name] += 1
            name = f"{name}@{seen[name] - 1}"
        reads = dict.fromkeys(edges.names[value] for value in edges.reads[number])
        weights = sum(file.weights[read].size for read in reads if read in file.weights)
        written = [edges.names[value] for value in edges.writes[number]]
        boundaries = [
            Boundary(spec(noted[v]) if v in noted else TensorSpec(v, ("...",), "unknown"), v) for v in written
        ]
        around[name] = tuple(scopes_of(node))
        layers.append(Layer(name, node.op_type, tuple(boundaries), weights, 0, len(around[name])))
    return Outline(tuple(layers), around, _gaps(numbers, list(nodes), len(file)))


def _real(file: OnnxFile, numbers: Sequence[int], whole: bool) -> Iterator[tuple[int, onnx.NodeProto]]:
    """The nodes that compute something from the inputs; of a large file all but constants."""
    edges = file.edges
    varying = edges.varying() if whole else frozenset[int]()
    parsed = zip(numbers, file.nodes() if whole else map(file.node, numbers), strict=True)
    for number, node in parsed:
        written = edges.writes[number]
        if written and node.op_type != "Constant" and not (whole and varying.isdisjoint(written)):
            yield number, node


def _ends_and(file: OnnxFile, most: int, near: Iterable[str]) -> list[int]:
    """So many nodes: the first, the last, and as many around those that compute `near`."""
    edges, count = file.edges, len(file)
    found = [edges.producer[edges.ids[name]] for name in near if edges.ids.get(name) in edges.producer]
    places = [0, *found[:8], count - 1]
    half = most // (2 * len(places))
    picked = {n for place in places for n in range(place - half, place + half) if 0 <= n < count}
    return sorted(picked)


def _gaps(numbers: Sequence[int], kept: Sequence[int], count: int) -> tuple[tuple[int, int], ...]:
    """Before which of `kept` nodes of the file are missing that are not among `numbers`, and how many."""
    gaps: list[tuple[int, int]] = []
    after = 0
    for number in (*numbers, count):
        if number > after:
            gaps.append((sum(n < number for n in kept), number - after))
        after = number + 1
    return tuple(gaps)
