"""A layered graph as layers see it: the nodes of each, what goes into some of them and what comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from converter.edges import is_random
from converter.edits import Call, Region, regions
from converter.model import LAYER, LayeredModel
from converter.onnxfile import STANDARD, OnnxFile
from converter.sources.onnx.scopes import scopes_of
from converter.surgery import edges_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Graph"]

_PASSES_ON = frozenset(["Identity", "Dropout"])


class Graph:
    """The nodes that the model's outputs need, by layer.

    Attributes:
        edges: what every node reads and writes.
        ends: values that the model puts out.
        computing: needed nodes that depend on the model's inputs and do more than pass a tensor on.
    """

    def __init__(self, model: LayeredModel) -> None:
        """Index a model.

        Args:
            model: the layered model, whole.
        """
        self.model = model
        self.edges = edges = edges_of(model.graph)
        self.ends = {edges.ids[boundary.value] for boundary in model.outputs}
        needed, varying = edges.nodes_for(self.ends), edges.varying()
        self._calls = [
            Call(
                str(number),
                tuple(v for v in reads if v in varying) if number in needed else (),
                tuple(v for v in edges.writes[number] if v in varying) if number in needed else (),
            )
            for number, reads in enumerate(edges.reads)
        ]
        passing = _passing(model.graph)
        self.computing = {n for n, call in enumerate(self._calls) if call.writes and n not in passing}
        self._readers: dict[int, list[int]] = {}
        for number, call in enumerate(self._calls):
            for value in call.reads:
                self._readers.setdefault(value, []).append(number)

    @cached_property
    def members(self) -> Mapping[str, list[int]]:
        """Name of a layer, without the number of a call → the nodes of it that depend on the model's inputs.

        The nodes of all of its calls, and of everything inside of it (see `converter.edits.within`).
        """
        graph = self.model.graph
        found = _of_file(graph, self.model) if isinstance(graph, OnnxFile) else _of_model(graph)
        bases = {layer.base for layer in self.model.layers}
        return {
            base: [n for n in dict.fromkeys(found.get(base, ())) if self._calls[n].writes] for base in bases
        }

    def regions(self, nodes: Collection[int]) -> list[Region]:
        """The nodes, parted into groups that no tensor connects; reads and writes are values."""
        made = {value for number in nodes for value in self._calls[number].writes}
        near = sorted({*nodes, *(reader for value in made for reader in self._readers.get(value, ()))})
        place = {number: index for index, number in enumerate(near)}
        calls = [self._calls[number] for number in near]
        return regions(calls, [place[number] for number in sorted(nodes)], self.ends)

    @cached_property
    def kernels(self) -> set[int]:
        """The nodes that compute with a weight of two or more axes, or with what is made of one."""
        edges, varying = self.edges, self.edges.varying()
        made = {edges.ids[name] for name in _matrices(self.model.graph) if name in edges.ids} - varying
        for number, reads in enumerate(edges.reads):
            if not made.isdisjoint(reads):
                made.update(value for value in edges.writes[number] if value not in varying)
        return {number for number in self.computing if not made.isdisjoint(edges.reads[number])}

    def readers(self, value: int) -> Sequence[int]:
        """The nodes that read a value."""
        return self._readers.get(value, ())

    def joined(self, given: int, out: int, nodes: Collection[int]) -> bool:
        """Whether a value reaches another through these nodes, and such as only pass it on."""
        stack, seen = [out], {out}
        while stack:
            value = stack.pop()
            number = self.edges.producer.get(value)
            if value == given:
                return True
            if number is None or (number in self.computing and number not in nodes):
                continue
            for read in self._calls[number].reads:
                if read not in seen:
                    seen.add(read)
                    stack.append(read)
        return False

    def described(self, value: int) -> tuple[str, Any]:
        """A tensor as a text to show, and its shape and dtype; what is not known agrees with nothing."""
        name = self.edges.names[value]
        graph = self.model.graph
        if isinstance(graph, OnnxFile):
            known = self.model.boundary(name) if graph.typed([name]) else None
            spec = None if known is None or "..." in known.spec.shape else known.spec
        else:
            boundary = self.model.boundary(name)
            spec = next((s for s in self.model.inputs if s.name == name), None)
            spec = boundary.spec if boundary is not None else spec
        if spec is not None:
            return str(spec), (spec.shape, spec.dtype)
        sizes = None if isinstance(graph, OnnxFile) else self._sizes.get(name)
        return f"{name}: {'unknown' if sizes is None else sizes}", sizes or (None, name)

    @cached_property
    def _sizes(self) -> dict[str, tuple[tuple[int | str | None, ...], str]]:
        """Shape and dtype of the values of a graph in memory, in the words of the layers' own tensors.

        Exporters have other words for the symbolic sizes of the values between (`s77` for `batch`).
        """
        graph = self.model.graph
        assert not isinstance(graph, OnnxFile)
        words: dict[str, str] = {}
        found = {}
        for node in graph.graph:
            before, after = (
                _sizes_of(values[0] if values else None) for values in (node.inputs, node.outputs)
            )
            if node.op_type == "Identity" and before and after and len(before) == len(after):
                words |= {
                    a: b
                    for a, b in zip(before, after, strict=True)
                    if isinstance(a, str) and isinstance(b, str)
                }
        for value in (v for node in graph.graph for v in node.outputs):
            sizes = _sizes_of(value)
            if sizes is not None and value.dtype is not None and value.name:
                shape = tuple(words.get(s, s) if isinstance(s, str) else s for s in sizes)
                found[value.name] = (shape, str(value.dtype.numpy()))
        return found


def _sizes_of(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def _matrices(graph: ir.Model | OnnxFile) -> list[str]:
    """The names of weights, and of constants, with two or more axes that are longer than 1."""
    dims: dict[str, Sequence[int]]
    if isinstance(graph, OnnxFile):
        dims = {name: weight.dims for name, weight in graph.weights.items()}
        constants = [node for node in graph.nodes() if node.op_type == "Constant"]
        dims |= {node.output[0]: a.t.dims for node in constants for a in node.attribute if a.name == "value"}
    else:
        held = graph.graph.initializers.items()
        dims = {
            name: value.const_value.shape.numpy() for name, value in held if value.const_value is not None
        }
        tensors = [node for node in graph.graph if node.op_type == "Constant" and "value" in node.attributes]
        dims |= {n.outputs[0].name or "": n.attributes["value"].as_tensor().shape.numpy() for n in tensors}
    return [name for name, sizes in dims.items() if sum(size > 1 for size in sizes) > 1]


def _passing(graph: ir.Model | OnnxFile) -> set[int]:
    """The nodes that put out what they are given."""
    if isinstance(graph, OnnxFile):
        nodes = ((n.domain, n.op_type, list(n.input)) for n in graph.nodes())
    else:
        nodes = ((n.domain, n.op_type, [v.name or "" if v else "" for v in n.inputs]) for n in graph.graph)
    return {
        number
        for number, (domain, kind, inputs) in enumerate(nodes)
        if kind in _PASSES_ON and domain in STANDARD and not is_random(kind, inputs)
    }


def _of_model(model: ir.Model) -> dict[str, list[int]]:
    """The nodes of each layer by what exporting noted of them: the path of the innermost one."""
    found: dict[str, list[int]] = {}
    for number, node in enumerate(model.graph):
        path = node.metadata_props.get(LAYER, "")
        for end in [place for place, letter in enumerate(path) if letter in "/.@"] + [len(path)]:
            found.setdefault(path[:end], []).append(number)
    return found


def _of_file(file: OnnxFile, model: LayeredModel) -> dict[str, list[int]]:
    """The nodes of each layer of a file: the nodes of its name, those of its scope, or a tensor's own."""
    called: dict[str, list[int]] = {}
    scopes: dict[str, list[int]] = {}
    for number, node in enumerate(file.nodes()):
        called.setdefault(node.name, []).append(number)
        for scope in scopes_of(node):
            scopes.setdefault(scope, []).append(number)
    found: dict[str, list[int]] = {}
    for layer in model.layers:
        numbers: Iterable[int] = called.get(layer.base) or scopes.get(layer.name) or ()
        value = file.edges.ids.get(layer.name)
        if not numbers and value in file.edges.producer:
            numbers = [file.edges.producer[value]]
        found.setdefault(layer.base, []).extend(numbers)
    return found
