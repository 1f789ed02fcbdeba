"""Python source as text: literals, expressions, statements of at most 110 columns."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["WIDTH", "atom", "call", "dtype", "literal", "nested", "statement", "tuple_of"]

WIDTH = 110
_ATOMS = (ast.Name, ast.Call, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Constant)
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@functools.lru_cache(4096)
def atom(expression: str) -> str:
    """The expression, in parentheses where an operator or a dot beside it would tear it apart."""
    tree = ast.parse(expression, mode="eval").body
    number = isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float))
    if isinstance(tree, _ATOMS) and not (number and expression.startswith("(")):
        return expression
    return f"({expression})"


def call(function: str, *arguments: Any, **named: Any) -> str:
    """A call; arguments that are None are left out."""
    given = [str(argument) for argument in arguments if argument is not None]
    given += [f"{name}={value}" for name, value in named.items() if value is not None]
    return f"{function}({', '.join(given)})"


def tuple_of(items: Iterable[Any]) -> str:
    """A tuple."""
    texts = [str(item) for item in items]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def literal(value: Any) -> str:
    """A number as Python spells it; of a float32 the shortest that rounds to it."""
    if isinstance(value, np.ndarray):
        value = value.reshape(())[()]
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    number = float(value)
    if math.isnan(number):
        return "math.nan"
    if math.isinf(number):
        return "math.inf" if number > 0 else "-math.inf"
    # The shortest spelling of the largest float32 is a double that overflows it.
    return repr(float(str(value)) if isinstance(value, np.float32) and abs(number) < 1e38 else number)


def short(value: float) -> str:
    """A float32 attribute as its author wrote it: 1e-05, not 9.999999747378752e-06."""
    return literal(np.float32(value))


def nested(array: Any) -> str:
    """An array as nested lists."""
    if array.ndim == 0:
        return literal(array[()])
    return f"[{', '.join(nested(np.asarray(item)) if array.ndim > 1 else literal(item) for item in array)}]"


def dtype(name: str) -> str:
    """PyTorch's word for a dtype of NumPy's."""
    return f"torch.{name}"


def statement(text: str, indent: int) -> list[str]:
    """A statement as lines, broken inside its brackets where it is too long for one."""
    line = " " * indent + text
    if len(line) <= WIDTH:
        return [line]
    opened = _outer(text)
    if opened is None:
        return [line]
    start, end = opened
    head, inner, tail = text[: start + 1], text[start + 1 : end], text[end:]
    if not inner.strip():
        return [line]
    parts = _split(inner)
    whole = " " * (indent + 4) + inner
    if len(parts) == 1 and not inner.rstrip().endswith(","):
        body = statement(inner, indent + 4)
    elif len(whole) <= WIDTH and "=[" not in inner and text[start] == "(" and " for " not in inner:
        body = [whole]
    else:
        body = [line for part in parts for line in _element(part, indent + 4)]
    return [" " * indent + head, *body, *_closing(tail, indent)]


def _closing(tail: str, indent: int) -> list[str]:
    return statement(tail, indent) if len(tail) + indent <= WIDTH else [" " * indent + tail]


def _element(part: str, indent: int) -> list[str]:
    lines = statement(part, indent)
    return [*lines[:-1], lines[-1] + ","]


def _brackets(text: str) -> Iterable[tuple[int, str, int]]:
    """(place, bracket, depth outside it) of each bracket that stands in no string."""
    depth, quote, escaped = 0, "", False
    for place, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in _PAIRS:
            yield place, char, depth
            depth += 1
        elif char in ")]}":
            depth -= 1
            yield place, char, depth
        elif char == "," and depth == 0:
            yield place, char, depth


def _outer(text: str) -> tuple[int, int] | None:
    """The longest of the outermost pairs of brackets."""
    best: tuple[int, int] | None = None
    start = 0
    for place, char, depth in _brackets(text):
        if depth == 0 and char in _PAIRS:
            start = place
        elif depth == 0 and char in ")]}" and (best is None or place - start > best[1] - best[0]):
            best = start, place
    return best


def _split(text: str) -> Sequence[str]:
    """The parts between commas outside of all brackets."""
    parts, last = [], 0
    for place, char, depth in _brackets(text):
        if char == "," and depth == 0:
            parts.append(text[last:place].strip())
            last = place + 1
    parts.append(text[last:].strip())
    return [part for part in parts if part]
