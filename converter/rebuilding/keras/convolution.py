"""Convolutions as Keras's layers, kernels in the order that TensorFlow's CPU kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from converter.model import Array
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import sliced
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.windows import Windows, first_and_last, windows, zero_padded
from converter.rebuilding.names import Names

__all__ = ["turned_back"]

_CONV = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


def turned_back(y: Any, turn: bool) -> Any:
    """A channels-last answer as the node puts it out."""
    return ops.transpose(y, (0, len(y.shape) - 1, *range(1, len(y.shape) - 1))) if turn else y


@rule("Conv", 1, 11, 22)
def conv(builder: Builder, node: Node) -> Any:
    """A convolution: Conv1D to 3D, or DepthwiseConv where each group has one channel."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    kernel = builder.get(node, 1)
    inner = len(kernel.shape) - 2
    if not 1 <= inner <= 3:
        raise Unsupported(node, f"a convolution over {inner} axes")
    w = windows(node, x.shape[1:-1], [int(n) for n in kernel.shape[2:]])
    group = int(node.attribute("group", 1))
    if w.padding == "valid":
        x = zero_padded(builder, node, x, w.pads)
    thinned = max(w.strides) > 1 and max(w.dilations) > 1
    strides = (1,) * inner if thinned else w.strides
    if thinned and w.padding == "same":
        raise Unsupported(node, "strides and dilations under SAME over axes of unknown size")
    if is_tensor(kernel) or not builder.owns(node, 1):
        y = _by_operation(builder, node, x, w, strides, group)
    else:
        y = _by_layer(builder, node, x, kernel, w, strides, group)
    if thinned:
        y = ops.get_item(y, (slice(None), *(slice(None, None, s) for s in w.strides)))
    return turned_back(y, turn)


def _by_layer(
    builder: Builder, node: Node, x: Any, kernel: Array, w: Windows, strides: tuple[int, ...], group: int
) -> Any:
    inner = kernel.ndim - 2
    bias = builder.get(node, 2)
    own = bias is not None and not is_tensor(bias) and builder.owns(node, 2)
    shared: dict[str, Any] = {
        "kernel_size": w.kernel,
        "strides": strides,
        "dilation_rate": w.dilations,
        "padding": w.padding,
        "use_bias": own,
    }
    depthwise = 1 < group == x.shape[-1] and inner <= 2 and len(set(strides)) == 1
    if depthwise:
        channels = x.shape[-1]
        split = kernel.reshape(channels, -1, *kernel.shape[2:])
        numbers = split.transpose(*range(2, 2 + inner), 0, 1)
        shared["depth_multiplier"] = numbers.shape[-1]
        make = _DEPTHWISE[inner - 1]
    else:
        numbers = kernel.transpose(*range(2, 2 + inner), 1, 0)
        shared |= {"filters": kernel.shape[0], "groups": group}
        make = _CONV[inner - 1]
    weights = [(1, numbers)] + ([(2, bias)] if own else [])
    y = builder.layer(node, make, weights, x, **shared)
    return y if own else _with_bias(builder, node, y)


def _with_bias(builder: Builder, node: Node, y: Any) -> Any:
    bias = builder.operand(node, 2)
    if bias is None or (not is_tensor(bias) and not np.any(bias)):
        return y
    return ops.add(y, bias)


def _by_operation(
    builder: Builder, node: Node, x: Any, w: Windows, strides: tuple[int, ...], group: int
) -> Any:
    """A convolution with a kernel that is computed, shared, or no weight."""
    kernel = builder.tensor(node, 1)
    inner = len(w.kernel)
    kernel = ops.transpose(kernel, (*range(2, 2 + inner), 1, 0))
    parts = [x] if group == 1 else ops.split(x, group, axis=-1)
    kernels = [kernel] if group == 1 else ops.split(kernel, group, axis=-1)
    made = [
        ops.conv(
            p, k, strides=strides, padding=w.padding, dilation_rate=w.dilations, data_format="channels_last"
        )
        for p, k in zip(parts, kernels, strict=True)
    ]
    y = made[0] if group == 1 else ops.concatenate(made, axis=-1)
    return _with_bias(builder, node, y)


@rule("ConvTranspose", 1, 11, 22)
def conv_transpose(builder: Builder, node: Node) -> Any:
    """A transposed convolution: computed whole, then cut to what its pads leave."""
    x, turn = first_and_last(node, builder.tensor(node, 0))
    kernel = builder.get(node, 1)
    inner, group = len(kernel.shape) - 2, int(node.attribute("group", 1))
    if not 1 <= inner <= 3:
        raise Unsupported(node, f"a transposed convolution over {inner} axes")
    sizes = [int(n) for n in kernel.shape[2:]]
    strides = tuple(int(n) for n in node.attribute("strides", None) or [1] * inner)
    dilations = tuple(int(n) for n in node.attribute("dilations", None) or [1] * inner)
    if max(dilations) > 1 and max(strides) > 1:
        raise Unsupported(node, "strides and dilations at once")
    crops = _crops(node, x.shape[1:-1], sizes, strides, dilations)
    same = group == 1 and _is_same(crops, sizes, strides, dilations)
    config: dict[str, Any] = {
        "strides": strides,
        "dilation_rate": dilations,
        "padding": "same" if same else "valid",
    }
    grows = any(n < 0 for pair in crops for n in pair)
    numbers = None if is_tensor(kernel) else kernel.transpose(*range(2, 2 + inner), 1, 0)
    if group == 1 and numbers is not None and builder.owns(node, 1):
        bias = builder.get(node, 2)
        own = bias is not None and not is_tensor(bias) and builder.owns(node, 2) and not grows
        weights = [(1, numbers)] + ([(2, bias)] if own else [])
        config |= {"filters": kernel.shape[1], "kernel_size": tuple(sizes), "use_bias": own}
        y = builder.layer(node, _TRANSPOSED[inner - 1], weights, x, **config)
    else:
        if is_tensor(kernel) or not builder.owns(node, 1):
            raise Unsupported(node, "its kernel is computed or no weight, expected one of its own")
        own = False
        y = _transposed_by_group(builder, node, x, kernel, config, group)
    y = y if same else _cropped(y, crops)
    return turned_back(y if own else _with_bias(builder, node, y), turn)


def _transposed_by_group(
    builder: Builder, node: Node, x: Any, kernel: Array, config: dict[str, Any], group: int
) -> Any:
    """A layer for each group: `keras.ops.conv_transpose` of Keras 3.15 fails on KerasTensors."""
    inner = kernel.ndim - 2
    stem = builder.names.layer(node, 1) if group == 1 else ""
    made = []
    for number, part in enumerate(np.split(kernel, group)):
        name = stem or builder.names.fresh(f"{Names().layer(node, 1)}_group{number}")
        layer = _TRANSPOSED[inner - 1](
            filters=kernel.shape[1],
            kernel_size=kernel.shape[2:],
            use_bias=False,
            name=name,
            dtype=x.dtype,
            **config,
        )
        width = kernel.shape[0] // group
        made.append(layer(x if group == 1 else sliced(x, -1, number * width, (number + 1) * width)))
        layer.kernel.assign(part.transpose(*range(2, 2 + inner), 1, 0))
        layer.trainable = node.weight(1) not in builder.plain.frozen
    return made[0] if group == 1 else ops.concatenate(made, axis=-1)


def _crops(
    node: Node,
    lengths: Any,
    sizes: list[int],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> list[tuple[int, int]]:
    """What is taken off Keras's whole answer before and behind each axis; negative: what is put on."""
    inner = len(sizes)
    out_pads = [int(n) for n in node.attribute("output_padding", None) or [0] * inner]
    flat = [int(n) for n in node.attribute("pads", None) or [0] * (2 * inner)]
    auto = str(node.attribute("auto_pad", "NOTSET") or "NOTSET")
    shape = node.attribute("output_shape", None)
    crops = []
    for i, (k, s, d) in enumerate(zip(sizes, strides, dilations, strict=True)):
        extent = (k - 1) * d + 1
        # Beyond the last window Keras goes on with zeros up to a whole stride.
        excess = max(s - extent, 0)
        lo, hi = flat[i], flat[inner + i]
        if shape is not None or auto.startswith("SAME"):
            length = lengths[i]
            if shape is not None and length is None:
                raise Unsupported(node, "output_shape over an axis of unknown size")
            past = int(shape[len(shape) - inner + i]) - (length - 1) * s if shape is not None else s
            total = out_pads[i] + extent - past
            small = total // 2
            lo, hi = (
                (total - small, small) if auto != "SAME_UPPER" and shape is None else (small, total - small)
            )
            if shape is not None and auto != "SAME_UPPER":
                lo, hi = total - small, small
            if total < 0:
                lo, hi = 0, total
        crops.append((lo, hi - out_pads[i] + excess))
    return crops


def _is_same(
    crops: list[tuple[int, int]], sizes: list[int], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> bool:
    """Whether Keras's `same` takes off just as much; where nothing is taken off `valid` says it."""
    wanted = [((k - s) // 2, k - s - (k - s) // 2) for k, s in zip(sizes, strides, strict=True)]
    return max(dilations) == 1 and crops == wanted and any(map(any, crops)) and min(map(min, crops)) >= 0


def _cropped(y: Any, crops: list[tuple[int, int]]) -> Any:
    for axis, (lo, hi) in enumerate(crops, 1):
        if lo > 0 or hi > 0:
            y = sliced(y, axis, max(lo, 0), -hi if hi > 0 else None)
    more = [(max(-lo, 0), max(-hi, 0)) for lo, hi in crops]
    return ops.pad(y, [(0, 0), *more, (0, 0)]) if any(map(any, more)) else y
