"""Operators on shapes: layers where the batch axis stays; sizes are worked out while a model is built."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, elements, is_tensor
from converter.rebuilding.keras.operands import batched, lone, sliced
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.sizes import Size, as_sizes, is_sizes

__all__: list[str] = []


@rule("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def shape(builder: Builder, node: Node) -> Any:
    """The sizes of all axes, or of some."""
    x = builder.get(node, 0)
    sizes = [builder.size_of(node, 0, axis) for axis in range(len(x.shape))]
    return as_sizes(sizes[int(node.attribute("start", 0)) : node.attribute("end", None)])


@rule("Size", 1, 13, 19, 21, 23, 24, 25)
def size(builder: Builder, node: Node) -> Any:
    """The number of elements."""
    x = builder.get(node, 0)
    count = elements(x.shape)
    if count is None:
        return ops.sum(ops.ones_like(x, dtype="int64"))
    return np.asarray(count, np.int64)


@rule("Reshape", 5, 13, 14, 19, 21, 23, 24, 25)
def reshape(builder: Builder, node: Node) -> Any:
    """Other axes for the same elements in order."""
    data = builder.get(node, 0)
    target = builder.sizes(node, 1)
    if is_sizes(data):
        return data.reshape([int(n) for n in target])
    x = builder.tensor(node, 0)
    if not node.attribute("allowzero", 0):
        target = [builder.size_of(node, 0, i) if _is(n, 0) else n for i, n in enumerate(target)]
    return reshaped(builder, node, x, target)


def _is(size: Any, number: int) -> bool:
    return not isinstance(size, Size) and bool(size == number)


def reshaped(builder: Builder, node: Node, x: Any, target: list[Any]) -> Any:
    """x in another shape; sizes that are not known are left to Keras, one of them beside the batch's."""
    count = elements(x.shape)
    fixed = math.prod(n for n in target if not isinstance(n, Size) and n != -1)
    target = [
        -1 if isinstance(n, Size) and not _keeps(builder, node, n, i) else n for i, n in enumerate(target)
    ]
    if count is not None and sum(_is(n, -1) for n in target) == 1 and fixed:
        target = [count // fixed if _is(n, -1) else n for n in target]
    known = node.output_shape()
    if known is not None and len(known) == len(target):
        target = [k if isinstance(k, int) and _is(n, -1) else n for n, k in zip(target, known, strict=True)]
    if len(target) == len(x.shape) and _untouched(x, target):
        return x
    if _keeps_batch(builder, node, x, target):
        rest = [-1 if isinstance(n, Size) else n for n in target[1:]]
        if sum(n == -1 for n in rest) <= 1:
            return _layer(builder, node, x, rest)
    plain = [-1 if isinstance(n, Size) else n for n in target]
    if sum(n == -1 for n in plain) > 1:
        raise Unsupported(node, f"its target {plain} has several sizes that are not known")
    return ops.reshape(x, plain)


def _untouched(x: Any, target: list[Any]) -> bool:
    pairs = list(zip(x.shape, target, strict=True))
    return all(have == want for have, want in pairs if have is not None) and (
        sum(have is None for have, _ in pairs) <= 1
    )


def _keeps(builder: Builder, node: Node, size: Size, place: int) -> bool:
    """Whether the size at that place is the length of the same axis of the input."""
    have = builder.get(node, 0)
    if not is_tensor(have) or place >= len(have.shape):
        return False
    return size.same(builder.size_of(node, 0, place))


def _keeps_batch(builder: Builder, node: Node, x: Any, target: list[Any]) -> bool:
    """Whether the first axis stays, and is not known."""
    if not target or len(x.shape) < 1 or x.shape[0] is not None:
        return False
    if isinstance(target[0], Size):
        return True
    if int(target[0]) != -1:
        return False
    rest, kept = elements(x.shape[1:]), target[1:]
    if rest is not None and all(not isinstance(n, Size) for n in kept):
        return bool(math.prod(kept) == rest)
    before, after = node.shape(0), node.output_shape()
    return bool(
        before and after and isinstance(after[0], str) and before[0] == after[0] and x is builder.get(node, 0)
    )


def _layer(builder: Builder, node: Node, x: Any, rest: list[int]) -> Any:
    if not batched(x):
        if elements(x.shape[1:]) is not None:
            known = elements(x.shape[1:])
            filled = _filled(rest, known)
            return ops.reshape(x, [-1, *filled])
        return builder.simple(node, layers.Reshape, x, target_shape=tuple(rest))
    if len(rest) == 1 and elements(x.shape[1:]) is not None and len(x.shape) > 2:
        return builder.simple(node, layers.Flatten, x)
    return builder.simple(node, layers.Reshape, x, target_shape=tuple(rest))


def _filled(rest: list[int], count: int | None) -> list[int]:
    fixed = math.prod(n for n in rest if n != -1)
    return [(count or 0) // max(fixed, 1) if n == -1 else n for n in rest]


@rule("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(builder: Builder, node: Node) -> Any:
    """Two axes: those before a given one, and the others."""
    x = builder.tensor(node, 0)
    axis = int(node.attribute("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    before, after = elements(x.shape[:axis]), elements(x.shape[axis:])
    if axis == 1 and batched(x) and after is not None:
        return x if len(x.shape) == 2 else builder.simple(node, layers.Flatten, x)
    if before is None and after is None:
        raise Unsupported(node, "both of its axes are of unknown size")
    return ops.reshape(x, [-1 if before is None else before, -1 if after is None else after])


@rule("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(builder: Builder, node: Node) -> Any:
    """The axes in another order."""
    x = builder.tensor(node, 0)
    perm = [int(n) for n in node.attribute("perm", None) or range(len(x.shape))[::-1]]
    if batched(x) and perm[0] == 0 and len(perm) > 1:
        return builder.simple(node, layers.Permute, x, dims=tuple(perm[1:]))
    return ops.transpose(x, perm)


def axes_of(builder: Builder, node: Node, index: int = 1) -> list[int] | None:
    """The axes that a node names, by attribute or as an input; None where it names none."""
    named = node.attribute("axes", None)
    if named is not None:
        return [int(axis) for axis in named]
    return builder.ints(node, index, "axes") if node.has(index) else None


@rule("Squeeze", 1, 11, 13, 21, 23, 24, 25)
def squeeze(builder: Builder, node: Node) -> Any:
    """Axes of length one left out."""
    axes = axes_of(builder, node)
    data = builder.get(node, 0)
    if is_sizes(data):
        return data.reshape(())
    x = builder.tensor(node, 0)
    rank = len(x.shape)
    gone = {a % rank for a in axes} if axes is not None else {a for a, n in enumerate(x.shape) if n == 1}
    return _refitted(builder, node, x, [n for a, n in enumerate(x.shape) if a not in gone], sorted(gone))


def _refitted(builder: Builder, node: Node, x: Any, sizes: list[int | None], gone: list[int]) -> Any:
    """x without axes of length one, by a layer where the first axis stays."""
    unknown = sum(n is None for n in sizes)
    if batched(x) and 0 not in gone and unknown <= 2 and len(sizes) > 1:
        rest = tuple(-1 if n is None else n for n in sizes[1:])
        return builder.simple(node, layers.Reshape, x, target_shape=rest)
    for axis in reversed(gone):
        x = ops.squeeze(x, axis)
    return x


@rule("Unsqueeze", 1, 11, 13, 21, 23, 24, 25)
def unsqueeze(builder: Builder, node: Node) -> Any:
    """New axes of length one."""
    axes = axes_of(builder, node) or []
    data = builder.get(node, 0)
    if is_sizes(data):
        return np.expand_dims(data, tuple(axes))
    x = builder.tensor(node, 0)
    rank = len(x.shape) + len(axes)
    places = sorted(axis % rank for axis in axes)
    sizes = list(x.shape)
    for axis in places:
        sizes.insert(axis, 1)
    if batched(x) and places[0] != 0 and sum(n is None for n in sizes) <= 2:
        rest = tuple(-1 if n is None else n for n in sizes[1:])
        return builder.simple(node, layers.Reshape, x, target_shape=rest)
    for axis in places:
        x = ops.expand_dims(x, axis)
    return x


@rule("Concat", 4, 11, 13)
def concat(builder: Builder, node: Node) -> Any:
    """Values one behind the other."""
    found = [builder.get(node, i) for i in range(len(node.inputs))]
    axis = int(node.attribute("axis"))
    if any(is_sizes(f) for f in found) and not any(is_tensor(f) for f in found):
        return as_sizes([n for f in found for n in f])
    parts = [builder.operand(node, i) for i in range(len(node.inputs))]
    parts = [p if is_tensor(p) else builder.lifted(p) for p in parts]
    if len(parts) == 1:
        return parts[0]
    if all(batched(p) for p in parts) and axis % len(parts[0].shape):
        return builder.simple(node, layers.Concatenate, parts, axis=axis)
    return ops.concatenate(parts, axis=axis)


@rule("Split", 2, 11, 13, 18)
def split(builder: Builder, node: Node) -> Any:
    """An axis in parts."""
    x = builder.get(node, 0)
    count = len(node.outputs)
    axis = int(node.attribute("axis", 0))
    length = x.shape[axis]
    parts = node.attribute("split", None) if node.since < 13 else None
    if parts is None and node.since >= 13 and node.has(1):
        parts = builder.ints(node, 1, "split")
    if parts is None:
        if length is None:
            raise Unsupported(node, "it splits an axis of unknown size into equal parts")
        each = -(-int(length) // count)
        parts = [min(each, int(length) - each * i) for i in range(count)]
    ends = np.cumsum(parts).tolist()
    if is_sizes(x):
        return tuple(x[end - n : end] for n, end in zip(parts, ends, strict=True))
    x = builder.tensor(node, 0)
    if len(set(parts)) == 1 and length is not None and parts[0]:
        made = ops.split(x, count, axis=axis)
        return tuple(made) if count > 1 else (made[0],)
    return tuple(sliced(x, axis, int(end - n), int(end)) for n, end in zip(parts, ends, strict=True))


@rule("Slice", 1, 10, 11, 13)
def slice_(builder: Builder, node: Node) -> Any:
    """Parts of axes."""
    x = builder.get(node, 0)
    if not is_tensor(x) and not is_sizes(x):
        x = builder.tensor(node, 0)
    rank = len(x.shape)
    if node.since == 1:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes, steps = list(node.attribute("axes", None) or range(len(starts))), [1] * len(starts)
    else:
        starts, ends = builder.sizes(node, 1), builder.sizes(node, 2)
        axes = builder.ints(node, 3) if node.has(3) else list(range(len(starts)))
        steps = builder.ints(node, 4) if node.has(4) else [1] * len(starts)
    cuts: list[slice] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis % rank] = _cut(node, x, axis % rank, start, end, step)
    if is_sizes(x):
        return x[tuple(cuts)]
    if cuts == [slice(None)] * rank:
        return x
    return ops.get_item(x, tuple(cuts))


def _cut(node: Node, x: Any, axis: int, start: Any, end: Any, step: int) -> slice:
    """One axis's part as Python's slices say it; ONNX counts a start past the end backwards as the last."""
    length = x.shape[axis]
    if isinstance(end, Size):
        named = node.shape(0)
        symbol = named[axis] if named is not None else None
        if length is not None or (
            not (end.symbol is not None and end.symbol == symbol) and end.tensor is not x
        ):
            raise Unsupported(node, "the end of its slice is computed")
        end = None
    if isinstance(start, Size):
        raise Unsupported(node, "the start of its slice is computed")
    limit = (1 << 31) - 1
    if length is not None:
        low = -length - 1
        whole = end is not None and ((step > 0 and end >= length) or (step < 0 and end <= low))
        start = max(min(start, length), low)
        end = None if whole else end
    elif end is not None and abs(end) >= limit:
        end = None
    if step > 0 and start == 0 and end is None and step == 1:
        return slice(None)
    if step < 0 and start >= (length if length is not None else limit):
        start = None
    return slice(start, end, step)


@rule("Expand", 8, 13)
def expand(builder: Builder, node: Node) -> Any:
    """A value repeated to a shape."""
    return builder.spread(node, builder.operand(node, 0), builder.sizes(node, 1))


@rule("Tile", 6, 13)
def tile(builder: Builder, node: Node) -> Any:
    """A value repeated along its axes."""
    x, repeats = builder.tensor(node, 0), builder.sizes(node, 1)
    if any(isinstance(n, Size) for n in repeats):
        wanted = [n if have == 1 else 1 for n, have in zip(repeats, x.shape, strict=True)]
        if any(not _is(n, 1) for n, have in zip(repeats, x.shape, strict=True) if have != 1):
            raise Unsupported(node, "its repeats are computed")
        return builder.spread(node, x, wanted)
    return ops.tile(x, repeats)


@rule("ConstantOfShape", 9, 20, 21, 23, 24, 25)
def constant_of_shape(builder: Builder, node: Node) -> Any:
    """One number everywhere."""
    value = node.attribute("value", None)
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    sizes = builder.sizes(node, 0)
    if not any(isinstance(n, Size) for n in sizes) and math.prod(sizes) <= 64:
        return np.full(sizes, value.reshape(()), value.dtype)
    if any(_is(n, 0) for n in sizes):
        raise Unsupported(node, "it makes nothing")
    return builder.spread(node, value.reshape(()), sizes)


@rule("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(builder: Builder, node: Node) -> Any:
    """A constant that was not made an initializer."""
    del builder
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        found = node.attribute(name, None)
        if found is not None:
            kind = np.float32 if "float" in name else np.int64
            return np.asarray(found) if name == "value" else np.asarray(found, kind)
    raise Unsupported(node, "it holds neither numbers nor a tensor")


@rule("Range", 11, 27)
def range_(builder: Builder, node: Node) -> Any:
    """Numbers at a constant distance."""
    start, limit, delta = (builder.get(node, i) for i in range(3))
    known = not any(is_tensor(v) or is_sizes(v) for v in (start, delta))
    if is_sizes(limit) and known and lone(start, 0) == 0 and lone(delta, 0) == 1:
        count = limit.reshape(-1)[0]
        ones = ops.cast(ops.add(builder.along(count, node), 1), "int64")
        return ops.subtract(ops.cumsum(ones, axis=0), 1)
    if any(is_tensor(v) or is_sizes(v) for v in (start, limit, delta)):
        raise Unsupported(node, "its bounds are computed")
    bounds = [v.reshape(()) for v in (start, limit, delta)]
    return np.arange(*bounds, dtype=bounds[0].dtype)


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@rule("Pad", 2, 11, 13, 18, 19, 21, 23, 24, 25)
def pad(builder: Builder, node: Node) -> Any:
    """A border around a value; a negative one takes away."""
    x = builder.tensor(node, 0)
    rank = len(x.shape)
    pads = [int(n) for n in node.attribute("pads")] if node.since == 2 else builder.ints(node, 1, "pads")
    axes = (
        [a % rank for a in builder.ints(node, 3)] if node.since >= 18 and node.has(3) else list(range(rank))
    )
    pairs = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        pairs[axis] = (pads[place], pads[place + len(axes)])
    value = builder.operand(node, 2) if node.since > 2 else np.asarray(node.attribute("value", 0.0))
    mode = str(node.attribute("mode", "constant"))
    for axis, (low, high) in enumerate(pairs):
        if low < 0 or high < 0:
            x = sliced(x, axis, max(-low, 0), min(high, 0) or None)
    return padded(builder, node, x, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], mode, value)


def padded(builder: Builder, node: Node, x: Any, pairs: list[tuple[int, int]], mode: str, value: Any) -> Any:
    """A border around a value, by a layer where that has one."""
    rank = len(pairs)
    if all(pair == (0, 0) for pair in pairs):
        return x
    number = 0 if value is None else lone(value, rank)
    inner = 3 <= rank <= 5 and pairs[0] == pairs[-1] == (0, 0)
    if mode == "constant" and not is_tensor(number) and number == 0 and batched(x) and inner:
        make = {3: layers.ZeroPadding1D, 4: layers.ZeroPadding2D, 5: layers.ZeroPadding3D}[rank]
        return builder.simple(node, make, x, padding=pairs[1] if rank == 3 else tuple(pairs[1:-1]))
    if mode == "constant":
        if is_tensor(number):
            raise Unsupported(node, "the value of its border is computed")
        return ops.pad(x, pairs, mode="constant", constant_values=number)
    return _bordered(node, x, pairs, mode)


def _bordered(node: Node, x: Any, pairs: list[tuple[int, int]], mode: str) -> Any:
    """Borders of a value's own elements: TensorFlow knows reflection alone, so the others are gathered."""
    if mode not in _MODES:
        raise Unsupported(node, f"no such border: {mode}")
    if mode == "reflect" and all(
        size is None or max(pair) < size for size, pair in zip(x.shape, pairs, strict=True)
    ):
        return ops.pad(x, pairs, mode="reflect")
    for axis, pair in enumerate(pairs):
        if pair != (0, 0):
            if x.shape[axis] is None:
                raise Unsupported(node, f"a border of kind {mode} on an axis of unknown size")
            places = np.pad(np.arange(x.shape[axis], dtype=np.int32), pair, mode=mode)  # type: ignore[call-overload]
            x = ops.take(x, places, axis=axis)
    return x
