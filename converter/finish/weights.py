"""Weights that hold their numbers otherwise than in the source: moved, reshaped, turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from converter.finish.graphs import constant_of, make_constant

__all__ = ["derived", "names_of_origin", "origin_of", "reshaped", "rewritten"]

# Key of a value's notes: the initializer that its numbers come from.
_ORIGIN = "converter.origin"
_NO_LIMIT = 1 << 62


def origin_of(value: ir.Value) -> str | None:
    """The name of the initializer that a value's numbers come from: its own where they were never moved."""
    origin: str | None = value.meta.get(_ORIGIN, value.name)
    return origin


def reshaped(near: ir.Node, weight: ir.Value, shape: Sequence[int]) -> ir.Value:
    """A weight in another shape, under its own name where nothing else reads it."""
    array = constant_of(weight, _NO_LIMIT)
    assert array is not None
    return weight if list(array.shape) == list(shape) else rewritten(near, weight, array.reshape(shape))


def rewritten(near: ir.Node, weight: ir.Value, array: npt.NDArray[Any]) -> ir.Value:
    """A weight that holds its numbers otherwise, under its own name where nothing else reads it."""
    graph = near.graph
    name = weight.name
    assert isinstance(graph, ir.Graph)
    if name is None or name not in graph.initializers:  # what a node puts out
        return make_constant(near, array)
    origin = origin_of(weight)
    for other in graph.initializers.values():
        if other is not weight and other.meta.get(_ORIGIN) == origin:
            numbers = constant_of(other, _NO_LIMIT)
            if numbers is not None and np.array_equal(numbers, array):
                return other  # another layer reads it in the same way
    if len(weight.uses()) <= 1 and not weight.is_graph_output():
        del graph.initializers[name]
        weight.const_value = None  # which others may share, and which would be renamed, too
        weight.name = None
    return derived(near, array, name, origin)


def derived(near: ir.Node, array: npt.NDArray[Any], name: str, origin: str | None = None) -> ir.Value:
    """A new initializer whose numbers come from the weight of that name, or of `origin`."""
    made = make_constant(near, array, name)
    made.meta[_ORIGIN] = origin or name
    return made


def names_of_origin(model: ir.Model) -> None:
    """Let weights that were moved bear the names of those that they come from, where these are gone."""
    for name, value in list(model.graph.initializers.items()):
        origin = origin_of(value)
        if origin is not None and origin not in model.graph.initializers:
            del model.graph.initializers[name]
            value.name = origin
            model.graph.register_initializer(value)
