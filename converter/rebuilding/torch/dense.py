"""Rules for dense layers, products of matrices, embeddings."""

from __future__ import annotations

import re

from converter.model import LIFTED
from converter.rebuilding.torch.step import Result, Step, table
from converter.rebuilding.torch.text import call, literal

__all__: list[str] = []

# A weight beside layers, as nn.MultiheadAttention has one for queries, keys and values: no layer's `weight`.
_PACKED = re.compile(r"\.\w*proj_weight$")


@table("Dense", domain=LIFTED)
def dense(step: Step) -> Result:
    kernel, bias = step.array(1), step.array(2)
    if kernel is None:
        raise step.refuse("its kernel is computed")
    inputs, units = kernel.shape
    if _PACKED.search(step.node.weight(1) or ""):
        weight = step.tensor(1, kernel.T, turned=True)
        bias_text = step.arg(2) if step.has(2) else None
        return call("F.linear", step.arg(0), weight, bias_text)
    if step.free(1, 2):
        kind = {} if kernel.dtype.name == "float32" else {"dtype": f"torch.{kernel.dtype.name}"}
        made = call("nn.Linear", inputs, units, bias=None if bias is not None else False, **kind)
        tensors = {"weight": (1, kernel.T)} | ({"bias": (2, bias)} if bias is not None else {})
        layer = step.layer(made, tensors, ("weight",))
        if layer is not None:
            return f"{layer}({step.arg(0)})"
    text = f"{step.atom(0)} @ {step.atom(1)}"
    return f"{text} + {step.atom(2)}" if step.has(2) else text


@table("MatMul", 1, 9, 13)
def matmul(step: Step) -> Result:
    return f"{step.atom(0)} @ {step.atom(1)}"


@table("Gemm", 1, 6, 7, 9, 11, 13)
def gemm(step: Step) -> Result:
    first, second = (
        step.atom(i) + (".T" if step.attribute(name, 0) else "") for i, name in ((0, "transA"), (1, "transB"))
    )
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    text = f"{first} @ {second}"
    if alpha != 1:
        text = f"{step.real('alpha')} * ({text})"
    if not step.has(2):
        return text
    added = step.atom(2)
    return f"{text} + {added}" if beta == 1 else f"{text} + {literal(beta)} * {added}"


@table("Einsum", 12, 28)
def einsum(step: Step) -> Result:
    equation = step.attribute("equation").replace(" ", "")
    return call("torch.einsum", f'"{equation}"', *(step.arg(i) for i in range(len(step.values))))


@table("Det", 11, 22)
def det(step: Step) -> Result:
    return f"torch.linalg.det({step.arg(0)})"
