"""Reductions, places of extremes, sums and products along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import batched
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.sizes import is_sizes

__all__: list[str] = []

_Reduce = Callable[[Any, Any, bool], Any]


def _log_sum_exp(x: Any, axes: Any, keep: bool) -> Any:
    return ops.logsumexp(x, axis=axes, keepdims=keep)


_FUNCTIONS: dict[str, _Reduce] = {
    "ReduceL1": lambda x, a, k: ops.sum(ops.abs(x), axis=a, keepdims=k),
    "ReduceL2": lambda x, a, k: ops.sqrt(ops.sum(ops.square(x), axis=a, keepdims=k)),
    "ReduceLogSum": lambda x, a, k: ops.log(ops.sum(x, axis=a, keepdims=k)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda x, a, k: ops.max(x, axis=a, keepdims=k),
    "ReduceMean": lambda x, a, k: ops.mean(x, axis=a, keepdims=k),
    "ReduceMin": lambda x, a, k: ops.min(x, axis=a, keepdims=k),
    "ReduceProd": lambda x, a, k: ops.prod(x, axis=a, keepdims=k),
    "ReduceSum": lambda x, a, k: ops.sum(x, axis=a, keepdims=k),
    "ReduceSumSquare": lambda x, a, k: ops.sum(ops.square(x), axis=a, keepdims=k),
}
_EMPTY = {"ReduceMax": float("-inf"), "ReduceMin": float("inf"), "ReduceLogSumExp": float("-inf")}


@rule("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSumSquare", 1, 11, 13, 18)
def reduce_(builder: Builder, node: Node) -> Any:
    """One number for all elements along axes."""
    return _reduce(builder, node)


@rule("ReduceLogSum ReduceLogSumExp", 28)
def reduce_28(builder: Builder, node: Node) -> Any:
    """One number for all elements along axes."""
    return _reduce(builder, node)


@rule("ReduceMax ReduceMin", 1, 11, 12, 13, 18, 20)
def reduce_extreme(builder: Builder, node: Node) -> Any:
    """The largest or smallest element along axes."""
    return _reduce(builder, node)


@rule("ReduceSum", 1, 11, 13)
def reduce_sum(builder: Builder, node: Node) -> Any:
    """The sum of all elements along axes."""
    return _reduce(builder, node)


def _reduce(builder: Builder, node: Node) -> Any:
    x = builder.get(node, 0)
    if is_sizes(x) or not is_tensor(x):
        x = builder.tensor(node, 0)
    rank = len(x.shape)
    named = node.attribute("axes", None)
    if named is None and node.has(1):
        named = builder.ints(node, 1, "axes")
    if not named and node.attribute("noop_with_empty_axes", 0):
        return _FUNCTIONS[node.op](x, (), True) if node.op not in _PLAIN else x
    axes = tuple(sorted(int(a) % rank for a in named)) if named else tuple(range(rank))
    keep = bool(node.attribute("keepdims", 1))
    if node.op == "ReduceMean" and batched(x) and rank in (3, 4, 5) and axes == tuple(range(1, rank - 1)):
        make = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
        return builder.simple(node, make[rank - 3], x, keepdims=keep)
    if x.dtype == "bool":
        return (ops.any if node.op == "ReduceMax" else ops.all)(x, axis=axes, keepdims=keep)
    if 0 in [x.shape[a] for a in axes] and node.op in _EMPTY:
        sizes = [1 if a in axes else n for a, n in enumerate(x.shape) if keep or a not in axes]
        return builder.lifted(np.full(sizes, _EMPTY[node.op], x.dtype))
    dtype = x.dtype
    y = _FUNCTIONS[node.op](x, axes, keep)
    return y if y.dtype == dtype else ops.cast(y, dtype)


_PLAIN = frozenset("ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split())


@rule("ArgMax ArgMin", 1, 11, 12, 13)
def arg_extreme(builder: Builder, node: Node) -> Any:
    """The place of the largest or smallest element, the first or the last such one."""
    x, axis = builder.tensor(node, 0), int(node.attribute("axis", 0))
    keep = bool(node.attribute("keepdims", 1))
    operation = ops.argmax if node.op == "ArgMax" else ops.argmin
    if not node.attribute("select_last_index", 0):
        return ops.cast(operation(x, axis=axis, keepdims=keep), "int64")
    length = x.shape[axis]
    if length is None:
        raise Unsupported(node, "the last place on an axis of unknown size")
    places = operation(ops.flip(x, axis=axis), axis=axis, keepdims=keep)
    return ops.cast(ops.subtract(int(length) - 1, places), "int64")


@rule("CumSum", 11, 14)
def cum_sum(builder: Builder, node: Node) -> Any:
    """The sum of all elements before, with or without the element itself."""
    return _running(builder, node, ops.cumsum, 0)


@rule("CumProd", 26)
def cum_prod(builder: Builder, node: Node) -> Any:
    """The product of all elements before, with or without the element itself."""
    return _running(builder, node, ops.cumprod, 1)


def _running(builder: Builder, node: Node, operation: Callable[..., Any], neutral: int) -> Any:
    x, axis = builder.tensor(node, 0), builder.ints(node, 1, "axis")[0] % len(builder.tensor(node, 0).shape)
    reverse = bool(node.attribute("reverse", 0))
    x = ops.flip(x, axis=axis) if reverse else x
    if node.attribute("exclusive", 0):
        pads = [(1, 0) if place == axis else (0, 0) for place in range(len(x.shape))]
        x = ops.pad(x, pads, constant_values=neutral)
        x = ops.get_item(x, (*[slice(None)] * axis, slice(None, -1)))
    y = operation(x, axis=axis)
    y = y if y.dtype == x.dtype else ops.cast(y, x.dtype)
    return ops.flip(y, axis=axis) if reverse else y


@rule("TopK", 1, 10, 11, 24)
def top_k(builder: Builder, node: Node) -> Any:
    """The k largest or smallest elements along an axis, and their places."""
    x, axis = builder.tensor(node, 0), int(node.attribute("axis", -1))
    k = int(node.attribute("k")) if node.since == 1 else builder.ints(node, 1, "k")[0]
    largest = bool(node.attribute("largest", 1))
    x = ops.moveaxis(x, axis, -1)
    dtype = x.dtype
    if not largest:
        x = ops.negative(ops.cast(x, "int64") if "int" in dtype else x)
    values, places = ops.top_k(x, k, sorted=True)
    values = values if largest else ops.cast(ops.negative(values), dtype)
    return ops.moveaxis(values, -1, axis), ops.cast(ops.moveaxis(places, -1, axis), "int64")
