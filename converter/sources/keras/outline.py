"""The layers of a Keras model, as far as its own graph of layers shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from converter.model import Boundary, Layer, Outline, TensorSpec
from converter.sources.keras.recorder import nodes_in_order

__all__ = ["outline_of"]


def outline_of(model: Any, most: int) -> Outline:
    """The layers of a Functional model in running order, nested ones before what they stand in.

    Of a subclassed model the layers that it holds, in the order in which they were made, without shapes.

    Args:
        model: a built Keras model.
        most: how many at most; what comes after them is left out.
    """
    found = list({layer.name: layer for layer in _layers(model, "", 0)}.values())
    left = len(found) - most
    return Outline(tuple(found[:most]), gaps=((most, left),) if left > 0 else ())


def _layers(model: Any, prefix: str, depth: int) -> Iterator[Layer]:
    nodes = nodes_in_order(model)
    if nodes:
        for node in nodes:
            yield from _layer(node.operation, prefix, depth, node.output_tensors)
    else:
        for layer in getattr(model, "layers", ()):
            yield from _layer(layer, prefix, depth, ())


def _layer(operation: Any, prefix: str, depth: int, tensors: Any) -> Iterator[Layer]:
    name = f"{prefix}{operation.name}"
    if hasattr(operation, "layers"):
        yield from _layers(operation, f"{name}/", depth + 1)
    boundaries = []
    for number, tensor in enumerate(tensors):
        shape = getattr(tensor, "shape", None)
        if shape is None or shape.__class__.__name__ not in ("tuple", "TensorShape"):
            continue
        label = name if len(tensors) == 1 else f"{name}:{number}"
        sizes = tuple(
            size if isinstance(size, int) else "batch" if axis == 0 else f"{label}_dim{axis}"
            for axis, size in enumerate(shape)
        )
        boundaries.append(Boundary(TensorSpec(label, sizes, str(tensor.dtype)), ""))
    weights = getattr(operation, "weights", ())
    trained = getattr(operation, "trainable_weights", ())
    yield Layer(
        name,
        type(operation).__name__,
        tuple(boundaries),
        sum(math.prod(weight.shape) for weight in weights),
        sum(math.prod(weight.shape) for weight in trained),
        depth,
    )
