"""Fold per-channel scales and offsets into the convolutions before them.

Conv(x, W, b) * s + t  =  Conv(x, W * s, b * s + t)  for s, t of one value a channel: this is what is
left of a BatchNorm in inference mode once its statistics are constants (the folding that ONNX Runtime
does at load time, and Jacob et al. 2018, arXiv:1712.05877, section 3.2, describe for training).

Requires: constants folded, transposes cancelled. Ensures: same values up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain, make_constant, replace_uses

__all__ = ["fold_affine"]

_WEIGHT_LIMIT = 1 << 31


def fold_affine(model: ir.Model) -> None:
    """Fold Mul, Div, Add and Sub by a constant a channel into Conv nodes, in place."""
    for node in list(model.graph):
        if main_domain(node) and node.op_type in ("Mul", "Div", "Add", "Sub"):
            _fold(model.graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    conv, constant = _conv_and_constant(node)
    if conv is None or constant is None:
        return
    weight = constant_of(conv.inputs[1], _WEIGHT_LIMIT)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = constant_of(conv.inputs[2]) if has_bias else None
    if weight is None or (has_bias and bias is None) or weight.dtype.kind != "f":
        return
    vector = _per_channel(constant, weight.ndim, weight.shape[0])
    if vector is None:
        return
    if bias is None:
        bias = np.zeros(weight.shape[0], weight.dtype)
    if node.op_type in ("Mul", "Div"):
        scale = vector if node.op_type == "Mul" else 1 / vector
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1)).astype(weight.dtype)
        conv.replace_input_with(1, _constant_like(conv, 1, scaled))
        bias, changed = bias * scale, has_bias
    else:
        bias, changed = bias + (vector if node.op_type == "Add" else -vector), True
    if changed:
        value = _constant_like(conv, 2, bias.astype(weight.dtype))
        conv.resize_inputs(3)
        conv.replace_input_with(2, value)
    output = conv.outputs[0]
    output.shape = output.shape or node.outputs[0].shape
    replace_uses(node.outputs[0], output)
    graph.remove(node, safe=True)


def _conv_and_constant(node: ir.Node) -> tuple[ir.Node | None, npt.NDArray[Any] | None]:
    """The convolution that feeds the node alone, and the node's constant operand."""
    left, right = node.inputs[0], node.inputs[1]
    data, constant = left, constant_of(right)
    if constant is None and node.op_type in ("Mul", "Add"):
        data, constant = right, constant_of(left)
    conv = data.producer() if data is not None else None
    if data is None or conv is None or constant is None or constant.dtype.kind != "f":
        return None, None
    alone = len(data.uses()) == 1 and not data.is_graph_output()
    return (conv, constant) if conv.op_type == "Conv" and main_domain(conv) and alone else (None, None)


def _per_channel(constant: npt.NDArray[Any], rank: int, channels: int) -> npt.NDArray[Any] | None:
    """The constant as a vector over axis 1 of an NC… tensor of that rank, if it is one."""
    if constant.size == 1 and constant.ndim <= rank:
        return np.full(channels, constant.reshape(()), constant.dtype)
    if constant.ndim > rank:
        return None
    full = (1,) * (rank - constant.ndim) + constant.shape
    if full[1] == channels and constant.size == channels:
        return constant.reshape(channels)
    return None


def _constant_like(node: ir.Node, index: int, array: npt.NDArray[Any]) -> ir.Value:
    value = node.inputs[index] if len(node.inputs) > index else None
    name = value.name if value is not None and value.name else "bias"
    return make_constant(node, array, name)
