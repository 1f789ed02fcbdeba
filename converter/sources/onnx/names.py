"""What a name means in an ONNX file: a node, a tensor, or a layer that an exporter left word of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from converter.model import Boundary, Layer, is_glob, matches
from converter.onnxfile import OnnxFile
from converter.sources.onnx.scopes import scopes_of

__all__ = ["Names"]


class Names:
    """The names of one file.

    A name is, in this order: a node's, a tensor's, a scope's. Of scopes by slashes the end is enough, if no
    other ends so (`block1_conv1` for `model/block1_conv1`). Nodes of the same name are calls (`relu@0`).

    Args:
        file: the file.
        boundary: makes a boundary of a tensor.
    """

    def __init__(self, file: OnnxFile, boundary: Callable[[str], Boundary]) -> None:
        self._file = file
        self._boundary = boundary

    def find(self, name: str) -> Layer | None:
        """The layer of this very name; None where there is none, or several."""
        edges = self._file.edges
        numbers = self._nodes_called(name)
        if numbers:
            return self._node(numbers[0], name) if len(numbers) == 1 else None
        if name in edges.ids and edges.ids[name] in edges.producer:
            return self._tensor(name)
        scopes = [name] if name in self._scopes else self._by_end.get(name, [])
        return self._scope(scopes[0], name) if len(scopes) == 1 else None

    def members(self, name: str) -> list[int]:
        """The nodes of the layer of this name: a node's, a scope's, or the node that computes a tensor.

        Where a scope and the tensor that it puts out bear one name, the scope is meant, with all its nodes.
        """
        numbers = self._nodes_called(name)
        if numbers:
            return numbers
        scopes = [name] if name in self._scopes else self._by_end.get(name, [])
        if len(scopes) == 1:
            return self._scopes[scopes[0]]
        edges = self._file.edges
        return [edges.producer[edges.ids[name]]]

    def _nodes_called(self, name: str) -> list[int]:
        """The nodes of this name, or the one call of it that the name means."""
        numbers = self._called(name)
        base, at, index = name.rpartition("@")
        if not numbers and at and index.isascii() and index.isdecimal():
            numbers = self._called(base)[int(index) : int(index) + 1]
        return numbers

    def _called(self, name: str) -> list[int]:
        """The nodes of this name."""
        return [number for number, node in enumerate(self._file.nodes()) if name and node.name == name]

    def all(self) -> list[Layer]:
        """Every scope and node in running order, each after what it holds; tensors of nameless nodes."""
        edges = self._file.edges
        self._file.typed(edges.names)  # all at once
        entries: list[tuple[int, int, Layer]] = []
        for scope, numbers in self._scopes.items():
            layer = self._scope(scope, scope)
            if layer is not None:
                entries.append((numbers[-1], 1 + numbers[-1] - numbers[0], layer))
        nameless = self._nodes.get("", ())
        tensors = [(number, edges.names[value]) for number in nameless for value in edges.writes[number]]
        entries += [(number, 0, self._tensor(name)) for number, name in tensors]
        for name, numbers in self._nodes.items():
            for call, number in enumerate(numbers):
                if name and edges.writes[number]:
                    label = f"{name}@{call}" if len(numbers) > 1 else name
                    entries.append((number, 0, self._node(number, label)))
        entries.sort(key=lambda entry: entry[:2])
        return [layer for _, _, layer in entries]

    def tensors_like(self, pattern: str, layers: Iterable[Layer]) -> list[Layer]:
        """The tensors that a glob means, where no layer's name matches it."""
        if not is_glob(pattern) or any(matches(layer.name, pattern) for layer in layers):
            return []
        edges = self._file.edges
        return [self._tensor(edges.names[v]) for v in edges.producer if matches(edges.names[v], pattern)]

    @cached_property
    def _nodes(self) -> dict[str, list[int]]:
        """Name of a node → the nodes that bear it."""
        found: dict[str, list[int]] = {}
        for number, node in enumerate(self._file.nodes()):
            found.setdefault(node.name, []).append(number)
        return found

    @cached_property
    def _scopes(self) -> dict[str, list[int]]:
        """Scope → its nodes, in running order; nodes of the same name are no scope."""
        found: dict[str, list[int]] = {}
        for number, node in enumerate(self._file.nodes()):
            for scope in scopes_of(node):
                found.setdefault(scope, []).append(number)
        return found

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """End of a scope's name, from any slash on → the scopes that end so."""
        found: dict[str, list[str]] = {}
        for scope in self._scopes:
            parts = scope.split("/")
            for start in range(1, len(parts)):
                found.setdefault("/".join(parts[start:]), []).append(scope)
        return found

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number, reads in enumerate(self._file.edges.reads):
            for value in reads:
                found.setdefault(value, []).append(number)
        return found

    @cached_property
    def _varying(self) -> frozenset[int]:
        return self._file.edges.varying()

    @cached_property
    def _ends(self) -> set[int]:
        return {self._file.edges.ids[info.name] for info in self._file.outputs}

    def _node(self, number: int, name: str) -> Layer:
        return self._layer(name, self._file.node(number).op_type, [number], self._file.edges.writes[number])

    def _tensor(self, name: str) -> Layer:
        edges = self._file.edges
        value = edges.ids[name]
        number = edges.producer[value]
        return self._layer(name, self._file.node(number).op_type, [number], [value])

    def _scope(self, scope: str, name: str) -> Layer | None:
        """What leaves a scope are its tensors; None for a scope that only makes constants."""
        edges = self._file.edges
        numbers = self._scopes[scope]
        inside = set(numbers)
        leaving = [
            value
            for number in numbers
            for value in edges.writes[number]
            if value in self._varying
            and (value in self._ends or any(r not in inside for r in self._readers.get(value, ())))
        ]
        return self._layer(name, "scope", numbers, leaving) if leaving else None

    def _layer(self, name: str, kind: str, numbers: Iterable[int], values: Iterable[int]) -> Layer:
        file, edges = self._file, self._file.edges
        reads = dict.fromkeys(edges.names[v] for number in numbers for v in edges.reads[number])
        weights = [file.weights[read] for read in reads if read in file.weights]
        count = sum(weight.size for weight in weights)
        tensors = dict.fromkeys(after for value in values for after in self._dequantised(value))
        depth = len(scopes_of(file.node(next(iter(numbers))))) if kind != "scope" else 0
        return Layer(name, kind, tuple(self._boundary(edges.names[v]) for v in tensors), count, 0, depth)

    def _dequantised(self, value: int) -> Sequence[int]:
        """What a quantised tensor is dequantised to, wherever it is read; else the tensor itself."""
        edges = self._file.edges
        nodes = edges.quantized.get(value, ())
        if not nodes or value in self._ends or len(nodes) < len(self._readers[value]):
            return [value]
        return [edges.writes[node][0] for node in nodes]
