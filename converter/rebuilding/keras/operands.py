"""Operands as operations of Keras take them: a lone number as a Python number, tensors of the same type."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from converter.rebuilding.graph import Node
from converter.rebuilding.keras.builder import Builder, is_tensor

__all__ = ["batched", "lone", "pair", "plus", "sliced"]


def lone(value: Any, rank: int) -> Any:
    """A constant of one element as a Python number, where broadcasting it makes no axes."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= rank:
        number = value.reshape(()).item()
        return number if isinstance(number, (bool, int, float)) else value
    return value


def pair(builder: Builder, node: Node) -> tuple[Any, Any]:
    """The two operands of a node, at least one of them a KerasTensor."""
    a, b = builder.operand(node, 0), builder.operand(node, 1)
    if not is_tensor(a) and not is_tensor(b):
        a = builder.lifted(a)
    rank = len((a if is_tensor(a) else b).shape)
    return (lone(a, rank), b) if is_tensor(b) else (a, lone(b, rank))


def batched(x: Any) -> bool:
    """Whether layers, which leave the first axis alone, fit."""
    return is_tensor(x) and len(x.shape) > 1 and x.shape[0] is None and "float" in x.dtype


def sliced(x: Any, axis: int, start: int, stop: int | None, step: int = 1) -> Any:
    """Part of an axis."""
    return ops.get_item(x, (*[slice(None)] * (axis % len(x.shape)), slice(start, stop, step)))


def plus(a: Any, b: Any) -> Any:
    """a + b.

    Keras 3.15 on TensorFlow takes a second operand with one axis longer than 1 for the bias of the first and
    guesses by its length which axis it goes along: `[3, 4, 4] + [1, 4, 1]` is added along the last one. What
    it might guess wrong is written as a - (-b), which is the same number.
    """
    shape: tuple[int | None, ...] = tuple(getattr(b, "shape", ()))
    long = [axis for axis, size in enumerate(shape) if size != 1]
    if len(long) != 1 or not hasattr(a, "shape"):
        return ops.add(a, b)
    fits = len(shape) <= len(a.shape) and long[0] == len(shape) - 1 and a.shape[-1] == shape[-1]
    return ops.add(a, b) if fits else ops.subtract(a, ops.negative(b))
