"""Scattering: values written to places that are named."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder
from converter.rebuilding.keras.rules import rule

__all__: list[str] = []


def _written(node: Node, flat: Any, places: Any, updates: Any, count: int, how: str) -> Any:
    """A vector with updates at places: in their stead, or added."""
    places = ops.expand_dims(places, -1)
    if how == "none":
        return ops.scatter_update(flat, places, updates)
    if how == "add":
        return ops.add(flat, ops.scatter(places, updates, (count,)))
    raise Unsupported(node, f"the reduction {how!r} has no counterpart in Keras")


def _count(node: Node, x: Any) -> int:
    if None in x.shape:
        raise Unsupported(node, "axes of unknown size")
    return int(np.prod([int(n) for n in x.shape], dtype=np.int64))


@rule("ScatterElements", 11, 13, 16, 18)
def scatter_elements(builder: Builder, node: Node) -> Any:
    """Elements written along an axis, one place for each."""
    x, places, updates = (builder.tensor(node, i) for i in range(3))
    axis = int(node.attribute("axis", 0)) % len(x.shape)
    count = _count(node, x)
    _count(node, places)
    sizes = [int(n) for n in x.shape]
    strides = [int(np.prod(sizes[i + 1 :], dtype=np.int64)) for i in range(len(sizes))]
    others = np.zeros([int(n) for n in places.shape], np.int64)
    for other, index in enumerate(np.indices(others.shape)):
        if other != axis:
            others += index * strides[other]
    wrapped = ops.mod(ops.cast(places, "int64"), sizes[axis])
    flat = ops.add(ops.multiply(wrapped, strides[axis]), others)
    how = str(node.attribute("reduction", "none"))
    y = _written(node, ops.reshape(x, [-1]), ops.reshape(flat, [-1]), ops.reshape(updates, [-1]), count, how)
    return ops.reshape(y, sizes)


@rule("Scatter", 9)
def scatter(builder: Builder, node: Node) -> Any:
    """ScatterElements, as it was called before version 11."""
    return scatter_elements(builder, node)


@rule("ScatterND", 11, 13, 16, 18)
def scatter_nd(builder: Builder, node: Node) -> Any:
    """Slices written to places on the first axes."""
    x, places, updates = (builder.tensor(node, i) for i in range(3))
    depth = int(places.shape[-1])
    how = str(node.attribute("reduction", "none"))
    if None in x.shape[:depth]:
        raise Unsupported(node, "axes of unknown size")
    places = ops.mod(ops.cast(places, "int64"), np.asarray([int(n) for n in x.shape[:depth]], np.int64))
    if how == "none":
        return ops.scatter_update(x, places, updates)
    if how != "add" or None in x.shape:
        raise Unsupported(node, f"the reduction {how!r} has no counterpart in Keras")
    return ops.add(x, ops.scatter(places, updates, tuple(int(n) for n in x.shape)))
