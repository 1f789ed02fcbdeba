"""Arithmetic, comparisons and logic, element by element; products of matrices."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from keras import layers, ops

from converter.model import LIFTED
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import batched, lone, pair, plus
from converter.rebuilding.keras.rules import rule
from converter.rebuilding.keras.sizes import is_sizes, settled

__all__: list[str] = []


def _unary(ops_: str, versions: Sequence[int], function: Callable[[Any], Any]) -> None:
    @rule(ops_, *versions)
    def unary(builder: Builder, node: Node) -> Any:
        return function(builder.tensor(node, 0))


def _round(x: Any) -> Any:
    return ops.round(x)  # to even at a half, as ONNX has it


for _names, _since, _function in (
    ("Abs", (6, 13), ops.abs),
    ("Acos", (7, 22), ops.arccos),
    ("Acosh", (9, 22), ops.arccosh),
    ("Asin", (7, 22), ops.arcsin),
    ("Asinh", (9, 22), ops.arcsinh),
    ("Atan", (7, 22), ops.arctan),
    ("Atanh", (9, 22), ops.arctanh),
    ("Ceil", (6, 13), ops.ceil),
    ("Cos", (7, 22), ops.cos),
    ("Cosh", (9, 22), ops.cosh),
    ("Det", (11, 22), ops.det),
    ("Erf", (9, 13), ops.erf),
    ("Exp", (6, 13), ops.exp),
    ("Floor", (6, 13), ops.floor),
    ("IsNaN", (9, 13, 20), ops.isnan),
    ("Log", (6, 13), ops.log),
    ("Neg", (6, 13), ops.negative),
    ("Not", (1,), ops.logical_not),
    ("Reciprocal", (6, 13), ops.reciprocal),
    ("Round", (11, 22), _round),
    ("Sign", (9, 13), ops.sign),
    ("Sin", (7, 22), ops.sin),
    ("Sinh", (9, 22), ops.sinh),
    ("Sqrt", (6, 13), ops.sqrt),
    ("Tan", (7, 22), ops.tan),
):
    _unary(_names, _since, _function)


@rule("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def identity(builder: Builder, node: Node) -> Any:
    """The value itself."""
    found = builder.get(node, 0)
    return found if is_sizes(found) else builder.operand(node, 0)


@rule("IsInf", 10, 20)
def is_inf(builder: Builder, node: Node) -> Any:
    """Whether a number is infinite, of a sign that is asked for."""
    x = builder.tensor(node, 0)
    found = ops.isinf(x)
    if not node.attribute("detect_negative", 1):
        found = ops.logical_and(found, ops.greater(x, 0))
    if not node.attribute("detect_positive", 1):
        found = ops.logical_and(found, ops.less(x, 0))
    return found


@rule("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(builder: Builder, node: Node) -> Any:
    """Another element type."""
    found = builder.get(node, 0)
    to = onnx.helper.tensor_dtype_to_np_dtype(int(node.attribute("to")))
    if is_sizes(found) and to.kind == "i":
        return found
    return _cast(node, builder.tensor(node, 0), to)


@rule("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(builder: Builder, node: Node) -> Any:
    """The element type of another value."""
    return _cast(node, builder.tensor(node, 0), np.dtype(builder.tensor(node, 1).dtype))


def _cast(node: Node, x: Any, to: np.dtype[Any]) -> Any:
    if to.name == x.dtype:
        return x
    known = "bool float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64"
    if to.name not in known.split():
        raise Unsupported(node, f"Keras has no element type {to.name}")
    return ops.cast(x, to.name)


# ---------------------------------------------------------------- two operands

_SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a // b,
}
_LAYERS = {"Add": layers.Add, "Sub": layers.Subtract, "Mul": layers.Multiply}


def _of_sizes(builder: Builder, node: Node) -> Any:
    """Arithmetic with sizes while the model is built; None where it is arithmetic with data."""
    a, b = builder.get(node, 0), builder.get(node, 1)
    if not (is_sizes(a) or is_sizes(b)) or is_tensor(a) or is_tensor(b):
        return None
    return settled(_SIZES[node.op](np.asarray(a, object), np.asarray(b, object)))


def _as_layer(builder: Builder, node: Node, a: Any, b: Any) -> Any:
    """The layer that adds, subtracts or multiplies; None where no layer fits."""
    if batched(a) and batched(b) and len(a.shape) == len(b.shape) and a.dtype == b.dtype:
        return builder.simple(node, _LAYERS[node.op], [a, b])
    number, x = (a, b) if isinstance(a, float) else (b, a)
    if not isinstance(number, float) or not batched(x):
        return None
    if node.op == "Mul":
        return builder.simple(node, layers.Rescaling, x, scale=number)
    if node.op == "Add":
        return builder.simple(node, layers.Rescaling, x, scale=1.0, offset=number)
    return builder.simple(node, layers.Rescaling, x, scale=1.0, offset=-number) if number is b else None


@rule("Add Sub Mul", 7, 13, 14)
def add_sub_mul(builder: Builder, node: Node) -> Any:
    """a + b, a - b, a b."""
    found = _of_sizes(builder, node)
    if found is not None:
        return found
    a, b = pair(builder, node)
    found = _as_layer(builder, node, a, b)
    if found is not None:
        return found
    return {"Add": plus, "Sub": ops.subtract, "Mul": ops.multiply}[node.op](a, b)


@rule("Div", 7, 13, 14)
def div(builder: Builder, node: Node) -> Any:
    """a / b; of whole numbers towards zero."""
    found = _of_sizes(builder, node)
    if found is not None:
        return found
    a, b = pair(builder, node)
    dtype = a.dtype if is_tensor(a) else b.dtype
    if "float" in str(dtype):
        return ops.divide(a, b)
    if "uint" in str(dtype):
        return ops.floor_divide(a, b)
    sign = ops.multiply(ops.sign(a), ops.sign(b))
    return ops.multiply(sign, ops.floor_divide(ops.abs(a), ops.abs(b)))


@rule("Mod", 10, 13, 28)
def mod(builder: Builder, node: Node) -> Any:
    """The remainder, of the divisor's sign, or with fmod of the dividend's."""
    a, b = pair(builder, node)
    if not node.attribute("fmod", 0):
        return ops.mod(a, b)
    return ops.multiply(ops.sign(a), ops.mod(ops.abs(a), ops.abs(b)))


@rule("Pow", 7, 12, 13, 15)
def power(builder: Builder, node: Node) -> Any:
    """a to the b, of a's element type."""
    a, b = pair(builder, node)
    dtype = a.dtype if is_tensor(a) else node.dtype(0)
    if isinstance(b, (int, float)) and b in (2, 0.5):
        return ops.square(a) if b == 2 else ops.sqrt(a)
    if isinstance(b, float) and "int" not in str(dtype):
        return ops.power(a, b)
    if isinstance(b, (int, float)):
        b = np.asarray(b, node.dtype(1))
    other = b.dtype if is_tensor(b) else np.asarray(b).dtype.name
    if other == dtype:
        return ops.power(a, b)
    wide = "float64" if "int" in str(dtype) or "int" in str(other) or "64" in f"{dtype}{other}" else "float32"
    return ops.cast(ops.power(ops.cast(a, wide), ops.cast(b, wide)), dtype)


def _binary(names: str, versions: Sequence[int], function: Callable[[Any, Any], Any]) -> None:
    @rule(names, *versions)
    def binary(builder: Builder, node: Node) -> Any:
        return function(*pair(builder, node))


_binary("And", (7,), ops.logical_and)
_binary("Or", (7,), ops.logical_or)
_binary("Xor", (7,), ops.logical_xor)
_binary("Equal", (7, 11, 13, 19), ops.equal)
_binary("Greater", (7, 9, 13), ops.greater)
_binary("GreaterOrEqual", (12, 16), ops.greater_equal)
_binary("Less", (7, 9, 13), ops.less)
_binary("LessOrEqual", (12, 16), ops.less_equal)


def _variadic(name: str, versions: Sequence[int], function: Callable[[Any, Any], Any]) -> None:
    @rule(name, *versions)
    def variadic(builder: Builder, node: Node) -> Any:
        values = [builder.operand(node, i) for i in range(len(node.inputs))]
        tensors = [v for v in values if is_tensor(v)] or [builder.lifted(values.pop(0))]
        constants = [lone(v, len(tensors[0].shape)) for v in values if not is_tensor(v)]
        total = reduce(function, [*tensors, *constants])
        return ops.divide(total, float(len(node.inputs))) if name == "Mean" else total


_variadic("Max", (8, 12, 13), ops.maximum)
_variadic("Min", (8, 12, 13), ops.minimum)
_variadic("Sum", (8, 13), plus)
_variadic("Mean", (8, 13), plus)


@rule("Where", 9, 16)
def where(builder: Builder, node: Node) -> Any:
    """a where a condition holds, else b."""
    found = [builder.get(node, i) for i in range(3)]
    known = not any(is_tensor(f) for f in found) and not is_sizes(found[0])
    if known and any(is_sizes(f) for f in found):
        return settled(np.where(found[0], np.asarray(found[1], object), np.asarray(found[2], object)))
    condition, a, b = (builder.operand(node, i) for i in range(3))
    if not any(is_tensor(v) for v in (condition, a, b)):
        condition = builder.lifted(condition)
    if not is_tensor(a) and not is_tensor(b):  # two Python numbers would be of Keras's own choice of type
        a = builder.lifted(a)
    rank = max(len(v.shape) for v in (condition, a, b))
    a, b = (v if is_tensor(v) or len(v.shape) == rank else lone(v, rank) for v in (a, b))
    return ops.where(condition, a, b)


# ---------------------------------------------------------------- products


@rule("Dense", 1, domain=LIFTED)
def dense(builder: Builder, node: Node) -> Any:
    """x kernel + bias."""
    x, kernel = builder.tensor(node, 0), builder.get(node, 1)
    bias = builder.get(node, 2)
    if builder.owns(node, 1) and "float" in x.dtype and len(x.shape) > 1:
        own = bias is not None and builder.owns(node, 2)
        weights = [(1, kernel)] + ([(2, bias)] if own else [])
        y = builder.layer(node, layers.Dense, weights, x, units=kernel.shape[1], use_bias=own)
        return y if own or bias is None or not np.any(bias) else ops.add(y, builder.operand(node, 2))
    y = ops.matmul(x, builder.operand(node, 1))
    return y if bias is None else ops.add(y, builder.operand(node, 2))


@rule("MatMul", 1, 9, 13)
def matmul(builder: Builder, node: Node) -> Any:
    """The product of matrices, as NumPy has it."""
    a, b = builder.operand(node, 0), builder.operand(node, 1)
    return ops.matmul(a if is_tensor(a) or is_tensor(b) else builder.lifted(a), b)


@rule("Gemm", 7, 9, 11, 13)
def gemm(builder: Builder, node: Node) -> Any:
    """alpha A B + beta C."""
    a, b, c = builder.tensor(node, 0), builder.tensor(node, 1), builder.operand(node, 2)
    a = ops.transpose(a) if node.attribute("transA", 0) else a
    b = ops.transpose(b) if node.attribute("transB", 0) else b
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    y = ops.matmul(a, b)
    y = y if alpha == 1 else ops.multiply(y, alpha)
    if c is None:
        return y
    return plus(y, c if beta == 1 else ops.multiply(c, beta))


@rule("Einsum", 12, 28)
def einsum(builder: Builder, node: Node) -> Any:
    """Einstein's sum."""
    operands = [builder.tensor(node, i) for i in range(len(node.inputs))]
    equation = str(node.attribute("equation")).replace(" ", "")
    # Keras knows small letters alone.
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    small = str.maketrans(dict(zip(letters, string.ascii_lowercase, strict=False)))
    if len(letters) > len(string.ascii_lowercase):
        raise Unsupported(node, f"an equation of {len(letters)} letters")
    return ops.einsum(equation.translate(small), *operands)
