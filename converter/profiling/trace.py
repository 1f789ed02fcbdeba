"""Which nodes of the graph as it is written each kernel computes: ONNX Runtime fuses, moves and adds nodes.

The optimised graph, as ONNX Runtime saves it, is followed from the inputs. Where a tensor of it is one of the
original graph, the nodes between the tensors that a kernel reads and the one it writes are what it computes.
Tensors keep their names unless the layout changes: the transformer to blocked channels (NCHWc) gives new
ones, but names its nodes after the tensors that they stand for, and other nodes keep their names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from converter.errors import SourceError
from converter.onnxfile import referring
from converter.profiling.graph import Written

__all__ = ["Kernel", "by_event", "marked", "traced", "unmarked"]

# Nodes that ONNX Runtime adds and that compute nothing: their tensor is the one they read.
_ADDED = frozenset(["ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"])
# How it calls tensors, and their casts, that it computes in float32 for want of a kernel for float16.
_WIDENED = "InsertedPrecisionFreeCast_"
_MARK = re.compile(r"@@(\d+)@@")
_NCHWC = re.compile(r"(.*?)(_bn)?_nchwc(_token_\d+|_\d+)?$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A node of the optimised graph.

    Attributes:
        name: its name in the profile.
        operator: what runs (`QLinearConv`).
        nodes: the nodes of the original graph that it computes; none for what ONNX Runtime added.
        outputs: the original tensors that it puts out, by position; None where they are others.
    """

    name: str
    operator: str
    nodes: tuple[int, ...]
    outputs: tuple[int | None, ...]


def marked(written: Written) -> tuple[bytes, Path]:
    """The model with its nodes numbered, to be told apart whatever they were called; weights stay outside.

    Returns:
        A serialised model, and the folder to load it with as that of external data.

    Raises:
        SourceError: external data that are not there, or weights inside that cannot be left where they are.
    """
    content, folder = referring(written.file, {})
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf has its own, by implementation
        raise SourceError(f"{written.file.path} does not fit into memory as one message: {error}") from error
    ids, producer = written.edges.ids, written.edges.producer
    for node in model.graph.node:
        first = next((name for name in node.output if name), "")
        if first:
            node.name = f"@@{producer[ids[first]]}@@"
    try:
        return model.SerializeToString(), folder
    except Exception as error:
        raise SourceError(
            f"{written.file.path} has more than 2 GB outside of raw data, which ONNX Runtime cannot load",
            hint="onnx.save(model, path, save_as_external_data=True) stores weights beside the model",
        ) from error


def unmarked(text: str, written: Written) -> str:
    """A message of ONNX Runtime's about a `marked` model, with the nodes' own names."""
    return _MARK.sub(lambda mark: written.name_of(int(mark[1])), text)


def traced(written: Written, optimized: onnx.GraphProto) -> list[Kernel]:
    """The nodes of the optimised graph, each with what it computes.

    Args:
        written: the graph as it is written, whose nodes were `marked`.
        optimized: the graph that ONNX Runtime runs.
    """
    return _Trace(written, optimized).kernels()


def _is_added(node: onnx.NodeProto) -> bool:
    return node.op_type in _ADDED or (node.op_type == "Cast" and node.name.startswith(_WIDENED))


class _Trace:
    def __init__(self, written: Written, optimized: onnx.GraphProto) -> None:
        self.written, self.edges, self.nodes = written, written.edges, list(optimized.node)
        inputs = [info.name for info in optimized.input if info.name in self.edges.ids]
        self.alias: dict[str, int] = {name: self.edges.ids[name] for name in inputs}
        self.known = set(self.alias.values())
        # Tensors of which nothing is known → the kernels behind them.
        self.pending: dict[str, set[int]] = {}
        # Original node → the kernel that computes it; kernel of which nothing is known → the one it serves.
        self.covered: dict[int, int] = {}
        self.belongs: dict[int, int] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def kernels(self) -> list[Kernel]:
        for number, node in enumerate(self.nodes):
            self._follow(number, node)
        inside: dict[int, list[int]] = {}
        for node, kernel in sorted(self.covered.items()):
            inside.setdefault(kernel, []).append(node)
        return [
            Kernel(
                node.name,
                node.op_type,
                tuple(inside.get(self.belongs.get(number, number), ())) or self._copied(node),
                tuple(self.alias.get(name) for name in node.output),
            )
            for number, node in enumerate(self.nodes)
        ]

    def _copied(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """The node that another one repeats: a dequantisation, say, that has several readers."""
        return () if _is_added(node) else tuple(int(mark) for mark in _MARK.findall(node.name)[:1])

    def _follow(self, number: int, node: onnx.NodeProto) -> None:
        found = self._outputs(node)
        behind = self._unknown(node)
        if not any(value is not None for value in found):
            if _is_added(node) and node.input[0] in self.alias:
                self.alias[node.output[0]] = self.alias[node.input[0]]
                return
            for name in node.output:
                self.pending[name] = {*behind, number}
            return
        ends = {value for value in found if value is not None}
        nodes = self._between(ends)
        if not _is_added(node):
            nodes |= {int(mark) for mark in _MARK.findall(node.name)}
        for inner in nodes:
            self.covered.setdefault(inner, number)
        for kernel in behind:
            self.belongs.setdefault(kernel, number)
        for name, value in zip(node.output, found, strict=True):
            if value is not None:
                self.alias[name] = value
        self.known |= ends

    def _between(self, ends: Iterable[int]) -> set[int]:
        """The original nodes that nothing so far computes, back from these tensors."""
        stack = [value for value in ends if value not in self.known]
        found: set[int] = set()
        while stack:
            node = self.edges.producer.get(stack.pop())
            if node is not None and node not in found:
                found.add(node)
                stack.extend(value for value in self.edges.reads[node] if value not in self.known)
        return found

    def _unknown(self, node: onnx.NodeProto) -> set[int]:
        """The kernels of which nothing is known that lie right before a node."""
        behind: set[int] = set()
        for name in node.input:
            behind |= self.pending.get(name, set()) - self.belongs.keys()
        return behind

    def _outputs(self, node: onnx.NodeProto) -> list[int | None]:
        """The original tensors that a node puts out."""
        ids, producer = self.edges.ids, self.edges.producer
        values = [ids.get(name.removeprefix(_WIDENED)) for name in node.output]
        found = [value if value in producer else None for value in values]
        if any(value is not None for value in found) or _is_added(node):
            return found
        named = _NCHWC.match(node.name.removeprefix(_WIDENED))
        if named and named[1] in ids:
            found[0] = self._after_fusing(node, ids[named[1]])
            return found
        marks = _MARK.findall(node.name)
        if marks:
            original = self.written.nodes[int(marks[0])]
            writes = [ids[name] if name else None for name in original.output]
            quantized = node.op_type.startswith("QLinear") and node.op_type != original.op_type
            if quantized and writes[0] is not None:
                found[0] = self._next(writes[0], ("QuantizeLinear",)) or writes[0]
            elif node.op_type.endswith(original.op_type) and len(writes) == len(found):
                return writes  # the same operator, or `NhwcMaxPool` for `MaxPool`
        return found

    def _after_fusing(self, node: onnx.NodeProto, value: int) -> int:
        """What a blocked convolution puts out: it may hold a sum and an activation by now."""
        if len(node.input) > 3 and node.input[3]:
            value = self._next(value, ("Add", "Sum")) or value
        if any(attribute.name == "activation" for attribute in node.attribute):
            made = self.edges.producer.get(value, -1)
            if made >= 0 and self.written.nodes[made].op_type in ("Conv", "Add", "Sum", "BatchNormalization"):
                value = self._next(value, _ACTIVATIONS) or value
        return value

    def _next(self, value: int, operators: Iterable[str]) -> int | None:
        """What the reader of a tensor makes of it, if that is one of these operators."""
        for reader in self.written.readers.get(value, ()):
            if self.written.nodes[reader].op_type in operators:
                return self.edges.writes[reader][0]
        return None


_ACTIVATIONS = frozenset("Relu Clip Sigmoid Tanh LeakyRelu HardSigmoid HardSwish Gelu QuickGelu".split())


def by_event(kernels: Iterable[Kernel], names: Iterable[str]) -> Mapping[str, Kernel]:
    """Names in the profile → kernels.

    Nodes without a name are called `Relu_7` after their place, which the saved graph does not tell: those of
    one operator are taken in the order in which they run.
    """
    kernels = list(kernels)
    found = {kernel.name: kernel for kernel in kernels if kernel.name}
    nameless: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if not kernel.name:
            nameless.setdefault(kernel.operator, []).append(kernel)
    for name in dict.fromkeys(names):
        operator = name.rpartition("_")[0]
        if name not in found and nameless.get(operator):
            found[name] = nameless[operator].pop(0)
    return found
