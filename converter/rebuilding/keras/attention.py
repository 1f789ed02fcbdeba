"""Attention and rotary positions, by ONNX's definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.builder import Builder, is_tensor
from converter.rebuilding.keras.operands import plus
from converter.rebuilding.keras.rules import rule

__all__: list[str] = []


def _heads(node: Node, x: Any, count: int) -> Any:
    """[batch, length, heads · size] as [batch, heads, length, size]."""
    if len(x.shape) == 4:
        return x
    if x.shape[1] is None and x.shape[0] is None:
        raise Unsupported(node, "batch and length are both unknown")
    size = int(x.shape[2]) // count
    lead = [-1 if n is None else n for n in x.shape[:2]]
    return ops.transpose(ops.reshape(x, [*lead, count, size]), (0, 2, 1, 3))


def _repeated(x: Any, heads: int) -> Any:
    """Key or value heads, each for several query heads."""
    return x if x.shape[1] == heads else ops.repeat(x, heads // int(x.shape[1]), axis=1)


@rule("Attention", 23, 24, 25)
def attention(builder: Builder, node: Node) -> Any:
    """softmax(scale Q Kᵀ + bias) V, with cached keys and values and soft caps."""
    queries, keys, values = (builder.tensor(node, i) for i in range(3))
    flat = len(queries.shape) == 3
    q_heads, kv_heads = (
        int(node.attribute("q_num_heads", 0) or 0),
        int(node.attribute("kv_num_heads", 0) or 0),
    )
    q, k, v = (_heads(node, x, n) for x, n in ((queries, q_heads), (keys, kv_heads), (values, kv_heads)))
    past = 0
    if node.has(4):
        old = builder.tensor(node, 4)
        past = int(old.shape[2])
        k = ops.concatenate([old, k], axis=2)
        v = ops.concatenate([builder.tensor(node, 5), v], axis=2)
    present = (k, v)
    heads = int(q.shape[1])
    scale = float(node.attribute("scale", None) or 1 / math.sqrt(int(q.shape[-1])))
    root, dtype = math.sqrt(scale), q.dtype
    k, v = _repeated(k, heads), _repeated(v, heads)
    raw = ops.matmul(ops.multiply(q, root), ops.transpose(ops.multiply(k, root), (0, 1, 3, 2)))
    cap = float(node.attribute("softcap", 0.0) or 0.0)
    capped = ops.multiply(ops.tanh(ops.divide(raw, cap)), cap) if cap else raw
    biased = _masked(builder, node, capped, past, dtype)
    soft = _softmax(biased)
    y = ops.matmul(soft, v)
    if flat:
        y = ops.transpose(y, (0, 2, 1, 3))
        lead = [-1 if n is None else n for n in y.shape[:2]]
        y = ops.reshape(y, [*lead, int(y.shape[2]) * int(y.shape[3])])
    debug = (raw, capped, biased, soft)[int(node.attribute("qk_matmul_output_mode", 0))]
    return (y, *present, debug)[: len(node.outputs)] if len(node.outputs) > 1 else y


def _softmax(x: Any) -> Any:
    """Softmax over keys; a query that may look at none gets zeros."""
    masked = ops.equal(ops.max(x, axis=-1, keepdims=True), float("-inf"))
    safe = ops.where(masked, ops.zeros_like(x), x)
    soft = ops.softmax(safe, axis=-1)
    return ops.where(masked, ops.zeros_like(soft), soft)


def _masked(builder: Builder, node: Node, scores: Any, past: int, dtype: str) -> Any:
    """Scores with a mask added, and minus infinity where a query may not look."""
    rows, columns = scores.shape[-2], scores.shape[-1]
    if node.has(3):
        mask = builder.operand(node, 3)
        bias = _as_bias(mask, dtype)
        short = (columns or 0) - int(mask.shape[-1] or 0)
        if short > 0:
            pads = [(0, 0)] * (len(bias.shape) - 1) + [(0, short)]
            bias = ops.pad(bias, pads, constant_values=float("-inf"))
        scores = plus(scores, bias)
    lengths = builder.tensor(node, 6) if node.has(6) else None
    left, right = (int(node.attribute(f"{side}_window_size", -1)) for side in ("left", "right"))
    if node.attribute("is_causal", 0):
        right = 0
    if left >= 0 or right >= 0:
        if rows is None or columns is None:
            raise Unsupported(node, "a causal mask or a window for unknown lengths")
        line = np.arange(int(columns), dtype=np.int64)[None, :]
        place: Any = np.arange(int(rows), dtype=np.int64)[:, None] + past
        if lengths is not None and not node.has(4):
            start = ops.reshape(ops.subtract(ops.cast(lengths, "int64"), int(rows)), [-1, 1, 1, 1])
            place = ops.add(start, place)
        for bound, sign in ((right, 1), (left, -1)):
            if bound >= 0:
                end = place + sign * bound
                seen = end >= line if sign > 0 else end <= line
                scores = ops.where(seen, scores, ops.full_like(scores, float("-inf")))
    if lengths is not None:
        line = np.arange(int(columns or 0), dtype=np.int64)
        seen = ops.less(line, ops.reshape(ops.cast(lengths, "int64"), [-1, 1, 1, 1]))
        scores = ops.where(seen, scores, ops.full_like(scores, float("-inf")))
    return scores


def _as_bias(mask: Any, dtype: str) -> Any:
    if str(mask.dtype) != "bool":
        return ops.cast(mask, dtype) if is_tensor(mask) else mask.astype(dtype)
    if not is_tensor(mask):
        return np.where(mask, 0, -np.inf).astype(dtype)
    none = ops.zeros_like(mask, dtype=dtype)
    return ops.where(mask, none, ops.full_like(none, float("-inf")))


@rule("RotaryEmbedding", 23)
def rotary_embedding(builder: Builder, node: Node) -> Any:
    """Pairs of features turned by angles that grow with the position."""
    given = builder.tensor(node, 0)
    flat = len(given.shape) == 3
    x = given
    if flat:
        count = int(node.attribute("num_heads", 0))
        lead = [-1 if n is None else n for n in given.shape[:2]]
        x = ops.reshape(given, [*lead, count, int(given.shape[2]) // count])
    else:
        x = ops.transpose(given, (0, 2, 1, 3))
    size = int(x.shape[-1])
    turned = int(node.attribute("rotary_embedding_dim", 0)) or size
    cos, sin = builder.operand(node, 1), builder.operand(node, 2)
    if node.has(3):
        places = builder.operand(node, 3)
        cos, sin = ops.take(cos, places, axis=0), ops.take(sin, places, axis=0)
    cos, sin = (ops.expand_dims(t, 2) for t in (cos, sin))
    part, rest = x[..., :turned], x[..., turned:]
    if node.attribute("interleaved", 0):
        a, b = part[..., 0::2], part[..., 1::2]
    else:
        a, b = part[..., : turned // 2], part[..., turned // 2 :]
    real = ops.subtract(ops.multiply(cos, a), ops.multiply(sin, b))
    imaginary = ops.add(ops.multiply(sin, a), ops.multiply(cos, b))
    if node.attribute("interleaved", 0):
        stacked = ops.stack([real, imaginary], axis=-1)
        y = ops.reshape(stacked, [*[-1 if n is None else n for n in stacked.shape[:-2]], turned])
    else:
        y = ops.concatenate([real, imaginary], axis=-1)
    y = ops.concatenate([y, rest], axis=-1) if turned < size else y
    if flat:
        return ops.reshape(y, [-1 if n is None else n for n in given.shape])
    return ops.transpose(y, (0, 2, 1, 3))
