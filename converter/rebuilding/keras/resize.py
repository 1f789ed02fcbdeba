"""Resizing, and moving between channels and space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from converter.model import Array
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import INLINE, Builder, is_tensor
from converter.rebuilding.keras.operands import batched
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.sizes import is_sizes

__all__: list[str] = []


@rule("Upsample", 7, 9)
def upsample(builder: Builder, node: Node) -> Any:
    """Resize by factors, as it was called before version 10."""
    scales = node.attribute("scales") if node.since == 7 else _scales(builder, node, 1)
    return _resized(builder, node, [float(s) for s in scales], None, "asymmetric", "floor")


def _scales(builder: Builder, node: Node, index: int) -> Any:
    found = builder.get(node, index)
    if is_tensor(found) or is_sizes(found):
        raise Unsupported(node, "its scales are computed, expected constants")
    return found


@rule("Resize", 10, 11, 13, 18, 19)
def resize(builder: Builder, node: Node) -> Any:
    """An image of another size, sampled as its attributes say."""
    if node.since == 10:
        given = [float(s) for s in _scales(builder, node, 1)]
        return _resized(builder, node, given, None, "asymmetric", "floor")
    if node.attribute("antialias", 0) and (node.dtype(0) or "").startswith(("int", "uint")):
        raise Unsupported(
            node, "it resizes pixels of 8 bits with antialias, which each framework rounds in its own way"
        )
    found = _scales(builder, node, 2)
    scales = [float(s) for s in found] if found is not None and len(found) else None
    sizes = builder.sizes(node, 3) if node.has(3) else None
    if scales is None and sizes is None:
        raise Unsupported(node, "neither scales nor sizes")
    mode = str(node.attribute("coordinate_transformation_mode", "half_pixel"))
    return _resized(
        builder, node, scales, sizes, mode, str(node.attribute("nearest_mode", "round_prefer_floor"))
    )


def _resized(
    builder: Builder,
    node: Node,
    scales: list[float] | None,
    sizes: list[Any] | None,
    transform: str,
    nearest: str,
) -> Any:
    x = builder.tensor(node, 0)
    rank = len(x.shape)
    axes = [int(a) % rank for a in node.attribute("axes", None) or range(rank)] if node.since >= 18 else None
    axes = list(range(rank)) if axes is None else axes
    # Where channels were turned to the end, ONNX's axis 1 is the last, and the others come before it.
    place = {a: a for a in range(rank)}
    if node.channels_last:
        place = {0: 0, 1: rank - 1, **{a: a - 1 for a in range(2, rank)}}
    wanted = _lengths(node, x, axes, place, scales, sizes)
    mode = str(node.attribute("mode", "nearest"))
    whole = _whole_factors(x, wanted, mode, transform, nearest)
    if whole is not None and batched(x) and rank == 4:
        return builder.simple(node, layers.UpSampling2D, x, size=whole, interpolation="nearest")
    roi = _scales(builder, node, 1) if transform == "tf_crop_and_resize" else None
    outside = np.zeros((1,) * rank, bool)
    for number, axis in enumerate(axes):
        at = place[axis]
        scale, length = wanted[at]
        have = x.shape[at]
        if scale == 1.0 and length == have and transform != "tf_crop_and_resize":
            continue
        if have is None:
            raise Unsupported(node, "it resizes an axis of unknown size")
        bounds = (0.0, 1.0) if roi is None else (float(roi[number]), float(roi[number + len(axes)]))
        positions = _positions((int(have), length, scale), transform, bounds)
        if roi is not None:
            line = [-1 if place == at else 1 for place in range(rank)]
            outside = outside | ((positions < 0) | (positions > have - 1)).reshape(line)
        x = _along(builder, node, x, at, positions, (int(have), scale), mode, nearest)
    if not outside.any():
        return x
    value = np.asarray(node.attribute("extrapolation_value", 0.0), x.dtype)
    return ops.where(outside, builder.lifted(value), x)


def _lengths(
    node: Node, x: Any, axes: list[int], place: dict[int, int], scales: list[float] | None, sizes: Any
) -> dict[int, tuple[float, Any]]:
    """Place of an axis → its factor, and its length afterwards."""
    found: dict[int, tuple[float, Any]] = {}
    if scales is not None:
        for axis, scale in zip(axes, scales, strict=True):
            have = x.shape[place[axis]]
            found[place[axis]] = (scale, have if have is None else math.floor(have * scale))
        return found
    policy = str(node.attribute("keep_aspect_ratio_policy", "stretch"))
    factors: dict[int, tuple[float, Any]] = {}
    for axis, size in zip(axes, sizes, strict=True):
        have = x.shape[place[axis]]
        if not isinstance(size, int):
            if place[axis] != 0 or have is not None:
                raise Unsupported(node, "its sizes are computed")
            factors[axis] = (1.0, have)
        else:
            factors[axis] = (1.0 if have is None else size / have, size)
    if policy != "stretch":
        one = (min if policy == "not_larger" else max)(scale for scale, _ in factors.values())
        for axis in axes:
            have = x.shape[place[axis]]
            factors[axis] = (one, math.floor(have * one + 0.5))
    return {place[axis]: pair for axis, pair in factors.items()}


def _whole_factors(
    x: Any, wanted: dict[int, tuple[float, Any]], mode: str, transform: str, nearest: str
) -> tuple[int, int] | None:
    """The factors of an UpSampling2D, where that is what is asked for."""
    known = {
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("pytorch_half_pixel", "round_prefer_floor"),
    }
    if mode != "nearest" or (transform, nearest) not in known or len(x.shape) != 4:
        return None
    scales = [wanted.get(axis, (1.0, 0))[0] for axis in range(4)]
    if scales[0] != 1 or scales[3] != 1 or any(s < 1 or s != int(s) for s in scales):
        return None
    return int(scales[1]), int(scales[2])


def _positions(sizes: tuple[int, int, float], transform: str, bounds: tuple[float, float]) -> Array:
    """Where in the input each element of the output lies (ONNX, Resize)."""
    have, length, scale = sizes
    at = np.arange(length, dtype=np.float64)
    if transform == "align_corners":
        last = have * scale - 1  # not the whole number of elements: so ONNX's reference has it
        return at * (have - 1) / last if length > 1 else at * 0
    if transform == "asymmetric":
        return at / scale
    if transform == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if length > 1 else at * 0 - 0.5
    if transform == "tf_crop_and_resize":
        start, end = bounds
        if length > 1:
            return start * (have - 1) + at * (end - start) * (have - 1) / (length - 1)
        return at * 0 + 0.5 * (start + end) * (have - 1)
    if transform == "half_pixel_symmetric":
        adjust = length / (scale * have)
        return have / 2 * (1 - adjust) + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _nearest(at: Array, how: str) -> Array:
    rounded = {
        "floor": np.floor(at),
        "ceil": np.ceil(at),
        "round_prefer_floor": np.ceil(at - 0.5),
        "round_prefer_ceil": np.floor(at + 0.5),
    }
    return rounded[how]


def _along(
    builder: Builder,
    node: Node,
    x: Any,
    axis: int,
    at: Array,
    sizes: tuple[int, float],
    mode: str,
    nearest: str,
) -> Any:
    """x resized along one axis: gathered where nearest, else a product with a matrix of shares."""
    have, scale = sizes
    if mode == "nearest":
        places = np.clip(_nearest(at, nearest), 0, have - 1).astype(np.int32)
        return ops.take(x, places, axis=axis)
    table = _shares(node, at, have, scale, mode).astype(x.dtype)
    held = builder.lifted(table) if table.size > INLINE else table
    return ops.moveaxis(ops.matmul(ops.moveaxis(x, axis, -1), ops.transpose(held)), -1, axis)


def _shares(node: Node, at: Array, have: int, scale: float, mode: str) -> Array:
    """[length, have]: the share that each element of the input has in each of the output."""
    matrix = np.zeros((len(at), have))
    squeeze = min(scale, 1.0) if node.attribute("antialias", 0) else 1.0
    reach = (1 if mode == "linear" else 2) / squeeze
    a = float(node.attribute("cubic_coeff_a", -0.75))
    for row, centre in enumerate(at):
        places = np.arange(math.floor(centre - reach), math.ceil(centre + reach) + 1)
        distance = np.abs(places - centre) * squeeze
        share = np.maximum(1 - distance, 0) if mode == "linear" else _cubic(distance, a)
        if node.attribute("exclude_outside", 0):
            share = np.where((places < 0) | (places >= have), 0, share)
        total = share.sum()
        np.add.at(matrix[row], np.clip(places, 0, have - 1), share / total)
    return matrix


def _cubic(d: Array, a: float) -> Array:
    """Keys's kernel (1981)."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


# ---------------------------------------------------------------- channels and space


def _first(node: Node, x: Any) -> Any:
    return ops.transpose(x, (0, 2, 3, 1)) if not node.channels_last else x


def _back(node: Node, y: Any) -> Any:
    return ops.transpose(y, (0, 3, 1, 2)) if not node.channels_last else y


def _sides(node: Node, x: Any) -> tuple[int, int, int]:
    if None in x.shape[1:]:
        raise Unsupported(node, "an image of unknown size")
    return int(x.shape[1]), int(x.shape[2]), int(x.shape[3])


@rule("DepthToSpace", 1, 11, 13, 28)
def depth_to_space(builder: Builder, node: Node) -> Any:
    """Channels laid out as blocks of pixels."""
    x, b = _first(node, builder.tensor(node, 0)), int(node.attribute("blocksize"))
    height, width, channels = _sides(node, x)
    deep = channels // (b * b)
    if str(node.attribute("mode", "DCR")) == "DCR":
        x = ops.reshape(x, [-1, height, width, b, b, deep])
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    else:
        x = ops.reshape(x, [-1, height, width, deep, b, b])
        x = ops.transpose(x, (0, 1, 4, 2, 5, 3))
    return _back(node, ops.reshape(x, [-1, height * b, width * b, deep]))


@rule("SpaceToDepth", 1, 13, 28)
def space_to_depth(builder: Builder, node: Node) -> Any:
    """Blocks of pixels laid out as channels."""
    x, b = _first(node, builder.tensor(node, 0)), int(node.attribute("blocksize"))
    height, width, channels = _sides(node, x)
    x = ops.reshape(x, [-1, height // b, b, width // b, b, channels])
    dcr = str(node.attribute("mode", "DCR")) == "DCR"
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5) if dcr else (0, 1, 3, 5, 2, 4))
    return _back(node, ops.reshape(x, [-1, height // b, width // b, channels * b * b]))


@rule("CenterCropPad", 18)
def center_crop_pad(builder: Builder, node: Node) -> Any:
    """The middle of a value, or a value in the middle of zeros."""
    x, target = builder.tensor(node, 0), builder.ints(node, 1, "shape")
    rank = len(x.shape)
    axes = [int(a) % rank for a in node.attribute("axes", None) or range(rank)]
    pads, cuts = [(0, 0)] * rank, [slice(None)] * rank
    for axis, size in zip(axes, target, strict=True):
        if x.shape[axis] is None:
            raise Unsupported(node, "an axis of unknown size")
        have = int(x.shape[axis])
        if have > size:
            start = (have - size) // 2
            cuts[axis] = slice(start, start + size)
        elif have < size:
            pads[axis] = ((size - have) // 2, size - have - (size - have) // 2)
    x = ops.get_item(x, tuple(cuts))
    return ops.pad(x, pads) if any(map(any, pads)) else x
