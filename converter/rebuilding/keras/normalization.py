"""Normalizations as layers with the source's weights; by formula where a layer would need others."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import plus
from converter.rebuilding.keras.rules import rule

__all__: list[str] = []


def _constantly(builder: Builder, node: Node, index: int, number: float) -> bool:
    """Whether an input is left out or is that number everywhere, and no weight."""
    if not node.has(index):
        return True
    found = builder.get(node, index)
    return not is_tensor(found) and node.weight(index) is None and bool(np.all(found == number))


def _slots(builder: Builder, node: Node, *indices: int) -> list[tuple[int, Any]]:
    return [(i, builder.get(node, i)) for i in indices]


def _affine(builder: Builder, node: Node) -> tuple[bool, bool] | None:
    """Whether a layer has a scale and an offset of its own; None where they are no weights of its own."""
    scale, center = (not _constantly(builder, node, i, n) for i, n in ((1, 1.0), (2, 0.0)))
    own = all(builder.owns(node, i) for i, used in ((1, scale), (2, center)) if used)
    return (scale, center) if own else None


@rule("BatchNormalization", 7, 9, 14, 15)
def batch_normalization(builder: Builder, node: Node) -> Any:
    """Normalization by moving statistics."""
    x = builder.tensor(node, 0)
    if node.attribute("training_mode", 0) or not node.attribute("spatial", 1):
        raise Unsupported(node, "statistics of the batch, or of each place")
    axis = -1 if node.channels_last or len(x.shape) == 2 else 1
    epsilon = float(node.attribute("epsilon", 1e-5))
    affine = _affine(builder, node)
    if affine is None or not builder.owns(node, 3, 4) or "float" not in x.dtype or len(x.shape) < 2:
        return _by_formula(builder, node, x, axis, epsilon)
    used = [i for i, own in ((1, affine[0]), (2, affine[1])) if own]
    return builder.layer(
        node,
        layers.BatchNormalization,
        _slots(builder, node, *used, 3, 4),
        x,
        decides=used or None,
        axis=axis,
        epsilon=epsilon,
        momentum=float(node.attribute("momentum", 0.9)),
        scale=affine[0],
        center=affine[1],
    )


def _by_formula(builder: Builder, node: Node, x: Any, axis: int, epsilon: float) -> Any:
    values = [builder.operand(node, i) for i in range(1, 5)]
    if axis == 1:
        line = [-1 if place == 1 else 1 for place in range(len(x.shape))]
        values = [ops.reshape(v, line) if is_tensor(v) else v.reshape(line) for v in values]
    scale, offset, mean, variance = values
    if not any(map(is_tensor, values)):
        factor = scale / np.sqrt(variance + np.asarray(epsilon, variance.dtype))
        return plus(ops.multiply(x, factor), offset - mean * factor)
    factor = ops.multiply(scale, ops.rsqrt(ops.add(variance, epsilon)))
    return plus(ops.multiply(ops.subtract(x, mean), factor), offset)


@rule("LayerNormalization", 17)
def layer_normalization(builder: Builder, node: Node) -> Any:
    """Normalization over the last axes of each example."""
    x = builder.tensor(node, 0)
    rank = len(x.shape)
    first = int(node.attribute("axis", -1)) % rank
    axes, epsilon = list(range(first, rank)), float(node.attribute("epsilon", 1e-5))
    more = any(o.uses() or o.is_graph_output() for o in node.outputs[1:])
    affine = _affine(builder, node)
    sizes = tuple(x.shape[first:])
    shapes = [builder.get(node, i).shape for i in (1, 2) if node.has(i)]
    # The layer computes the variance in one go, which float16 and float64 tests tell from the definition.
    plain = x.dtype == "float32" and not more and first > 0 and all(tuple(s) == sizes for s in shapes)
    if affine is not None and plain and None not in sizes:
        used = [i for i, own in ((1, affine[0]), (2, affine[1])) if own]
        return builder.layer(
            node,
            layers.LayerNormalization,
            _slots(builder, node, *used),
            x,
            axis=axes if len(axes) > 1 else -1,
            epsilon=epsilon,
            scale=affine[0],
            center=affine[1],
        )
    mean = ops.mean(x, axis=axes, keepdims=True)
    centred = ops.subtract(x, mean)
    inverse = ops.rsqrt(ops.add(ops.mean(ops.square(centred), axis=axes, keepdims=True), epsilon))
    y = ops.multiply(ops.multiply(centred, inverse), builder.operand(node, 1))
    y = plus(y, builder.operand(node, 2)) if node.has(2) else y
    return (y, mean, inverse)[: len(node.outputs)] if len(node.outputs) > 1 else y


@rule("RMSNormalization", 23)
def rms_normalization(builder: Builder, node: Node) -> Any:
    """Division by the root of the mean square over the last axes."""
    x = builder.tensor(node, 0)
    rank = len(x.shape)
    first = int(node.attribute("axis", -1)) % rank
    epsilon, scale = float(node.attribute("epsilon", 1e-5)), builder.get(node, 1)
    if builder.owns(node, 1) and first == rank - 1 and x.dtype == "float32" and scale.shape == x.shape[-1:]:
        return builder.layer(
            node, layers.RMSNormalization, _slots(builder, node, 1), x, axis=-1, epsilon=epsilon
        )
    square = ops.mean(ops.square(x), axis=list(range(first, rank)), keepdims=True)
    y = ops.multiply(x, ops.rsqrt(ops.add(square, epsilon)))
    return ops.multiply(y, builder.operand(node, 1))


@rule("GroupNormalization", 21)
def group_normalization(builder: Builder, node: Node) -> Any:
    """Normalization over groups of channels, a scale and an offset for each channel."""
    return _grouped(builder, node, int(node.attribute("num_groups")))


@rule("InstanceNormalization", 6, 22)
def instance_normalization(builder: Builder, node: Node) -> Any:
    """Normalization of each channel of each example."""
    x = builder.tensor(node, 0)
    return _grouped(builder, node, int(x.shape[-1 if node.channels_last else 1]))


def _grouped(builder: Builder, node: Node, groups: int) -> Any:
    x, epsilon = builder.tensor(node, 0), float(node.attribute("epsilon", 1e-5))
    rank = len(x.shape)
    axis = rank - 1 if node.channels_last else 1
    affine = _affine(builder, node)
    if affine is not None and x.dtype == "float32":
        used = [i for i, own in ((1, affine[0]), (2, affine[1])) if own]
        config: dict[str, Any] = {
            "groups": groups,
            "axis": -1 if node.channels_last else 1,
            "epsilon": epsilon,
        }
        return builder.layer(
            node,
            layers.GroupNormalization,
            _slots(builder, node, *used),
            x,
            scale=affine[0],
            center=affine[1],
            **config,
        )
    channels = int(x.shape[axis])
    if None in x.shape[1:]:
        raise Unsupported(node, "axes of unknown size, and no weights of its own")
    grouped = [-1, *x.shape[1:axis], groups, channels // groups, *x.shape[axis + 1 :]]
    flat = ops.reshape(x, grouped)
    over = [place for place in range(1, rank + 1) if place != axis]
    mean = ops.mean(flat, axis=over, keepdims=True)
    centred = ops.subtract(flat, mean)
    spread = ops.add(ops.mean(ops.square(centred), axis=over, keepdims=True), epsilon)
    y = ops.reshape(ops.multiply(centred, ops.rsqrt(spread)), [-1, *x.shape[1:]])
    line = [channels if place == axis else 1 for place in range(rank)]
    scale, offset = (ops.reshape(builder.tensor(node, i), line) for i in (1, 2))
    return plus(ops.multiply(y, scale), offset)


@rule("LRN", 1, 13)
def lrn(builder: Builder, node: Node) -> Any:
    """Division by a power of the sum of squares of the channels around."""
    x = builder.tensor(node, 0)
    axis = len(x.shape) - 1 if node.channels_last else 1
    size = int(node.attribute("size"))
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    before = (size - 1) // 2
    pads = [(before, size - 1 - before) if place == axis else (0, 0) for place in range(len(x.shape))]
    squares = ops.pad(ops.square(x), pads)
    channels = int(x.shape[axis])
    cuts = [
        ops.get_item(squares, (*[slice(None)] * axis, slice(shift, shift + channels)))
        for shift in range(size)
    ]
    total = cuts[0]
    for cut in cuts[1:]:
        total = ops.add(total, cut)
    base = ops.add(ops.multiply(total, alpha / size), float(node.attribute("bias", 1.0)))
    return ops.divide(x, ops.power(base, beta))


@rule("LpNormalization", 1, 22)
def lp_normalization(builder: Builder, node: Node) -> Any:
    """Division by the norm along an axis; where that is zero, zero."""
    x, axis = builder.tensor(node, 0), int(node.attribute("axis", -1))
    if int(node.attribute("p", 2)) == 1:
        norm = ops.sum(ops.abs(x), axis=axis, keepdims=True)
    else:
        norm = ops.sqrt(ops.sum(ops.square(x), axis=axis, keepdims=True))
    return ops.divide_no_nan(x, norm)


@rule("MeanVarianceNormalization", 9, 13)
def mean_variance_normalization(builder: Builder, node: Node) -> Any:
    """Mean 0 and variance 1 over axes."""
    x, axes = builder.tensor(node, 0), [int(a) for a in node.attribute("axes", None) or (0, 2, 3)]
    centred = ops.subtract(x, ops.mean(x, axis=axes, keepdims=True))
    deviation = ops.sqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True))
    return ops.divide(centred, ops.add(deviation, 1e-9))


@rule("Dropout", 7, 10, 12, 13, 22)
def dropout(builder: Builder, node: Node) -> Any:
    """Nothing, as the model is not trained."""
    x = builder.tensor(node, 0)
    training = builder.get(node, 2) if node.since >= 12 else None
    if training is not None and (is_tensor(training) or bool(np.any(training))):
        raise Unsupported(node, "training mode")
    if len(node.outputs) > 1:
        return x, ops.ones_like(x, dtype="bool" if node.since >= 10 else x.dtype)
    return x
