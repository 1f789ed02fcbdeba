"""Rules for what is computed element by element."""

from __future__ import annotations

from collections.abc import Callable

from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import atom, call, dtype, literal

__all__: list[str] = []

# Operator → its versions, and PyTorch's expression for it.
_UNARY: dict[str, tuple[tuple[int, ...], str]] = {
    "Abs": ((1, 6, 13), "torch.abs({})"),
    "Acos": ((7, 22), "torch.acos({})"),
    "Acosh": ((9, 22), "torch.acosh({})"),
    "Asin": ((7, 22), "torch.asin({})"),
    "Asinh": ((9, 22), "torch.asinh({})"),
    "Atan": ((7, 22), "torch.atan({})"),
    "Atanh": ((9, 22), "torch.atanh({})"),
    "Ceil": ((1, 6, 13), "torch.ceil({})"),
    "Cos": ((7, 22), "torch.cos({})"),
    "Cosh": ((9, 22), "torch.cosh({})"),
    "Erf": ((9, 13), "torch.erf({})"),
    "Exp": ((1, 6, 13), "torch.exp({})"),
    "Floor": ((1, 6, 13), "torch.floor({})"),
    "HardSwish": ((14, 22), "F.hardswish({})"),
    "Identity": ((1, 13, 14, 16, 19, 21, 23, 24, 25), "{}"),
    "IsNaN": ((9, 13, 20), "torch.isnan({})"),
    "Log": ((1, 6, 13), "torch.log({})"),
    "Mish": ((18, 22), "F.mish({})"),
    "Neg": ((1, 6, 13), "torch.neg({})"),
    "Not": ((1,), "torch.logical_not({})"),
    "Reciprocal": ((1, 6, 13), "torch.reciprocal({})"),
    "Relu": ((1, 6, 13, 14), "F.relu({})"),
    "Round": ((11, 22), "torch.round({})"),
    "Sigmoid": ((1, 6, 13), "torch.sigmoid({})"),
    "Sign": ((9, 13), "torch.sign({})"),
    "Sin": ((7, 22), "torch.sin({})"),
    "Sinh": ((9, 22), "torch.sinh({})"),
    "Softplus": ((1, 22), "F.softplus({})"),
    "Softsign": ((1, 22), "F.softsign({})"),
    "Sqrt": ((1, 6, 13), "torch.sqrt({})"),
    "Tan": ((7, 22), "torch.tan({})"),
    "Tanh": ((1, 6, 13), "torch.tanh({})"),
}


def _unary(template: str) -> Callable[[Step], Result]:
    return lambda step: template.format(step.arg(0))


for _op, (_versions, _template) in _UNARY.items():
    table(_op, *_versions)(_unary(_template))

# Operator → its versions that broadcast as NumPy does, and the symbol.
_BINARY: dict[str, tuple[tuple[int, ...], str]] = {
    "Add": ((7, 13, 14), "+"),
    "Sub": ((7, 13, 14), "-"),
    "Mul": ((7, 13, 14), "*"),
    "And": ((7,), "&"),
    "Or": ((7,), "|"),
    "Xor": ((7,), "^"),
    "Equal": ((7, 11, 13, 19), "=="),
    "Greater": ((7, 9, 13), ">"),
    "Less": ((7, 9, 13), "<"),
    "GreaterOrEqual": ((12, 16), ">="),
    "LessOrEqual": ((12, 16), "<="),
}
# The versions in which the second operand is broadcast along `axis`, and only where `broadcast` says so.
_OLD_BINARY: dict[str, tuple[tuple[int, ...], str]] = {
    "Add": ((1, 6), "+"),
    "Sub": ((1, 6), "-"),
    "Mul": ((1, 6), "*"),
    "Div": ((1, 6), "/"),
    "Pow": ((1,), "**"),
}


def _operands(step: Step) -> tuple[str, str]:
    ranks = [None if (shape := step.node.shape(i)) is None else len(shape) for i in (0, 1)]
    first, second = (step.operand(i, ranks[1 - i]) for i in (0, 1))
    if _is_number(first) and _is_number(second):
        second = step.atom(1)
    return first, second


def _is_number(text: str) -> bool:
    try:
        float(text.strip("()"))
    except ValueError:
        return text.strip("()-") in ("math.inf", "math.nan")
    return True


def _binary(symbol: str) -> Callable[[Step], Result]:
    def rule(step: Step) -> Result:
        first, second = _operands(step)
        return f"{first} {symbol} {second}"

    return rule


for _op, (_versions, _symbol) in _BINARY.items():
    table(_op, *_versions)(_binary(_symbol))


def _along_axis(symbol: str) -> Callable[[Step], Result]:
    def rule(step: Step) -> Result:
        axis, rank = step.attribute("axis"), step.rank
        other = step.node.rank(1)
        trailing = 0 if axis is None or not step.attribute("broadcast", 0) else rank - axis % rank - other
        second = step.atom(1)
        if trailing > 0:
            sizes = [str(step.size(1, place)) for place in range(other)]
            second = f"{second}.reshape({', '.join([*sizes, *['1'] * trailing])})"
        return f"{step.atom(0)} {symbol} {second}"

    return rule


for _op, (_versions, _symbol) in _OLD_BINARY.items():
    table(_op, *_versions)(_along_axis(_symbol))


@table("Div", 7, 13, 14)
def div(step: Step) -> Result:
    first, second = _operands(step)
    if (step.node.dtype(0) or "float32").startswith(("int", "uint")):
        return f'torch.div({first}, {second}, rounding_mode="trunc")'
    return f"{first} / {second}"


@table("Pow", 7, 12, 13, 15)
def power(step: Step) -> Result:
    base, exponent = _operands(step)
    kinds = [step.node.dtype(i) for i in (0, 1)]
    if kinds[0] is not None and kinds[0] != kinds[1]:
        text = f"torch.pow({base}, {exponent})"
        return f"{text}.to({dtype(kinds[0])})"
    return f"{atom(base)} ** {exponent}"


@table("Mod", 10, 13, 28)
def mod(step: Step) -> Result:
    first, second = _operands(step)
    if _is_number(first):
        first = step.atom(0)
    return call("torch.fmod" if step.attribute("fmod", 0) else "torch.remainder", first, second)


@table("Sum", 1, 6, 8, 13)
def total(step: Step) -> Result:
    return " + ".join(step.atom(i) for i in range(len(step.values)))


@table("Mean", 1, 6, 8, 13)
def mean(step: Step) -> Result:
    count = len(step.values)
    text = " + ".join(step.atom(i) for i in range(count))
    return f"({text}) / {count}"


def _extreme(step: Step, function: str, limit: str) -> Result:
    number = step.scalar(1) if len(step.values) == 2 else None
    if number is not None and (step.node.shape(1) or ()) == ():
        return call("torch.clamp", step.arg(0), **{limit: number})
    text = step.arg(0)
    for index in range(1, len(step.values)):
        text = f"{function}({text}, {step.arg(index)})"
    return text


@table("Max", 1, 6, 8, 12, 13)
def maximum(step: Step) -> Result:
    return _extreme(step, "torch.maximum", "min")


@table("Min", 1, 6, 8, 12, 13)
def minimum(step: Step) -> Result:
    return _extreme(step, "torch.minimum", "max")


@table("Where", 9, 16)
def where(step: Step) -> Result:
    first, second = step.operand(1), step.operand(2)
    if _is_number(first) and _is_number(second) and step.node.dtype(1) != "float32":
        first = step.arg(1)  # two numbers would become float32
    return call("torch.where", step.arg(0), first, second)


@table("Clip", 11, 12, 13)
def clip(step: Step) -> Result:
    low, high = (step.scalar(i) if step.has(i) else None for i in (1, 2))
    if any(step.has(i) and bound is None for i, bound in ((1, low), (2, high))):
        low, high = (step.arg(i) if step.has(i) else None for i in (1, 2))
        text = step.arg(0)
        text = text if low is None else f"torch.maximum({text}, {low})"
        return text if high is None else f"torch.minimum({text}, {high})"
    return _clamped(step, low, high)


@table("Clip", 1, 6)
def clip_by_attributes(step: Step) -> Result:
    given = step.node.raw.attributes
    low, high = (step.real(name) if name in given else None for name in ("min", "max"))
    return _clamped(step, low, high)


def _clamped(step: Step, low: str | None, high: str | None) -> str:
    text = step.arg(0)
    if low is None and high is None:
        return text
    if low == "0.0" and high == "6.0":
        return f"F.relu6({text})"
    return call("torch.clamp", text, low, high) if low else call("torch.clamp", text, max=high)


@table("LeakyRelu", 1, 6, 16)
def leaky_relu(step: Step) -> Result:
    return call("F.leaky_relu", step.arg(0), step.real("alpha"))


@table("Elu", 1, 6, 22)
def elu(step: Step) -> Result:
    return call("F.elu", step.arg(0), step.real("alpha"))


@table("Celu", 12, 28)
def celu(step: Step) -> Result:
    return call("F.celu", step.arg(0), step.real("alpha"))


@table("Selu", 1, 6, 22)
def selu(step: Step) -> Result:
    alpha, gamma = step.attribute("alpha"), step.attribute("gamma")
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return f"F.selu({step.arg(0)})"
    # ELU with its own scale is what SELU is.
    return f"{step.real('gamma')} * F.elu({step.arg(0)}, {step.real('alpha')})"


@table("ThresholdedRelu", 10, 22)
def thresholded_relu(step: Step) -> Result:
    return call("F.threshold", step.arg(0), step.real("alpha"), "0.0")


@table("HardSigmoid", 1, 6, 22)
def hard_sigmoid(step: Step) -> Result:
    alpha, beta = step.attribute("alpha"), step.attribute("beta")
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return f"F.hardsigmoid({step.arg(0)})"
    return f"torch.clamp({step.real('alpha')} * {step.atom(0)} + {step.real('beta')}, 0, 1)"


@table("Gelu", 20)
def gelu(step: Step) -> Result:
    kind = step.attribute("approximate", "none")
    return call("F.gelu", step.arg(0), approximate=None if kind == "none" else f'"{kind}"')


@table("Swish", 24)
def swish(step: Step) -> Result:
    alpha = step.attribute("alpha", 1.0)
    if alpha == 1:
        return f"F.silu({step.arg(0)})"
    x = step.name(0)
    return f"{x} * torch.sigmoid({step.real('alpha')} * {x})"


@table("SwiGLU", 28)
def swiglu(step: Step) -> Result:
    if step.attribute("alpha", 1.0) == 1:
        return f"F.silu({step.arg(0)}) * {step.atom(1)}"
    x = step.name(0)
    return f"{x} * torch.sigmoid({step.real('alpha')} * {x}) * {step.atom(1)}"


@table("Shrink", 9)
def shrink(step: Step) -> Result:
    return call(step.helper("shrink"), step.arg(0), step.real("lambd"), step.real("bias"))


@table("IsInf", 10, 20)
def is_inf(step: Step) -> Result:
    positive, negative = step.attribute("detect_positive", 1), step.attribute("detect_negative", 1)
    if positive and negative:
        return f"torch.isinf({step.arg(0)})"
    if not positive and not negative:
        return f"torch.zeros_like({step.arg(0)}, dtype=torch.bool)"
    return f"torch.is{'pos' if positive else 'neg'}inf({step.arg(0)})"


_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip


@table("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28)
def cast(step: Step) -> Result:
    return f"{step.atom(0)}.to({dtype(_type(step, step.attribute('to')))})"


def _type(step: Step, number: int) -> str:
    if int(number) not in _TYPES:
        raise step.refuse(f"PyTorch has no use for the element type {number}")
    return _TYPES[int(number)]


@table("CastLike", 15, 19, 21, 23, 24, 25)
def cast_like(step: Step) -> Result:
    kind = step.node.dtype(1)
    return f"{step.atom(0)}.to({dtype(kind) if kind else step.name(1) + '.dtype'})"


@table("Dropout", 1, 6)
def dropout_old(step: Step) -> Result:
    return _dropped(step)


@table("Dropout", 7, 10, 12, 13, 22)
def dropout(step: Step) -> Result:
    training = step.scalar(2) if step.has(2) else "False"
    ratio = step.scalar(1) if step.has(1) else None
    if training != "False" and ratio not in ("0.0", "0"):
        raise step.refuse("it drops at random: training mode")
    return _dropped(step)


def _dropped(step: Step) -> Result:
    if not step.used(1):
        return step.arg(0)
    x = step.name(0)
    kind = "torch.bool" if step.node.since >= 10 else f"{x}.dtype"
    return [x, f"torch.ones_like({x}, dtype={kind})"]


@table("PRelu", 7, 9, 16)
def prelu(step: Step) -> Result:
    slope, shape = step.array(1), step.node.shape(0)
    if slope is not None and shape is not None and step.free(1):
        channels = shape[1] if len(shape) > 1 else 1
        per_channel = slope.ndim == len(shape) - 1 and slope.shape == (channels, *[1] * (slope.ndim - 1))
        if per_channel and (len(shape) > 2 or slope.ndim == 1):
            made = call("nn.PReLU", slope.size)
            layer = step.layer(made, {"weight": (1, slope.reshape(-1))})
            if layer is not None:
                return f"{layer}({step.arg(0)})"
    x = step.name(0)
    return f"torch.where({x} < 0, {step.atom(1)} * {x}, {x})"


@table("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def constant(step: Step) -> Result:
    attributes = step.node.raw.attributes
    name = next(iter(attributes))
    value = step.attribute(name)
    if name == "value":
        items = literal(value) if value.ndim == 0 else str(value.tolist())
        return f"torch.tensor({items}, dtype={dtype(value.dtype.name)}{_on(step)})"
    if name in ("value_float", "value_int", "value_floats", "value_ints"):
        kind = "torch.float32" if "float" in name else "torch.int64"
        items = str(value if isinstance(value, (int, float)) else list(value))
        return f"torch.tensor({items}, dtype={kind}{_on(step)})"
    raise step.refuse(f"a constant given as {name}")


def _on(step: Step) -> str:
    device = step.writer.device()
    return f", device={device}" if device else ""
