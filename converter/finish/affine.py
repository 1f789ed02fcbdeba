"""Fold per-channel scales and offsets into the convolutions before them.

Conv(x, W, b) * s + t  =  Conv(x, W * s, b * s + t)  for s, t of one value a channel: a BatchNorm in
inference mode, or what is left of one that was spelled out (the folding that ONNX Runtime does at load time,
and Jacob et al. 2018, arXiv:1712.05877, section 3.2, describe for training).

Requires: constants folded, transposes cancelled. Ensures: same values up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain, make_constant, replace_uses

__all__ = ["fold_affine"]

Vector = npt.NDArray[Any]
_WEIGHT_LIMIT = 1 << 31


def fold_affine(model: ir.Model) -> None:
    """Fold BatchNormalization, and Mul, Div, Add and Sub by a constant a channel, into Conv, in place."""
    for node in list(model.graph):
        if main_domain(node) and node.op_type in ("Mul", "Div", "Add", "Sub", "BatchNormalization"):
            _fold(model.graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    data, constant = _operands(node)
    conv = data.producer() if data is not None else None
    if data is None or conv is None or conv.op_type != "Conv" or not main_domain(conv):
        return
    if len(data.uses()) > 1 or data.is_graph_output():
        return
    weight = constant_of(conv.inputs[1], _WEIGHT_LIMIT)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = constant_of(conv.inputs[2]) if has_bias else None
    if weight is None or (has_bias and bias is None) or weight.dtype.kind != "f":
        return
    affine = _affine(node, constant, weight)
    if affine is None:
        return
    scale, offset = affine
    if scale is not None:
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        conv.replace_input_with(1, _constant_like(conv, 1, scaled.astype(weight.dtype)))
        bias = None if bias is None else bias * scale
    if offset is not None:
        bias = offset if bias is None else bias + offset
    if bias is not None:
        value = _constant_like(conv, 2, bias.astype(weight.dtype))
        conv.resize_inputs(3)
        conv.replace_input_with(2, value)
    output = conv.outputs[0]
    output.shape = output.shape or node.outputs[0].shape
    replace_uses(node.outputs[0], output)
    graph.remove(node, safe=True)


def _operands(node: ir.Node) -> tuple[ir.Value | None, Vector | None]:
    """The operand that comes from the data, and the constant one; BatchNorm's constants are several."""
    if node.op_type == "BatchNormalization":
        return node.inputs[0], None
    left, right = node.inputs[0], node.inputs[1]
    constant = constant_of(right)
    if constant is None and node.op_type in ("Mul", "Add"):
        return right, constant_of(left)
    return left, constant


def _affine(
    node: ir.Node, constant: Vector | None, weight: Vector
) -> tuple[Vector | None, Vector | None] | None:
    """What the node multiplies by and adds, a value a channel; None where it is something else."""
    channels = weight.shape[0]
    if node.op_type == "BatchNormalization":
        return _of_batch_norm(node)
    if constant is None or constant.dtype.kind != "f":
        return None
    vector = _per_channel(constant, weight.ndim, channels)
    if vector is None:
        return None
    if node.op_type in ("Mul", "Div"):
        return (vector if node.op_type == "Mul" else 1 / vector), None
    return None, (vector if node.op_type == "Add" else -vector)


def _of_batch_norm(node: ir.Node) -> tuple[Vector, Vector] | None:
    found = [constant_of(value) for value in node.inputs[1:5]]
    training = "training_mode" in node.attributes and node.attributes["training_mode"].as_int()
    if training or any(array is None for array in found):
        return None
    # In double precision: the result is rounded once, as the framework's own operator does at best.
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in found)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    epsilon = float(np.float32(epsilon))  # what a file holds of it
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _per_channel(constant: Vector, rank: int, channels: int) -> Vector | None:
    """The constant as a vector over axis 1 of an NC… tensor of that rank, if it is one."""
    if constant.size == 1 and constant.ndim <= rank:
        return np.full(channels, constant.reshape(()), constant.dtype)
    if constant.ndim > rank:
        return None
    full = (1,) * (rank - constant.ndim) + constant.shape
    if full[1] == channels and constant.size == channels:
        return constant.reshape(channels)
    return None


def _constant_like(node: ir.Node, index: int, array: Vector) -> ir.Value:
    value = node.inputs[index] if len(node.inputs) > index else None
    name = value.name if value is not None and value.name else "bias"
    return make_constant(node, array, name)
