"""Recurrent layers: LSTM, GRU and SimpleRNN with ONNX's default activations, one way or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from converter.model import Array
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.rules import rule

__all__: list[str] = []

# The order of the gates: ONNX's places in Keras's order.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (0, 1, 2), "RNN": (0,)}
_LAYER = {"LSTM": layers.LSTM, "GRU": layers.GRU, "RNN": layers.SimpleRNN}
_DEFAULT = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


@rule("LSTM GRU RNN", 1, 7, 14, 22)
def recurrent(builder: Builder, node: Node) -> Any:
    """A recurrent layer; ONNX has the sequence first unless `layout` is 1."""
    _expect_plain(builder, node)
    x = builder.tensor(node, 0)
    first = bool(node.attribute("layout", 0))
    x = x if first else ops.transpose(x, (1, 0, 2))
    way = str(node.attribute("direction", "forward"))
    count = 2 if way == "bidirectional" else 1
    outs, hidden, cells = [], [], []
    for direction in range(count):
        backwards = way == "reverse" or direction == 1
        y, h, c = _one_way(builder, node, x, direction, backwards, first)
        outs.append(y)
        hidden.append(h)
        cells.append(c)
    # [batch, length, directions, units] is what ONNX has as [length, directions, batch, units].
    whole = ops.stack(outs, axis=2)
    whole = whole if first else ops.transpose(whole, (1, 2, 0, 3))
    ends = [ops.stack(part, axis=1 if first else 0) for part in (hidden, cells) if part[0] is not None]
    return (whole, *ends)[: max(len(node.outputs), 1)]


def _expect_plain(builder: Builder, node: Node) -> None:
    if node.has(4) and not _whole_length(builder, node):
        raise Unsupported(node, "sequences of different lengths")
    if node.op == "LSTM" and node.has(7):
        raise Unsupported(node, "peepholes")
    named = [str(name).lower() for name in node.attribute("activations", None) or []]
    if named and named != _DEFAULT[node.op] * (len(named) // len(_DEFAULT[node.op])):
        raise Unsupported(node, f"activations {named}")
    if node.attribute("clip", None) is not None or node.attribute("input_forget", 0):
        raise Unsupported(node, "clipped or coupled gates")
    if is_tensor(builder.get(node, 1)) or is_tensor(builder.get(node, 2)) or is_tensor(builder.get(node, 3)):
        raise Unsupported(node, "its weights are computed, expected constants")


def _whole_length(builder: Builder, node: Node) -> bool:
    lengths, x = builder.get(node, 4), builder.get(node, 0)
    time = x.shape[1 if node.attribute("layout", 0) else 0]
    return not is_tensor(lengths) and lengths.dtype != object and bool(np.all(lengths == time))


def _turned(array: Array, gates: Sequence[int]) -> Array:
    """[gates · units, n] as [n, gates · units] with the gates in Keras's order."""
    parts = np.split(array, len(gates))
    return np.ascontiguousarray(np.concatenate([parts[gate] for gate in gates]).T)


def _one_way(
    builder: Builder, node: Node, x: Any, direction: int, backwards: bool, first: bool
) -> tuple[Any, Any, Any]:
    """(outputs [batch, length, units], last hidden state, last cell state)."""
    gates, units = _GATES[node.op], int(node.attribute("hidden_size"))
    kernel = _turned(builder.get(node, 1)[direction], gates)
    inner = _turned(builder.get(node, 2)[direction], gates)
    config = {"units": units, "return_sequences": True, "return_state": True, "go_backwards": backwards}
    weights = [(1, kernel), (2, inner)]
    bias = builder.get(node, 3)
    if bias is not None:
        mine, other = np.split(bias[direction], 2)
        pair = [_turned(part[:, None], gates)[0] for part in (mine, other)]
        split = node.op == "GRU"
        weights.append((3, np.stack(pair) if split else pair[0] + pair[1]))
    if node.op == "GRU":
        after = bool(node.attribute("linear_before_reset", 0))
        if not after and bias is not None:
            weights[2] = (3, weights[2][1][0] + weights[2][1][1])
        config["reset_after"] = after
    states = [builder.operand(node, i) for i in ((5, 6) if node.op == "LSTM" else (5,)) if node.has(i)]
    states = [s if is_tensor(s) else builder.lifted(s) for s in states]
    states = [ops.take(s, direction, axis=1 if first else 0) for s in states]
    inputs = [x, *states] if states else [x]
    name = builder.names.layer(node, 1, 2)
    layer = _LAYER[node.op](name=name, dtype=x.dtype, use_bias=bias is not None, **config)
    y, h, *c = layer(inputs[0], initial_state=states) if states else layer(x)
    for variable, (_, array) in zip(layer.weights, weights, strict=True):
        variable.assign(array)
    read = [node.weight(i) for i in (1, 2, 3)]
    layer.trainable = any(w is not None and w not in builder.plain.frozen for w in read)
    return ops.flip(y, axis=1) if backwards else y, h, c[0] if c else None
