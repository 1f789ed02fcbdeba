"""Heads as ONNX graphs, of operators that mean the same in every opset from 9 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from converter.heads import EPSILON, Head, Unit
from converter.model import Array, TensorSpec

__all__ = ["head_model"]


def head_model(head: Head, given: TensorSpec, opset: int) -> onnx.ModelProto:
    """The head as a model of its own, from `input` to the last unit's name; dropout is left out.

    Args:
        head: with weights for the tensor.
        given: the tensor that it takes.
        opset: the opset to write it in.
    """
    builder = _Builder(head)
    value = "input"
    shapes = head.shapes(given.shape)
    for unit, shape in zip(head.units, shapes, strict=False):
        value = builder.add(unit, value, len(shape))
    builder.rename(value, head.units[-1].name)
    kind = helper.np_dtype_to_tensor_dtype(given.numpy_dtype)
    ends = [
        helper.make_tensor_value_info(name, kind, list(shape))
        for name, shape in (("input", shapes[0]), (head.units[-1].name, shapes[-1]))
    ]
    weights = [numpy_helper.from_array(a.astype(given.numpy_dtype), n) for n, a in builder.weights.items()]
    graph = helper.make_graph(builder.nodes, "head", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=max(helper.find_min_ir_version_for(opsets), 4)
    )


class _Builder:
    def __init__(self, head: Head) -> None:
        self.head = head
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}

    def add(self, unit: Unit, value: str, rank: int) -> str:
        """Add a unit that reads a value of this rank; the value that it makes."""
        head, name = self.head, unit.name
        axis = head.channel_axis(rank)
        if unit.kind == "flatten":
            return self._node("Flatten", [value], name)
        if unit.kind == "dropout":
            return value
        if unit.kind in ("gap", "gmp"):
            pool = "GlobalAveragePool" if unit.kind == "gap" else "GlobalMaxPool"
            first = self._moved(value, rank, axis, 1, f"{name}/first")
            return self._node("Flatten", [self._node(pool, [first], f"{name}/pooled")], name)
        if unit.kind == "batchnorm":
            return self._batchnorm(unit, value, rank, axis)
        if unit.size:
            axis = rank - 1 if unit.kind == "dense" else axis
            last = self._moved(value, rank, axis, rank - 1, f"{name}/last")
            kernel, bias = self._weights(f"{name}.kernel", f"{name}.bias")
            summed = self._node(
                "Add", [self._node("MatMul", [last, kernel], f"{name}/product"), bias], f"{name}/sum"
            )
            return self._moved(
                self._activated(unit.activation, summed, rank, f"{name}/active"), rank, rank - 1, axis, name
            )
        last = self._moved(value, rank, axis, rank - 1, f"{name}/last") if unit.kind == "softmax" else value
        active = self._activated(unit.kind, last, rank, f"{name}/active")
        return self._moved(active, rank, rank - 1, axis, name) if unit.kind == "softmax" else active

    def rename(self, value: str, name: str) -> None:
        """Give the last value its name."""
        for node in self.nodes:
            if value in node.output:
                node.output[0] = name
                return
        self._node("Identity", [value], name)

    def _node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def _weights(self, *names: str) -> list[str]:
        self.weights |= {name: self.head.weights[name] for name in names}
        return list(names)

    def _constant(self, name: str, value: float) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def _moved(self, value: str, rank: int, source: int, target: int, name: str) -> str:
        """The value with one axis moved."""
        if source == target:
            return value
        order = [axis for axis in range(rank) if axis != source]
        order.insert(target, source)
        return self._node("Transpose", [value], name, perm=order)

    def _batchnorm(self, unit: Unit, value: str, rank: int, axis: int) -> str:
        parts = self._weights(*(f"{unit.name}.{part}" for part in ("gamma", "beta", "mean", "variance")))
        first = self._moved(value, rank, axis, 1, f"{unit.name}/first")
        made = self._node("BatchNormalization", [first, *parts], f"{unit.name}/normal", epsilon=EPSILON)
        return self._moved(made, rank, 1, axis, unit.name)

    def _activated(self, name: str, value: str, rank: int, output: str) -> str:
        """An activation; softmax over the last axis, where all opsets agree on it."""
        if name == "linear":
            return value
        if name == "softmax":
            return self._node("Softmax", [value], output, axis=rank - 1)
        if name != "gelu":
            return self._node(name.capitalize(), [value], output)
        scaled = self._node("Div", [value, self._constant(f"{output}/root", 2**0.5)], f"{output}/scaled")
        error = self._node("Erf", [scaled], f"{output}/erf")
        shifted = self._node("Add", [error, self._constant(f"{output}/one", 1)], f"{output}/shifted")
        half = self._node("Mul", [value, self._constant(f"{output}/half", 0.5)], f"{output}/half_of")
        return self._node("Mul", [half, shifted], output)
