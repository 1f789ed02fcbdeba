"""Gathering, triangles, one-hot: values read by their places."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.sizes import as_sizes, is_sizes, settled

__all__: list[str] = []


@rule("Gather", 1, 11, 13)
def gather(builder: Builder, node: Node) -> Any:
    """Slices of an axis by their places; of a table of weights: an Embedding."""
    data, places = builder.get(node, 0), builder.get(node, 1)
    axis = int(node.attribute("axis", 0))
    if is_sizes(data):
        return settled(data[np.asarray(places, np.int64)])
    if is_tensor(places) and not is_tensor(data) and axis == 0 and data.ndim == 2 and builder.owns(node, 0):
        rows, columns = data.shape
        return builder.layer(
            node,
            layers.Embedding,
            [(0, data)],
            places,
            dtype=data.dtype.name,
            input_dim=rows,
            output_dim=columns,
        )
    x = builder.tensor(node, 0)
    if not is_tensor(places):
        if places.ndim == 0:
            return ops.take(x, int(places), axis=axis)
        steps = np.diff(places) if places.ndim == 1 and places.size else None
        if steps is not None and np.all(steps == 1) and places[0] >= 0:
            axis %= len(x.shape)
            cuts = (*[slice(None)] * axis, slice(int(places[0]), int(places[-1]) + 1))
            return ops.get_item(x, cuts)
        places = builder.operand(node, 1)
    return ops.take(x, places, axis=axis)


@rule("GatherElements", 11, 13)
def gather_elements(builder: Builder, node: Node) -> Any:
    """Elements along an axis, one place for each."""
    x, places = builder.tensor(node, 0), builder.tensor(node, 1)
    axis = int(node.attribute("axis", 0)) % len(x.shape)
    for other, (n, m) in enumerate(zip(x.shape, places.shape, strict=True)):
        if other != axis and n != m:
            x = ops.get_item(x, (*[slice(None)] * other, slice(0, m)))
    return ops.take_along_axis(x, places, axis=axis)


@rule("GatherND", 11, 12, 13)
def gather_nd(builder: Builder, node: Node) -> Any:
    """Slices by their places on the first axes."""
    x, places = builder.tensor(node, 0), builder.tensor(node, 1)
    batch = int(node.attribute("batch_dims", 0))
    depth = places.shape[-1]
    sizes = x.shape[: batch + depth]
    if depth is None or (None in sizes and batch):
        raise Unsupported(node, "axes of unknown size")
    if None in sizes:
        return _gathered_by_measure(builder, node, x, places, depth)
    strides = [int(np.prod(sizes[batch + i + 1 :], dtype=np.int64)) for i in range(depth)]
    lengths = [int(n) for n in sizes[batch:]]
    wrapped = ops.mod(ops.cast(places, "int64"), np.asarray(lengths, np.int64))
    flat = ops.sum(ops.multiply(wrapped, np.asarray(strides, np.int64)), axis=-1)
    if batch == 0:
        table = ops.reshape(x, [-1, *[-1 if n is None else n for n in x.shape[depth:]]][: len(x.shape)])
        return ops.take(table, flat, axis=0)
    rows = int(np.prod(sizes[:batch], dtype=np.int64))
    each = int(np.prod(lengths, dtype=np.int64))
    table = ops.reshape(x, [rows * each, *x.shape[batch + depth :]])
    start = (np.arange(rows, dtype=np.int64) * each).reshape(*sizes[:batch], *[1] * (len(flat.shape) - batch))
    return ops.take(table, ops.add(flat, start), axis=0)


def _gathered_by_measure(builder: Builder, node: Node, x: Any, places: Any, depth: int) -> Any:
    """GatherND on axes whose lengths are measured when the model runs."""
    places = ops.cast(places, "int64")
    flat: Any = None
    for axis in range(depth):
        length = builder.measured(node, as_sizes([builder.size_of(node, 0, axis)]))
        place = ops.mod(places[..., axis], length)
        flat = place if flat is None else ops.add(ops.multiply(flat, length), place)
    rest = [-1 if n is None else int(n) for n in x.shape[depth:]]
    if -1 in rest:
        raise Unsupported(node, "axes of unknown size")
    return ops.take(ops.reshape(x, [-1, *rest]), flat, axis=0)


@rule("Trilu", 14)
def trilu(builder: Builder, node: Node) -> Any:
    """The upper or lower triangle of matrices."""
    x = builder.tensor(node, 0)
    k = builder.ints(node, 1)[0] if node.has(1) else 0
    operation = ops.triu if node.attribute("upper", 1) else ops.tril
    rows, columns = x.shape[-2], x.shape[-1]
    if rows is None or columns is None:
        return operation(x, k=k)
    keep = np.triu(np.ones((rows, columns), bool), k) if node.attribute("upper", 1) else None
    keep = np.tril(np.ones((rows, columns), bool), k) if keep is None else keep
    return ops.where(keep, x, ops.zeros_like(x)) if keep.size <= 4096 else operation(x, k=k)


@rule("OneHot", 9, 11, 28)
def one_hot(builder: Builder, node: Node) -> Any:
    """Rows that are on at one place and off elsewhere."""
    places, depth = builder.tensor(node, 0), builder.ints(node, 1, "depth")[0]
    values = builder.operand(node, 2)
    axis = int(node.attribute("axis", -1))
    places = ops.cast(places, "int64")
    places = ops.where(places < 0, places + depth, places)  # what is out of range is off everywhere
    hot = ops.moveaxis(ops.one_hot(places, depth, dtype="bool"), -1, axis)
    if is_tensor(values):
        return ops.where(hot, ops.take(values, 1, axis=0), ops.take(values, 0, axis=0))
    return ops.where(hot, builder.lifted(values[1]), builder.lifted(values[0]))


@rule("EyeLike", 9, 22)
def eye_like(builder: Builder, node: Node) -> Any:
    """Ones on a diagonal."""
    x = builder.tensor(node, 0)
    if None in x.shape:
        raise Unsupported(node, "axes of unknown size")
    kind = node.outputs[0].dtype
    dtype = x.dtype if kind is None else kind.numpy().name
    return builder.lifted(np.eye(x.shape[0], x.shape[1], k=int(node.attribute("k", 0))).astype(dtype))


@rule("ReverseSequence", 10, 28)
def reverse_sequence(builder: Builder, node: Node) -> Any:
    """The first elements of each sequence backwards, as many as it is long."""
    x, lengths = builder.tensor(node, 0), builder.tensor(node, 1)
    time, batch = int(node.attribute("time_axis", 0)), int(node.attribute("batch_axis", 1))
    x = ops.transpose(x, [batch, time, *[a for a in range(len(x.shape)) if a not in (batch, time)]])
    steps = x.shape[1]
    if steps is None:
        raise Unsupported(node, "sequences of unknown size")
    line = np.arange(int(steps), dtype=np.int64)[None, :]
    ends = ops.expand_dims(ops.cast(lengths, "int64"), 1)
    places = ops.where(ops.less(line, ends), ops.subtract(ops.subtract(ends, 1), line), line)
    places = ops.reshape(places, [-1, int(steps), *[1] * (len(x.shape) - 2)])
    places = ops.tile(places, [1, 1, *[int(n) for n in x.shape[2:]]])
    y = ops.take_along_axis(x, places, axis=1)
    order = [batch, time, *[a for a in range(len(x.shape)) if a not in (batch, time)]]
    return ops.transpose(y, np.argsort(order).tolist())
