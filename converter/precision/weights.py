"""Weights in 4 bits, activations in float: each weight becomes a DequantizeLinear of opset 21.

Kernels of convolutions and matrices of products are divided into blocks of 32 along the axis that is summed
over, each with a scale and a zero point of its own; where fewer are summed over (depthwise and first
convolutions), each output channel has one. ONNX Runtime fuses the pair into MatMulNBits where it has one; its
own tool for this (matmul_nbits_quantizer) knows MatMul alone, rounds to the nearest, and cuts nothing off.
Here limits are drawn in while the squared error falls.
"""

from __future__ import annotations

from collections.abc import Collection

import ml_dtypes
import numpy as np
import onnx_ir as ir

from converter.model import LAYER, Array
from converter.onnxfile import SMALL

__all__ = ["BLOCK", "to_int4"]

BLOCK = 32
_LEVELS = 15
_SHARES = np.linspace(0.8, 1.0, 5)


def to_int4(model: ir.Model, leave: Collection[str]) -> list[str]:
    """Convert weights in place; the names of the nodes that read them.

    Args:
        model: a graph of opset 21 or later, whose constants are initializers.
        leave: names of nodes whose weights stay in float.
    """
    done = []
    for node in list(model.graph):
        axes = _axes(node)
        weight = node.inputs[1] if axes is not None else None
        if axes is None or weight is None or not _is_weight(weight):
            continue
        uses = list(weight.uses())
        readers = [use.node for use in uses]
        if any(
            use.idx != 1 or use.node.graph is not model.graph or _axes(use.node) != axes for use in uses
        ) or any(reader.name in leave for reader in readers):
            continue
        assert weight.const_value is not None
        summed, channel = axes
        array = np.asarray(weight.const_value.numpy(), np.float32)
        axis, block = (summed, BLOCK) if array.shape[summed] >= BLOCK else (channel, 0)
        stored = _stored(model.graph, node, weight, array, axis, block)
        for reader in readers:
            reader.replace_input_with(1, stored)
            done.append(str(reader.name))
    return done


def _axes(node: ir.Node) -> tuple[int, int] | None:
    """Of the weight: the axis that is summed over, and that of output channels; None of other operators."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 0, 1
    if node.op_type == "MatMul":
        return 0, 1
    if node.op_type == "Gemm":
        return (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    return None


def _is_weight(value: ir.Value) -> bool:
    if not value.is_initializer() or value.is_graph_output() or value.const_value is None:
        return False
    tensor = value.const_value
    fits = tensor.dtype == ir.DataType.FLOAT and tensor.nbytes >= SMALL
    return fits and len(tensor.shape) >= 2


def _stored(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, array: Array, axis: int, block: int
) -> ir.Value:
    levels, scale, zero = quantized(array, axis, block)
    name = str(weight.name)
    del graph.initializers[name]
    stored = [
        _initializer(graph, name, levels.astype(ml_dtypes.uint4), ir.DataType.UINT4),
        _initializer(graph, f"{name}:scale", scale, ir.DataType.FLOAT),
        _initializer(graph, f"{name}:zero_point", zero.astype(ml_dtypes.uint4), ir.DataType.UINT4),
    ]
    attributes = [ir.AttrInt64("axis", axis)]
    if block:
        attributes.append(ir.AttrInt64("block_size", block))
    made = ir.Node("", "DequantizeLinear", stored, attributes, name=f"{node.name}/DequantizeLinear")
    if LAYER in node.metadata_props:
        made.metadata_props[LAYER] = node.metadata_props[LAYER]
    made.outputs[0].name = f"{made.name}:0"
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
    graph.insert_before(node, made)
    return made.outputs[0]


def _initializer(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def quantized(array: Array, axis: int, block: int) -> tuple[Array, Array, Array]:
    """Levels of 0 to 15, scales and zero points, of the least squared error.

    Args:
        array: float32.
        axis: with blocks the axis that they lie along, without that of the channels.
        block: elements of a block; 0 for one block a channel.

    Returns:
        Levels of the array's shape; scales (float32) and zero points, of that shape divided by the blocks, or
        of (channels,).
    """
    if block:
        size = array.shape[axis]
        padded = np.concatenate([array, np.take(array, [-1] * (-size % block), axis)], axis)
        moved = np.moveaxis(padded, axis, -1)
        rows = moved.reshape(*moved.shape[:-1], -1, block)
    else:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    bottom, top = np.minimum(rows.min(-1), 0), np.maximum(rows.max(-1), 0)
    best = np.full(bottom.shape, np.inf)
    scale: Array = np.ones_like(bottom)
    zero: Array = np.zeros_like(bottom)
    for lower in _SHARES:
        for upper in _SHARES:
            step: Array = ((top * upper - bottom * lower) / _LEVELS).astype(np.float32)
            step = np.where(step > 0, step, np.float32(1))
            origin = np.clip(np.round(-bottom * lower / step), 0, _LEVELS)
            error = np.square(_levelled(rows, step, origin) - rows).sum(-1)
            better = error < best
            best, scale, zero = (
                np.where(better, new, old) for new, old in ((error, best), (step, scale), (origin, zero))
            )
    levels = np.clip(np.round(rows / scale[..., None]) + zero[..., None], 0, _LEVELS)
    if not block:
        shape = np.moveaxis(array, axis, 0).shape
        return np.moveaxis(levels.reshape(shape), 0, axis), scale.astype(np.float32), zero
    back = np.moveaxis(levels.reshape(moved.shape), -1, axis)
    whole = np.take(back, range(size), axis)
    return whole, np.moveaxis(scale, -1, axis).astype(np.float32), np.moveaxis(zero, -1, axis)


def _levelled(rows: Array, step: Array, zero: Array) -> Array:
    levels = np.clip(np.round(rows / step[..., None]) + zero[..., None], 0, _LEVELS)
    return np.asarray((levels - zero[..., None]) * step[..., None])
