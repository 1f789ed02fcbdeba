"""Weights that several operators read, given to each as ONNX Runtime's quantization tools can take them.

The tools quantize a weight once, as its first reader wants it, and change some in place, whoever else reads
them: https://github.com/microsoft/onnxruntime/tree/main/onnxruntime/python/tools/quantization.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import make_constant
from converter.model import Array

__all__ = ["own_sequences", "part", "turn"]

_Use = tuple[ir.Node, int]


def part(model: ir.Model) -> None:
    """Give readers of a weight that take it differently a copy each: a product, a transposed one, a table.

    The scales of its channels lie on another axis for each; those that read it alike go on sharing one.
    """
    for weight in _weights(model):
        groups: dict[object, list[_Use]] = {}
        for node, index in _uses(weight):
            outside = node.graph is not model.graph  # the bodies of If and Loop, which stay in float
            key = None if outside else (node.domain, node.op_type, index, _is_transposed(node))
            groups.setdefault(key, []).append((node, index))
        keeps = weight.is_graph_output() or None in groups
        others = [uses for key, uses in groups.items() if key is not None]
        for uses in others if keeps else others[1:]:
            _exchange(uses, weight, _array(weight))


def turn(model: ir.Model) -> None:
    """Turn the weights of transposed products that something else reads, too, once for all of these products.

    The tools for dynamic quantization turn them in place for each product: of two products that share
    weights both get them as they were, and what else reads them gets them turned.
    """
    for weight in _weights(model):
        uses = list(_uses(weight))
        turned = [(n, i) for n, i in uses if i == 1 and n.op_type == "Gemm" and _is_transposed(n)]
        if turned and (len(uses) > 1 or weight.is_graph_output()):
            _exchange(turned, weight, np.ascontiguousarray(_array(weight).T))
            for node, _ in turned:
                node.attributes["transB"] = ir.AttrInt64("transB", 0)


def own_sequences(model: ir.Model) -> None:
    """Give each LSTM weights of its own: the tools take an axis off those of one that they quantize."""
    for weight in _weights(model):
        uses = list(_uses(weight))
        cells = [use for use in uses if use[0].op_type == "LSTM"]
        keeps = weight.is_graph_output() or len(cells) < len(uses)
        for use in cells if keeps else cells[1:]:
            _exchange([use], weight, _array(weight))


def _weights(model: ir.Model) -> list[ir.Value]:
    """The matrices and kernels that are constants."""
    found = (value for value in model.graph.initializers.values() if not value.is_graph_input())
    return [v for v in found if v.const_value is not None and len(v.const_value.shape) > 1]


def _array(weight: ir.Value) -> Array:
    assert weight.const_value is not None
    return weight.const_value.numpy()


def _is_transposed(node: ir.Node) -> bool:
    """Whether a Gemm takes its weights transposed."""
    return "transB" in node.attributes and node.attributes["transB"].as_int() == 1


def _uses(weight: ir.Value) -> Iterator[_Use]:
    for use in weight.uses():
        yield use.node, use.idx


def _exchange(uses: list[_Use], weight: ir.Value, array: Array) -> None:
    copy = make_constant(uses[0][0], array, f"{weight.name}_own")
    for node, index in uses:
        node.replace_input_with(index, copy)
