"""Rules for recurrent layers."""

from __future__ import annotations

import numpy as np

from converter.model import Array
from converter.rebuilding.torch.step import Many, Result, Step, table
from converter.rebuilding.torch.text import call

__all__: list[str] = []

# ONNX's order of gates → PyTorch's: iofc → ifco, zrh → rzh.
_ORDER = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2], "RNN": [0]}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@table("LSTM GRU RNN", 7, 14, 22)
def recurrent(step: Step) -> Result:
    layer = _as_layer(step)
    op = step.node.op
    count = len(step.node.outputs)
    first = 6 if op == "LSTM" else 5
    given = [step.optional(i) or "None" for i in (5, *([6] if op == "LSTM" else []))]
    options = {
        "direction": f'"{step.attribute("direction", "forward")}"',
        "batch_first": "True" if step.attribute("layout", 0) else None,
        "lengths": step.optional(4),
    }
    if layer is not None:
        name = step.helper(f"run_{op.lower()}")
        text = call(name, layer, step.arg(0), *given, **options)
    else:
        del first
        activations = step.node.attribute("activations") or _USUAL[op] * _directions(step)
        text = call(
            step.helper(op.lower()),
            step.arg(0),
            *(step.arg(i) for i in (1, 2)),
            step.optional(3) or "None",
            *given,
            activations=[_activation(step, word, n) for n, word in enumerate(activations)],
            clip=None if not step.node.attribute("clip") else step.real("clip"),
            **options,
            **_own(step),
        )
        text = text.replace("'", "")
    return Many(text if count == (3 if op == "LSTM" else 2) else f"{text}[:{count}]")


def _own(step: Step) -> dict[str, str | None]:
    """What only one of the operators has."""
    if step.node.op == "LSTM":
        if step.attribute("input_forget", 0):
            raise step.refuse("coupled input and forget gates")
        return {"peepholes": step.optional(7)}
    if step.node.op == "GRU":
        return {"reset_after": "True" if step.attribute("linear_before_reset", 0) else None}
    return {}


_FUNCTIONS = {
    "sigmoid": "torch.sigmoid", "tanh": "torch.tanh", "relu": "torch.relu", "softsign": "F.softsign",
    "softplus": "F.softplus",
}  # fmt: skip


def _activation(step: Step, word: str, number: int) -> str:
    del number
    found = _FUNCTIONS.get(word.lower())
    if found is None or step.node.attribute("activation_alpha") or step.node.attribute("activation_beta"):
        raise step.refuse(f"the activation {word} with parameters")
    return found


def _directions(step: Step) -> int:
    return 2 if step.attribute("direction", "forward") == "bidirectional" else 1


def _as_layer(step: Step) -> str | None:
    """An nn.LSTM, nn.GRU or nn.RNN with these weights, where PyTorch's means the same."""
    op, directions = step.node.op, _directions(step)
    kernel, recurrent_, bias = (step.array(i) for i in (1, 2, 3))
    words = [w.lower() for w in step.node.attribute("activations") or _USUAL[op] * directions]
    usual = [w.lower() for w in _USUAL[op]] * directions
    words = words[: len(_USUAL[op]) * directions]  # RNN's declared default is for two directions
    kind = None
    if op == "RNN" and words == ["relu"] * directions:
        kind, usual = '"relu"', words
    fits = words == usual and not step.node.attribute("clip") and not step.attribute("input_forget", 0)
    if op == "GRU" and not step.attribute("linear_before_reset", 0):
        return None
    if kernel is None or recurrent_ is None or not fits or not step.free(1, 2, 3) or step.has(7):
        return None
    if step.has(3) and bias is None:
        return None
    tensors: dict[str, tuple[int, Array]] = {}
    gates, hidden = len(_ORDER[op]), recurrent_.shape[-1]
    for place, suffix in enumerate(["", "_reverse"][:directions]):
        tensors[f"weight_ih_l0{suffix}"] = 1, _ordered(kernel[place], op, hidden)
        tensors[f"weight_hh_l0{suffix}"] = 2, _ordered(recurrent_[place], op, hidden)
        if bias is not None:
            parts = np.split(bias[place], [gates * hidden])
            for name, part in zip(("ih", "hh"), parts, strict=True):
                tensors[f"bias_{name}_l0{suffix}"] = 3, _ordered(part, op, hidden)
    weights = [step.node.weight(i) for i in (1, 2, 3) if step.has(i)]
    if None in weights:
        return None  # a constant of nn.LSTM cannot be told from a weight
    made = call(
        f"nn.{op}",
        kernel.shape[-1],
        hidden,
        nonlinearity=kind,
        bias=None if bias is not None else False,
        batch_first="True" if step.attribute("layout", 0) else None,
        bidirectional="True" if directions == 2 else None,
    )
    return step.layer(made, tensors)


def _ordered(array: Array, op: str, hidden: int) -> Array:
    blocks = array.reshape(-1, hidden, *array.shape[1:])
    return np.ascontiguousarray(blocks[_ORDER[op]].reshape(array.shape))
