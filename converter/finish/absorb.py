"""Taking a bias into its convolution, and a layout into the dense layer behind a Flatten.

Requires: dense layers lifted (`converter.finish.dense`), constants folded. Ensures: the same values up to
rounding.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import (
    constant_of,
    main_domain,
    make_constant,
    replace_uses,
    sole_reader,
    static_sizes,
)
from converter.finish.layout import perm_of
from converter.finish.weights import reshaped, rewritten
from converter.model import LIFTED

__all__ = ["absorb_flatten", "bias_into_convolutions"]

_NO_LIMIT = 1 << 62
_UNARY = frozenset(
    "Abs Cast Clip Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu Selu Sigmoid "
    "Softplus Sqrt Swish Tanh".split()
)


def bias_into_convolutions(model: ir.Model) -> None:
    """Make what is added a channel behind a convolution without a bias its bias, in place.

    A Transpose between the two, as exporters of channels-last frameworks write it, is passed by.
    """
    for conv in list(model.graph):
        if not main_domain(conv) or conv.op_type not in ("Conv", "ConvTranspose"):
            continue
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            continue
        last, perm = conv.outputs[0], None
        turn = sole_reader(last)
        if turn is not None and (perm := perm_of(turn)) is not None:
            last = turn.outputs[0]
        add = sole_reader(last)
        if add is None or add.op_type != "Add" or not main_domain(add):
            continue
        other = add.inputs[1] if add.inputs[0] is last else add.inputs[0]
        bias, kernel = constant_of(other, _NO_LIMIT), constant_of(conv.inputs[1], _NO_LIMIT)
        if other is None or bias is None or kernel is None:
            continue
        group = conv.attributes.get_int("group", 1)
        channels = kernel.shape[0] if conv.op_type == "Conv" else kernel.shape[1] * group
        axis = 1 if perm is None else perm.index(1)
        full = (1,) * (kernel.ndim - bias.ndim) + bias.shape
        along = tuple(channels if place == axis else 1 for place in range(kernel.ndim))
        if full != along:
            continue
        conv.resize_inputs(3)
        conv.replace_input_with(2, reshaped(conv, other, [channels]))
        last.shape = last.shape or add.outputs[0].shape
        last.type = last.type or add.outputs[0].type
        replace_uses(add.outputs[0], last)
        model.graph.remove(add, safe=True)


def absorb_flatten(model: ir.Model) -> None:
    """Put the rows of a dense kernel in the order in which a flattened tensor has its features, in place.

    Transpose, Flatten, Dense is Flatten, Dense with other rows: the data need not move.
    """
    for flatten in list(model.graph):
        if not _flattens(flatten):
            continue
        turn, chain = _turn_before(flatten)
        perm = perm_of(turn)
        if turn is None or perm is None or perm[0] != 0:
            continue
        shape = turn.inputs[0].shape if turn.inputs[0] is not None else None
        sizes = None if shape is None else static_sizes(list(shape)[1:])
        dense = _dense_behind(flatten)
        if not sizes or dense is None or dense.inputs[1] is None:
            continue
        kernel, count = constant_of(dense.inputs[1], _NO_LIMIT), math.prod(sizes)
        if kernel is None or kernel.shape[0] != count:
            continue
        # Where each feature of the tensor as it is stands in the transposed one.
        turned = np.arange(count).reshape([sizes[axis - 1] for axis in perm[1:]])
        back = [list(perm[1:]).index(axis) for axis in range(1, len(perm))]
        rows = turned.transpose(back).reshape(-1)
        dense.replace_input_with(1, rewritten(dense, dense.inputs[1], np.ascontiguousarray(kernel[rows])))
        (chain[-1] if chain else flatten).replace_input_with(0, turn.inputs[0])
        for node in chain:
            node.outputs[0].shape = shape
        if flatten.op_type == "Reshape":
            flatten.replace_input_with(1, make_constant(flatten, np.array([0, count], np.int64)))
        if not turn.outputs[0].uses() and not turn.outputs[0].is_graph_output():
            model.graph.remove(turn, safe=True)


def _turn_before(flatten: ir.Node) -> tuple[ir.Node | None, list[ir.Node]]:
    """The Transpose ahead of a node, and the elementwise functions between the two, the last first."""
    chain: list[ir.Node] = []
    node: ir.Node | None = flatten
    while node is not None:
        value = node.inputs[0]
        node = None if value is None else value.producer()
        if value is None or node is None or (chain and sole_reader(value) is not chain[-1]):
            return None, []
        if perm_of(node) is not None:
            return node, chain
        if not main_domain(node) or node.op_type not in _UNARY or sole_reader(value) is None:
            return None, []
        chain.append(node)
    return None, []


def _flattens(node: ir.Node) -> bool:
    """Whether a node keeps the first axis and makes one of all others."""
    if not main_domain(node) or node.outputs[0].is_graph_output():
        return False
    if node.op_type == "Flatten":
        return node.attributes.get_int("axis", 1) == 1
    if node.op_type != "Reshape":
        return False
    target, shape = constant_of(node.inputs[1]), node.inputs[0].shape if node.inputs[0] is not None else None
    if target is None or shape is None or target.size != 2:
        return False
    sizes = static_sizes(list(shape)[1:])
    if sizes is None:
        return False
    count = math.prod(sizes)
    # The number of rows is left open, or that of features is and rows are kept.
    first, second = (int(size) for size in target)
    return second == count if first in (-1, 0) else second in (-1, count) and first == shape[0]


def _dense_behind(flatten: ir.Node) -> ir.Node | None:
    """The one dense layer that reads a flattened tensor, elementwise functions between them aside."""
    node: ir.Node | None = flatten
    while node is not None:
        node = sole_reader(node.outputs[0])
        if node is not None and (node.domain, node.op_type) == (LIFTED, "Dense"):
            return node
        if node is None or not main_domain(node) or node.op_type not in _UNARY:
            return None
    return None
