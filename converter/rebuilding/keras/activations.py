"""Activations: layers where Keras has one of exactly that function, operations otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import batched
from converter.rebuilding.keras.rules import rule

__all__: list[str] = []


def _activate(builder: Builder, node: Node, name: str, operation: Callable[[Any], Any], x: Any = None) -> Any:
    x = builder.tensor(node, 0) if x is None else x
    if batched(x):
        return builder.simple(node, layers.Activation, x, activation=name)
    return operation(x)


def _named(op: str, versions: tuple[int, ...], name: str) -> None:
    function = getattr(ops, name)

    @rule(op, *versions)
    def activation(builder: Builder, node: Node) -> Any:
        return _activate(builder, node, name, function)


for _op, _versions, _name in (
    ("Sigmoid", (1, 6, 13), "sigmoid"),
    ("Tanh", (1, 6, 13), "tanh"),
    ("Softplus", (1, 22), "softplus"),
    ("Softsign", (1, 22), "softsign"),
):
    _named(_op, _versions, _name)


@rule("Relu", 1, 6, 13, 14)
def relu(builder: Builder, node: Node) -> Any:
    """max(x, 0)."""
    x = builder.tensor(node, 0)
    return builder.simple(node, layers.ReLU, x) if batched(x) else ops.relu(x)


@rule("LeakyRelu", 1, 6, 16)
def leaky_relu(builder: Builder, node: Node) -> Any:
    """x, below zero alpha x."""
    x, alpha = builder.tensor(node, 0), float(node.attribute("alpha", 0.01))
    if batched(x) and alpha >= 0:
        return builder.simple(node, layers.LeakyReLU, x, negative_slope=alpha)
    return ops.where(ops.less(x, 0.0), ops.multiply(x, alpha), x)


@rule("PRelu", 7, 9, 16)
def prelu(builder: Builder, node: Node) -> Any:
    """x, below zero slope x."""
    x, slope = builder.tensor(node, 0), builder.get(node, 1)
    rank = len(x.shape)
    if batched(x) and not is_tensor(slope) and builder.owns(node, 1):
        full = (1,) * (rank - slope.ndim) + slope.shape
        shared = [axis for axis in range(1, rank) if full[axis] == 1]
        sizes = zip(full[1:], x.shape[1:], strict=True)
        if full[0] == 1 and all(n in (1, size) for n, size in sizes):
            return builder.layer(
                node, layers.PReLU, [(1, slope.reshape(full[1:]))], x, shared_axes=shared or None
            )
    return ops.where(ops.less(x, 0), ops.multiply(x, builder.operand(node, 1)), x)


@rule("Elu", 1, 6, 22)
def elu(builder: Builder, node: Node) -> Any:
    """x, below zero alpha (exp x - 1)."""
    x, alpha = builder.tensor(node, 0), float(node.attribute("alpha", 1.0))
    return builder.simple(node, layers.ELU, x, alpha=alpha) if batched(x) else ops.elu(x, alpha=alpha)


@rule("Selu", 1, 6, 22)
def selu(builder: Builder, node: Node) -> Any:
    """gamma times Elu."""
    alpha, gamma = float(node.attribute("alpha", 1.67326)), float(node.attribute("gamma", 1.0507))
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507009) < 1e-6:
        return _activate(builder, node, "selu", ops.selu)
    return ops.multiply(ops.elu(builder.tensor(node, 0), alpha=alpha), gamma)


@rule("Celu", 12, 28)
def celu(builder: Builder, node: Node) -> Any:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    return ops.celu(builder.tensor(node, 0), alpha=float(node.attribute("alpha", 1.0)))


@rule("Gelu", 20)
def gelu(builder: Builder, node: Node) -> Any:
    """x times the normal distribution, or its approximation by tanh."""
    x = builder.tensor(node, 0)
    if node.attribute("approximate", "none") == "tanh":
        return ops.gelu(x, approximate=True)
    if batched(x):
        return builder.simple(node, layers.Activation, x, activation="gelu")
    return ops.gelu(x, approximate=False)


@rule("Swish", 24)
def swish(builder: Builder, node: Node) -> Any:
    """x sigmoid(alpha x)."""
    alpha = float(node.attribute("alpha", 1.0))
    if alpha == 1.0:
        return _activate(builder, node, "silu", ops.silu)
    x = builder.tensor(node, 0)
    return ops.multiply(x, ops.sigmoid(ops.multiply(x, alpha)))


@rule("HardSwish", 14, 22)
def hard_swish(builder: Builder, node: Node) -> Any:
    """x relu6(x + 3) / 6."""
    return _activate(builder, node, "hard_silu", ops.hard_silu)


@rule("HardSigmoid", 1, 6, 22)
def hard_sigmoid(builder: Builder, node: Node) -> Any:
    """max(0, min(1, alpha x + beta))."""
    alpha, beta = float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return _activate(builder, node, "hard_sigmoid", ops.hard_sigmoid)
    return ops.clip(ops.add(ops.multiply(builder.tensor(node, 0), alpha), beta), 0.0, 1.0)


@rule("Mish", 18, 22)
def mish(builder: Builder, node: Node) -> Any:
    """x tanh(softplus x)."""
    x = builder.tensor(node, 0)
    if batched(x):
        return builder.simple(node, layers.Activation, x, activation="mish")
    return ops.multiply(x, ops.tanh(ops.softplus(x)))


@rule("ThresholdedRelu", 10, 22)
def thresholded_relu(builder: Builder, node: Node) -> Any:
    """x where it is above alpha, else 0."""
    x = builder.tensor(node, 0)
    return ops.where(ops.greater(x, float(node.attribute("alpha", 1.0))), x, ops.zeros_like(x))


@rule("Shrink", 9)
def shrink(builder: Builder, node: Node) -> Any:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    x = builder.tensor(node, 0)
    bias, lambd = float(node.attribute("bias", 0.0)), float(node.attribute("lambd", 0.5))
    middle = ops.where(ops.greater(x, lambd), ops.subtract(x, bias), ops.zeros_like(x))
    return ops.where(ops.less(x, -lambd), ops.add(x, bias), middle)


@rule("Clip", 6, 11, 12, 13)
def clip(builder: Builder, node: Node) -> Any:
    """Values held between two bounds."""
    x = builder.tensor(node, 0)
    if node.since < 11:
        low, high = float(node.attribute("min")), float(node.attribute("max"))
        bounds = [None if low < -3.4e38 else low, None if high > 3.4e38 else high]
    else:
        bounds = [_bound(builder, node, index) for index in (1, 2)]
    if batched(x) and bounds[0] == 0.0 and isinstance(bounds[1], float) and bounds[1] > 0:
        return builder.simple(node, layers.ReLU, x, max_value=bounds[1])
    x = x if bounds[0] is None else ops.maximum(x, bounds[0])
    return x if bounds[1] is None else ops.minimum(x, bounds[1])


def _bound(builder: Builder, node: Node, index: int) -> Any:
    bound = builder.operand(node, index)
    return bound.reshape(()).item() if isinstance(bound, np.ndarray) else bound


@rule("Softmax", 1, 11, 13)
def softmax(builder: Builder, node: Node) -> Any:
    """exp(x) over its sum along an axis; before version 13 along all axes from that one on."""
    x = builder.tensor(node, 0)
    if node.since < 13:
        return _flattened(x, node, ops.softmax)
    axis = _axis(node, x, -1)
    if batched(x) and axis:
        return builder.simple(node, layers.Softmax, x, axis=axis)
    return ops.softmax(x, axis=axis)


@rule("LogSoftmax", 1, 11, 13)
def log_softmax(builder: Builder, node: Node) -> Any:
    """The logarithm of Softmax."""
    x = builder.tensor(node, 0)
    if node.since < 13:
        return _flattened(x, node, ops.log_softmax)
    return ops.log_softmax(x, axis=_axis(node, x, -1))


@rule("Hardmax", 1, 11, 13)
def hardmax(builder: Builder, node: Node) -> Any:
    """1 at the first largest element of an axis, else 0."""

    def one(x: Any, axis: int) -> Any:
        hot = ops.one_hot(ops.argmax(x, axis=axis), x.shape[axis], dtype=x.dtype)
        return ops.moveaxis(hot, -1, axis)

    x = builder.tensor(node, 0)
    return _flattened(x, node, one) if node.since < 13 else one(x, _axis(node, x, -1))


def _axis(node: Node, x: Any, default: int) -> int:
    axis = int(node.attribute("axis", default))
    return axis if axis == -1 else axis % len(x.shape)


def _flattened(x: Any, node: Node, function: Callable[..., Any]) -> Any:
    """A function along the last axis of x with all axes from a given one on made one."""
    axis = int(node.attribute("axis", 1)) % max(len(x.shape), 1)
    if axis == len(x.shape) - 1:
        return function(x, axis=-1)
    sizes = x.shape
    if None in sizes[axis:] or sum(size is None for size in sizes) > 1:
        raise Unsupported(node, "it flattens axes of unknown size")
    count = int(np.prod([int(size) for size in sizes[axis:]]))
    flat = ops.reshape(x, (-1, count))
    return ops.reshape(function(flat, axis=-1), [-1 if size is None else size for size in sizes])
