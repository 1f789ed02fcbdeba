"""What is done to what a classifier puts out, in words: scores made probabilities, the best classes picked.

    postprocess = word { "," word }
    word        = "softmax" | "sigmoid" | "l2norm" | "argmax" | "top" k      the last two at the end alone

Every word works over the last axis, that of classes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from converter.errors import TargetError, UsageError
from converter.imaging.words import Word, split_words
from converter.model import Array, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from converter.imaging.nodes import Nodes

__all__ = ["Postprocess"]

_OPSET = 18  # from which ReduceL2 takes its axes as an input
_EXPECTED = "words are softmax, sigmoid, l2norm, and at the end argmax or top1, top5, …"


@dataclasses.dataclass(frozen=True)
class Postprocess:
    """What is done to scores of [batch, ..., classes].

    Attributes:
        text: the words, as the user wrote them.
        changes: `softmax`, `sigmoid`, `l2norm` in order.
        top: how many classes are picked; 0 for none.
        best: whether the best class alone is picked, without its score.
    """

    text: str
    changes: tuple[str, ...]
    top: int = 0
    best: bool = False

    @classmethod
    def parse(cls, text: str) -> Postprocess:
        """Read the words.

        Raises:
            UsageError: no such word, or one after classes were picked; says where, and the nearest words.
        """
        changes: list[str] = []
        top, best = 0, False
        for word in split_words("postprocess", text, _EXPECTED):
            if top or best:
                raise word.refused("nothing comes after argmax and topK", _EXPECTED)
            if word.arguments is not None:
                raise word.refused("takes nothing in parentheses", _EXPECTED)
            found = re.fullmatch(r"top([0-9]{1,6})", word.name)
            if found:
                top = _count(word, found[1])
            elif word.name == "argmax":
                best = True
            elif word.name in _NUMPY:
                changes.append(word.name)
            else:
                raise word.unknown([*_NUMPY, "argmax", "top1", "top5"], _EXPECTED)
        return cls(text, tuple(changes), top, best)

    def __str__(self) -> str:
        """The words."""
        picks = [f"top{self.top}"] if self.top else ["argmax"] if self.best else []
        return ",".join([*self.changes, *picks])

    def outputs(self, spec: TensorSpec) -> tuple[TensorSpec, ...]:
        """What comes out in the place of an output.

        Returns:
            For `argmax` the output `NAME_class`, int64 of [batch, ...]. For `topK` `NAME_scores` of
            [batch, ..., k], the largest first, and `NAME_classes`, int64 likewise. Else `NAME`, as it was.

        Raises:
            UsageError: the output is none of floats with a batch and classes, or has fewer than k classes.
        """
        if spec.dtype not in ("float32", "float16", "float64"):
            raise UsageError(f"postprocess {self.text} takes floats, but the model puts out {spec}")
        if len(spec.shape) < 2:
            raise UsageError(
                f"postprocess {self.text} takes [batch, ..., classes], but the model puts out {spec}"
            )
        *others, classes = spec.shape
        if self.best:
            return (TensorSpec(f"{spec.name}_class", tuple(others), "int64"),)
        if not self.top:
            return (dataclasses.replace(spec, value_range=None),)
        if not isinstance(classes, int) or self.top > classes:
            raise UsageError(
                f"postprocess {self.text}: top{self.top} of {classes} classes: the model puts out {spec}",
                hint=f"top{classes} or fewer"
                if isinstance(classes, int)
                else "argmax takes any number of classes",
            )
        shape = (*others, self.top)
        return (
            TensorSpec(f"{spec.name}_scores", shape, spec.dtype),
            TensorSpec(f"{spec.name}_classes", shape, "int64"),
        )

    def apply(self, scores: Array, spec: TensorSpec) -> dict[str, Array]:
        """What comes out, by name, computed in NumPy; of equal scores the class of lower index is first.

        Args:
            scores: of [batch, ..., classes]; arithmetic is in float64.
            spec: the output that they are.

        Raises:
            UsageError: as `outputs`.
        """
        names = [out.name for out in self.outputs(spec)]
        value = scores.astype(np.float64)
        for change in self.changes:
            value = _NUMPY[change](value)
        value = value.astype(spec.numpy_dtype)
        if self.best:
            return {names[0]: np.argmax(value, -1)}
        if not self.top:
            return {names[0]: value}
        order = np.argsort(-value, axis=-1, kind="stable")[..., : self.top]
        return {names[0]: np.take_along_axis(value, order, -1), names[1]: order.astype(np.int64)}

    def build(self, model: ir.Model, spec: TensorSpec) -> None:
        """Put the words behind a graph's output, which `outputs` take the place of; changed in place.

        The new nodes bear `LAYER` = `postprocess` in their metadata.

        Args:
            model: a model with the graph output `spec.name`.
            spec: that output.

        Raises:
            UsageError: as `outputs`, or the output is an input of the graph as well.
            TargetError: the graph's opset is below 18.
        """
        from converter.imaging.nodes import Nodes

        wanted = self.outputs(spec)
        opset = model.opset_imports.get("", 0)
        if opset < _OPSET:
            raise TargetError(
                f"postprocess {self.text} needs opset {_OPSET}, and the graph is in {opset}",
                hint=f"--opset {_OPSET} or newer",
            )
        graph = model.graph
        place, value = next((i, out) for i, out in enumerate(graph.outputs) if out.name == spec.name)
        if value.is_graph_input() or value.is_initializer():
            raise UsageError(f"postprocess {self.text}: the output {spec} is computed by no node")
        nodes = Nodes(model, "postprocess")
        value.name = nodes.fresh(f"postprocess/{spec.name}")
        for change in self.changes:
            value = _GRAPH[change](nodes, value, spec)
        made = self._picked(nodes, value, spec)
        for out, put in zip(wanted, made, strict=True):
            put.name = out.name
        graph.outputs[place : place + 1] = made
        graph.extend(nodes.made)

    def _picked(self, nodes: Nodes, value: ir.Value, spec: TensorSpec) -> list[ir.Value]:
        import onnx_ir as ir

        others = list(spec.shape[:-1])
        if self.best:
            return [nodes.add("ArgMax", [value], ir.DataType.INT64, others, axis=-1, keepdims=0)]
        if not self.top:
            return [value]
        dtype, shape = ir.DataType.from_numpy(spec.numpy_dtype), [*others, self.top]
        count = nodes.constant(np.array([self.top], np.int64))
        scores = nodes.add("TopK", [value, count], dtype, shape, outputs=2, axis=-1)
        node = scores.producer()
        assert node is not None
        node.outputs[1].type, node.outputs[1].shape = ir.TensorType(ir.DataType.INT64), ir.Shape(shape)
        return list(node.outputs)


def _count(word: Word, digits: str) -> int:
    if int(digits) < 1:
        raise word.refused("expected 1 class or more", _EXPECTED)
    return int(digits)


def _softmax(x: Array) -> Array:
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _unit(x: Array) -> Array:
    """Of length 1; the length is taken for 1e-12 at least, as in torch.nn.functional.normalize."""
    return np.asarray(x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), 1e-12))


_NUMPY: Mapping[str, Callable[[Array], Array]] = {"softmax": _softmax, "sigmoid": _sigmoid, "l2norm": _unit}


def _softmax_node(nodes: Nodes, value: ir.Value, spec: TensorSpec) -> ir.Value:
    return nodes.add("Softmax", [value], spec.onnx_type.dtype, spec.shape, axis=-1)


def _sigmoid_node(nodes: Nodes, value: ir.Value, spec: TensorSpec) -> ir.Value:
    return nodes.add("Sigmoid", [value], spec.onnx_type.dtype, spec.shape)


def _unit_nodes(nodes: Nodes, value: ir.Value, spec: TensorSpec) -> ir.Value:
    dtype, shape = spec.onnx_type.dtype, [*spec.shape[:-1], 1]
    last = nodes.constant(np.array([-1], np.int64))
    # 1e-12 is 0 in float16.
    least = nodes.constant(np.array(max(1e-12, np.finfo(spec.numpy_dtype).tiny), spec.numpy_dtype))
    length = nodes.add("ReduceL2", [value, last], dtype, shape, keepdims=1)
    length = nodes.add("Max", [length, least], dtype, shape)
    return nodes.add("Div", [value, length], dtype, spec.shape)


_GRAPH: Mapping[str, Callable[[Nodes, ir.Value, TensorSpec], ir.Value]] = {
    "softmax": _softmax_node,
    "sigmoid": _sigmoid_node,
    "l2norm": _unit_nodes,
}
