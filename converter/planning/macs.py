"""Multiply-accumulate operations of a node, from the shapes of what it reads and writes.

Counted as the field does: convolutions, matrix products and recurrent layers; additions, activations and
normalisations are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx

from converter.planning.shapes import Shapes

__all__ = ["COUNTED", "COUNTED_BY_MICROSOFT", "macs_of"]

# Domains whose operators are counted; local functions and custom operators may hide any work.
_KNOWN = frozenset(("", "ai.onnx", "ai.onnx.ml"))
_MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
Rule = Callable[[onnx.NodeProto, Shapes], int]


def macs_of(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """The MACs of a node, inner graphs included; None where a shape or the operator is not known."""
    rule = (COUNTED_BY_MICROSOFT if node.domain == _MICROSOFT else COUNTED).get(node.op_type)
    known = node.domain in _KNOWN or (node.domain == _MICROSOFT and node.op_type in _FREE)
    if rule is None and not known:
        return None
    total, times = 0, 1
    try:
        if rule is not None:
            total = rule(node, shapes)
        if node.op_type == "Scan":  # its body runs as long as its sequence is; others are counted once
            times = shapes.sizes[node.input[-1]][0]
    except KeyError:
        return None
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = [macs_of(part, shapes) for part in graph.node]
            if None in inner:
                return None
            total += sum(count or 0 for count in inner) * times
    return total


def _attributes(node: onnx.NodeProto) -> Mapping[str, onnx.AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each output element sums over the kernel, whose axis 1 is channels a group."""
    kernel = shapes.sizes[node.input[3 if node.op_type == "QLinearConv" else 1]]
    return math.prod(shapes.sizes[node.output[0]]) * math.prod(kernel[1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each input element is spread over the kernel."""
    return math.prod(shapes.sizes[node.input[0]]) * math.prod(shapes.sizes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each output element sums over the inner axis, the last of the first factor."""
    transposed = "transA" in _attributes(node) and _attributes(node)["transA"].i
    return math.prod(shapes.sizes[node.output[0]]) * shapes.sizes[node.input[0]][-2 if transposed else -1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = "transA" in _attributes(node) and _attributes(node)["transA"].i
    return math.prod(shapes.sizes[node.output[0]]) * shapes.sizes[node.input[0]][0 if transposed else 1]


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every combination of indices, once for each product."""
    if len(node.input) < 2:
        return 0
    equation = _attributes(node)["equation"].s.decode().replace(" ", "")
    sizes: dict[str, int] = {}
    for term, name in zip(equation.partition("->")[0].split(","), node.input, strict=True):
        shape = list(shapes.sizes[name])
        before, dots, after = term.partition("...")
        sizes |= dict(zip(before, shape, strict=False))
        if after:
            sizes |= dict(zip(after, shape[-len(after) :], strict=True))
        if dots:
            free = shape[len(before) : len(shape) - len(after)]
            sizes["..."] = max(sizes.get("...", 1), math.prod(free))
    return math.prod(sizes.values()) * (len(node.input) - 1)


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """A step multiplies with input and recurrent kernels, of (directions, gates * hidden, size)."""
    length, batch = shapes.sizes[node.input[0]][:2]
    layout = _attributes(node).get("layout")
    if layout is not None and layout.i:
        length, batch = batch, length
    return length * batch * sum(math.prod(shapes.sizes[name]) for name in node.input[1:3])


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Scores and their product with the values, for queries of (batch, heads, length, size)."""
    query, key, value = (shapes.sizes[name] for name in node.input[:3])
    if len(query) == 4:
        return math.prod(query) * key[-2] + math.prod(query[:3]) * value[-2] * value[-1]
    heads = _attributes(node)["kv_num_heads"].i
    groups = _attributes(node)["q_num_heads"].i // heads
    return math.prod(query) * key[-2] + math.prod(query[:2]) * value[-2] * value[-1] * groups


def _packed_product(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Weights of a few bits lie packed in blocks: attributes say what the product's sizes are."""
    attributes = _attributes(node)
    return math.prod(shapes.sizes[node.input[0]][:-1]) * attributes["K"].i * attributes["N"].i


COUNTED: dict[str, Rule] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "DeformConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Attention": _attention,
}

# ONNX Runtime's operators (docs/ContribOperators.md in its repository). Its Attention is another operator
# than ONNX's, and not counted.
COUNTED_BY_MICROSOFT: dict[str, Rule] = {
    "FusedConv": _conv,
    "FusedMatMul": _product,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "DynamicQuantizeMatMul": _product,
    "MatMulIntegerToFloat": _product,
    "MatMulNBits": _packed_product,
}
# Those that multiply nothing, as quantisers and optimisers put them into files.
_FREE = frozenset(
    """QuantizeLinear DequantizeLinear QLinearAdd QLinearMul QLinearConcat QLinearAveragePool QLinearSigmoid
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearReduceMean QLinearSoftmax QLinearWhere Gelu FastGelu
    QuickGelu BiasGelu BiasAdd BiasDropout SkipLayerNormalization SimplifiedLayerNormalization
    SkipSimplifiedLayerNormalization EmbedLayerNormalization RotaryEmbedding GatherBlockQuantized""".split()
)
