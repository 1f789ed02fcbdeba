"""Arithmetic with sizes, as Python does it: what a graph computes from shapes are numbers, not tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.rebuilding.graph import Node
from converter.rebuilding.torch.text import atom

__all__ = ["Number", "Numbers", "evaluate"]

# A number that is known, or an expression for one.
Number = int | float | bool | str
_INTEGERS = frozenset(("int64", "int32"))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tensor of few numbers, which Python knows one by one.

    Attributes:
        items: the numbers, in order.
        scalar: whether it has no axes; else it has one.
        dtype: NumPy's name of the tensor's element type.
    """

    items: tuple[Number, ...]
    scalar: bool
    dtype: str


def _binary(symbol: str, compute: Callable[[Any, Any], Any]) -> Callable[[Number, Number], Number]:
    def combine(a: Number, b: Number) -> Number:
        if not isinstance(a, str) and not isinstance(b, str):
            return compute(a, b)  # type: ignore[no-any-return]
        if symbol in ("*", "//") and b == 1:
            return a
        if symbol in ("+", "-") and b == 0:
            return a
        if (symbol == "*" and a == 1) or (symbol == "+" and a == 0):
            return b
        return f"{atom(str(a))} {symbol} {atom(str(b))}"

    return combine


def _called(function: str, compute: Callable[..., Any]) -> Callable[..., Number]:
    def combine(*items: Number) -> Number:
        if not any(isinstance(item, str) for item in items):
            return compute(*items)  # type: ignore[no-any-return]
        return f"{function}({', '.join(map(str, items))})"

    return combine


def _divided(a: Number, b: Number, whole: bool) -> Number:
    return _binary("//", lambda a, b: a // b)(a, b) if whole else _binary("/", lambda a, b: a / b)(a, b)


def _where(condition: Number, a: Number, b: Number) -> Number:
    if not isinstance(condition, str):
        return a if condition else b
    return a if a == b else f"{atom(str(a))} if {condition} else {atom(str(b))}"


def _equal(a: Number, b: Number) -> Number:
    # Sizes are never negative: -1 is what a target has for "the rest".
    if (isinstance(a, str) and isinstance(b, int) and b < 0) or (
        isinstance(b, str) and isinstance(a, int) and a < 0
    ):
        return False
    return _binary("==", lambda a, b: a == b)(a, b)


_ELEMENTWISE: Mapping[str, Callable[..., Number]] = {
    "Add": _binary("+", lambda a, b: a + b),
    "Sub": _binary("-", lambda a, b: a - b),
    "Mul": _binary("*", lambda a, b: a * b),
    "Mod": _binary("%", lambda a, b: a % b),
    "Min": _called("min", min),
    "Max": _called("max", max),
    "Equal": _equal,
    "Less": _binary("<", lambda a, b: a < b),
    "Greater": _binary(">", lambda a, b: a > b),
    "Where": _where,
    "Neg": lambda a: f"-{atom(a)}" if isinstance(a, str) else -a,
    "Floor": _called("math.floor", math.floor),
    "Ceil": _called("math.ceil", math.ceil),
    "Sqrt": _called("math.sqrt", math.sqrt),
    "Identity": lambda a: a,
    "Abs": _called("abs", abs),
}
_SAME = frozenset("Identity Squeeze Unsqueeze Reshape Flatten".split())
_REDUCED: Mapping[str, str] = {"ReduceProd": "*", "ReduceSum": "+"}


def evaluate(node: Node, inputs: Sequence[Numbers | None]) -> Numbers | None:
    """What a node makes of numbers, as numbers; None where it takes or makes something else.

    Args:
        node: the node, with one output.
        inputs: what is known of its inputs; None for those that are tensors.
    """
    if not inputs or inputs[0] is None or len(node.outputs) != 1:
        return None
    if node.op in ("Squeeze", "Unsqueeze", "Reshape"):
        return _shaped(node, inputs)
    if any(numbers is None for numbers in inputs):
        return None
    given = [numbers for numbers in inputs if numbers is not None]
    if node.op in ("Gather", "Slice"):
        return _taken(node, given)
    if node.op == "Concat":
        items = tuple(item for numbers in given for item in numbers.items)
        return None if any(n.scalar for n in given) else Numbers(items, False, given[0].dtype)
    if node.op == "Cast":
        return _cast(node, given[0])
    if node.op in _REDUCED:
        combine = _ELEMENTWISE["Mul" if node.op == "ReduceProd" else "Add"]
        total: Number = 1 if node.op == "ReduceProd" else 0
        for item in given[0].items:
            total = combine(total, item)
        return Numbers((total,), not node.attribute("keepdims", 1), given[0].dtype)
    return _elementwise(node, given)


def _elementwise(node: Node, given: Sequence[Numbers]) -> Numbers | None:
    count = max(len(numbers.items) for numbers in given)
    if any(len(numbers.items) not in (1, count) for numbers in given):
        return None
    rows = zip(*(n.items * (count // len(n.items) if n.items else 0) for n in given), strict=True)
    dtype = given[-1].dtype
    if node.op == "Div":
        items = tuple(_divided(a, b, dtype in _INTEGERS) for a, b in rows)
    elif node.op in _ELEMENTWISE:
        items = tuple(_ELEMENTWISE[node.op](*row) for row in rows)
    else:
        return None
    if node.op in ("Equal", "Less", "Greater"):
        dtype = "bool"
    return Numbers(items, all(numbers.scalar for numbers in given), dtype)


def _shaped(node: Node, inputs: Sequence[Numbers | None]) -> Numbers | None:
    data = inputs[0]
    assert data is not None
    shape = node.output_shape()
    if len(data.items) == 1 and shape is not None and len(shape) <= 1:
        return dataclasses.replace(data, scalar=not shape)
    if node.op == "Unsqueeze" and data.scalar:
        return dataclasses.replace(data, scalar=False)
    if node.op == "Squeeze" and len(data.items) == 1:
        return dataclasses.replace(data, scalar=True)
    if node.op == "Reshape" and inputs[1] is not None and inputs[1].items == (-1,):
        return dataclasses.replace(data, scalar=False)
    return None


def _taken(node: Node, given: Sequence[Numbers]) -> Numbers | None:
    data, *others = given
    if any(isinstance(item, str) for numbers in others for item in numbers.items):
        return None
    if node.op == "Gather":
        where = others[0]
        return Numbers(tuple(data.items[int(i)] for i in where.items), where.scalar, data.dtype)
    if not others:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        return Numbers(data.items[starts[0] : ends[0]], False, data.dtype)
    start, end = int(others[0].items[0]), int(others[1].items[0])
    step = int(others[3].items[0]) if len(others) > 3 else 1
    stop = None if step < 0 and end < -len(data.items) else end
    return Numbers(data.items[slice(start, stop, step)], False, data.dtype)


_CASTS = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 11: "float64"}


def _cast(node: Node, data: Numbers) -> Numbers | None:
    to = _CASTS.get(int(node.attribute("to", 0)))
    if to is None:
        return None
    if to in _INTEGERS and data.dtype not in _INTEGERS:
        items = tuple(f"int({item})" if isinstance(item, str) else int(item) for item in data.items)
    elif to.startswith("float"):
        items = tuple(item if isinstance(item, str) else float(item) for item in data.items)  # type: ignore[misc]
    elif to == "bool":
        items = tuple(f"{atom(i)} != 0" if isinstance(i, str) else bool(i) for i in data.items)
    else:
        items = data.items  # type: ignore[assignment]
    return Numbers(items, data.scalar, to)
