"""Pooling: layers where Keras's borders are ONNX's, operations otherwise."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder
from converter.rebuilding.keras.convolution import turned_back
from converter.rebuilding.keras.operands import batched
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.windows import Windows, first_and_last, shifted, windows, zero_padded

__all__: list[str] = []

_MAX = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
_MEAN = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
_ALL_MAX = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
_ALL_MEAN = (layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)


def _windows(node: Node, x: Any) -> Windows:
    kernel = [int(n) for n in node.attribute("kernel_shape")]
    return windows(node, x.shape[1:-1], kernel)


def _pool(builder: Builder, node: Node, x: Any, w: Windows, kind: str) -> Any:
    """Keras's own pooling, borders included only as its word `same` has them."""
    inner = len(w.kernel)
    if batched(x) and inner <= 3:
        make = (_MAX if kind == "max" else _MEAN)[inner - 1]
        sizes: dict[str, Any] = {"pool_size": w.kernel, "strides": w.strides}
        if inner == 1:
            sizes = {name: size[0] for name, size in sizes.items()}
        return builder.simple(node, make, x, padding=w.padding, **sizes)
    operation = ops.max_pool if kind == "max" else ops.average_pool
    return operation(x, w.kernel, strides=w.strides, padding=w.padding, data_format="channels_last")


@rule("MaxPool", 1, 8, 10, 11, 12, 22)
def max_pool(builder: Builder, node: Node) -> Any:
    """The largest element of each window; its border counts for nothing."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    w = _windows(node, x)
    plain = max(w.dilations) == 1 and "float32" in x.dtype
    if w.padding == "valid":
        if _never_negative(node.inputs[0]) and plain:
            x = zero_padded(builder, node, x, w.pads)
        elif any(map(any, w.pads)):
            low = float("-inf") if "float" in x.dtype else int(np.iinfo(x.dtype).min)
            x = ops.pad(x, [(0, 0), *w.pads, (0, 0)], constant_values=low)
    elif not plain:
        raise Unsupported(node, "SAME with dilations over axes of unknown size")
    if plain:
        return turned_back(_pool(builder, node, x, w, "max"), turn)
    if None in x.shape[1:-1]:
        raise Unsupported(node, "dilations over axes of unknown size")
    return turned_back(reduce(ops.maximum, shifted(x, w)), turn)


def _never_negative(value: ir.Value | None) -> bool:
    """Whether a value is certainly at least zero, so that zeros around it never win."""
    producer = None if value is None else value.producer()
    if producer is None:
        return False
    if producer.op_type in ("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs"):
        return True
    if producer.op_type in ("MaxPool", "Transpose", "Identity", "Concat", "Reshape"):
        data = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
        return all(_never_negative(v) for v in data)
    return False


@rule("AveragePool", 1, 7, 10, 11, 19, 22)
def average_pool(builder: Builder, node: Node) -> Any:
    """The mean of each window, its border counted as zeros or not at all."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    w = _windows(node, x)
    counted = bool(node.attribute("count_include_pad", 0))
    plain = max(w.dilations) == 1
    if (plain and not any(map(any, w.pads))) or (plain and w.padding == "same" and not counted):
        return turned_back(_pool(builder, node, x, w, "mean"), turn)
    if plain and counted and w.pads == w.stated:
        if w.padding == "same" and None in x.shape[1:-1]:
            raise Unsupported(node, "a counted border of SAME over axes of unknown size")
        x = zero_padded(builder, node, x, w.pads)
        valid = Windows(w.kernel, w.strides, w.dilations, ((0, 0),) * len(w.pads), w.stated, False)
        return turned_back(_pool(builder, node, x, valid, "mean"), turn)
    sizes = x.shape[1:-1]
    if None in sizes:
        return turned_back(_counted_at_run_time(builder, node, x, w, counted), turn)
    total = reduce(ops.add, shifted(zero_padded(builder, node, x, w.pads), w))
    return turned_back(ops.divide(total, _counts(w, sizes, counted).astype(x.dtype)), turn)


def _counts(w: Windows, sizes: Any, counted: bool) -> Any:
    """How many elements each window has that count, as [1, …, 1]."""
    whole = np.ones((), np.float64)
    for n, stated, pads, k, d, s in zip(
        sizes, w.stated, w.pads, w.kernel, w.dilations, w.strides, strict=True
    ):
        line = np.zeros(n + sum(pads))
        border = stated if counted else (0, 0)
        line[pads[0] - border[0] : pads[0] + n + border[1]] = 1
        count = (len(line) - (k - 1) * d - 1) // s + 1
        along = [line[p * d : p * d + (count - 1) * s + 1 : s] for p in range(k)]
        whole = np.multiply.outer(whole, np.sum(along, axis=0))
    return whole.reshape(1, *whole.shape, 1)


def _counted_at_run_time(builder: Builder, node: Node, x: Any, w: Windows, counted: bool) -> Any:
    if max(w.dilations) > 1 or counted or w.pads != w.stated:
        raise Unsupported(node, "its border over axes of unknown size")
    valid = Windows(w.kernel, w.strides, w.dilations, ((0, 0),) * len(w.pads), w.stated, False)
    ones = zero_padded(builder, node, ops.ones_like(x), w.pads)
    mean = _pool(builder, node, zero_padded(builder, node, x, w.pads), valid, "mean")
    return ops.divide(mean, _pool(builder, node, ones, valid, "mean"))


@rule("LpPool", 2, 11, 18, 22)
def lp_pool(builder: Builder, node: Node) -> Any:
    """The p-norm of each window."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    w, p = _windows(node, x), int(node.attribute("p", 2))
    if None in x.shape[1:-1]:
        raise Unsupported(node, "axes of unknown size")
    x = zero_padded(builder, node, ops.power(ops.abs(x), float(p)), w.pads)
    return turned_back(ops.power(reduce(ops.add, shifted(x, w)), 1.0 / p), turn)


def _all(builder: Builder, node: Node, kind: str) -> Any:
    x, turn = first_and_last(node, builder.tensor(node, 0))
    inner = len(x.shape) - 2
    if batched(x) and 1 <= inner <= 3:
        make = (_ALL_MAX if kind == "max" else _ALL_MEAN)[inner - 1]
        return turned_back(builder.simple(node, make, x, keepdims=True), turn)
    axes = tuple(range(1, inner + 1))
    return turned_back((ops.max if kind == "max" else ops.mean)(x, axis=axes, keepdims=True), turn)


@rule("GlobalAveragePool", 1, 22)
def global_average_pool(builder: Builder, node: Node) -> Any:
    """The mean of each channel."""
    return _all(builder, node, "mean")


@rule("GlobalMaxPool", 1, 22)
def global_max_pool(builder: Builder, node: Node) -> Any:
    """The largest element of each channel."""
    return _all(builder, node, "max")


@rule("GlobalLpPool", 2, 22)
def global_lp_pool(builder: Builder, node: Node) -> Any:
    """The p-norm of each channel."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    p = float(node.attribute("p", 2))
    axes = tuple(range(1, len(x.shape) - 1))
    total = ops.sum(ops.power(ops.abs(x), p), axis=axes, keepdims=True)
    return turned_back(ops.power(total, 1.0 / p), turn)
