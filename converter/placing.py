"""Why ONNX Runtime gave nodes to another provider than the asked-for one: each is loaded alone there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from converter.errors import ValidationError
from converter.placement import Assigned, Placement
from converter.runtime import loads, save_graph
from converter.scratch import Scratch

__all__ = ["explained"]

_UNKNOWN = "the reason is not known"
_BODIES = frozenset(["If", "Loop", "Scan"])
_SIZES = "a kernel is there: ONNX Runtime keeps computations of shapes on the CPU"
_CHOSEN = "a kernel is there: ONNX Runtime chose the CPU"
_INTEGERS = frozenset([onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL])


def explained(
    placement: Placement, model: Path | bytes, folder: Path | None = None, custom_ops: Sequence[Path] = ()
) -> Placement:
    """The same with a reason for each node that another provider runs.

    A node's operator, attributes and types are looked up in the graph as it was when nodes were given out.
    A graph of it alone that loads on the CPU and not on the asked-for provider shows that there is no kernel.
    One that does load there shows that ONNX Runtime had another reason: it moves what computes shapes from
    shapes to the CPU (its `GetCpuPreferredNodes`), because copies would cost more than they bring.

    Args:
        placement: as of `Session.placement`.
        model, folder, custom_ops: what the session was made of.
    """
    if not placement.elsewhere:
        return placement
    with Scratch() as scratch:
        try:
            saved = save_graph(model, scratch, folder=folder, custom_ops=custom_ops)
            graph = onnx.load(saved, load_external_data=False)
            with contextlib.suppress(onnx.shape_inference.InferenceError):  # types that are known stay
                graph = onnx.shape_inference.infer_shapes(graph)
        except ValidationError as error:
            reason = f"{_UNKNOWN}: {error.message}"
            return _with(placement, {_key(node): reason for node in placement.elsewhere})
    probe = _Probe(graph, placement.provider)
    return _with(placement, {_key(node): probe.reason(node) for node in placement.elsewhere})


def _with(placement: Placement, reasons: Mapping[tuple[str, str], str]) -> Placement:
    return Placement(placement.provider, placement.nodes, dict(reasons))


def _key(node: Assigned) -> tuple[str, str]:
    return node.operator, node.name


class _Probe:
    """Loads nodes of a graph alone."""

    def __init__(self, model: onnx.ModelProto, provider: str) -> None:
        self._model, self._provider = model, provider
        self._types: dict[str, onnx.TypeProto] = {}
        self._small: dict[str, onnx.TensorProto] = {}
        self._nodes: dict[tuple[str, str], list[onnx.NodeProto]] = {}
        for graph in _graphs(model.graph):
            for value in (*graph.input, *graph.output, *graph.value_info):
                self._types[value.name] = value.type
            for tensor in graph.initializer:
                kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
                self._types.setdefault(tensor.name, kind)
                if tensor.data_location != onnx.TensorProto.EXTERNAL:
                    self._small[tensor.name] = tensor
            for node in graph.node:
                domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
                self._nodes.setdefault((f"{domain}{node.op_type}", node.name), []).append(node)

    def reason(self, node: Assigned) -> str:
        """Why a node is not where it was asked for; nodes of one name and operator count as one."""
        if node.operator in _BODIES:
            return "its bodies run there, or the provider has no kernel for it"
        found = self._nodes.get(_key(node), ())
        reasons = {self._of(each) for each in found}
        return reasons.pop() if len(reasons) == 1 else _UNKNOWN

    def _of(self, node: onnx.NodeProto) -> str:
        names = [name for name in (*node.input, *node.output) if name]
        if any(name not in self._types for name in names):
            return _UNKNOWN
        alone = self._alone(node)
        if not _loads_alone(alone, self._provider):
            if not _loads_alone(alone, "CPUExecutionProvider"):
                return _UNKNOWN  # it is no model by itself
            types = [_word(self._types[name]) for name in node.input if name]
            of = f" of {', '.join(dict.fromkeys(types))}" if types else ""
            return f"{self._provider} has no kernel for it{of}"
        kinds = {self._types[name].tensor_type.elem_type for name in node.output if name}
        return _SIZES if kinds <= _INTEGERS else _CHOSEN

    def _alone(self, node: onnx.NodeProto) -> bytes:
        """A serialised model of one node."""
        ends = dict.fromkeys(name for name in node.input if name)
        constants = [self._small[name] for name in ends if name in self._small]
        inputs = [self._info(name) for name in ends if name not in self._small]
        outputs = [self._info(name) for name in node.output if name]
        alone = onnx.helper.make_graph([node], "alone", inputs, outputs, constants)
        model = onnx.helper.make_model(alone, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def _info(self, name: str) -> onnx.ValueInfoProto:
        return onnx.ValueInfoProto(name=name, type=self._types[name])


@functools.lru_cache(maxsize=4096)
def _loads_alone(model: bytes, provider: str) -> bool:
    return loads(model, provider, alone=True)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    yield from _graphs(body)


def _word(kind: onnx.TypeProto) -> str:
    if not kind.HasField("tensor_type"):
        return str(kind.WhichOneof("value")).removesuffix("_type")
    return str(onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type)).lower()
