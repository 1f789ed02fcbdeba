"""Dense layers, however they are spelled: MatMul and Add, Gemm, a bias behind a Reshape.

Makes `Dense(x, kernel[inputs, units], bias?[units])` of the domain `converter.lifted`: x of any rank, its
last axis the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import constant_of, main_domain, make_constant, replace_uses, sole_reader
from converter.finish.weights import reshaped, rewritten
from converter.model import LIFTED

__all__ = ["lift_dense"]

_NO_LIMIT = 1 << 62


def lift_dense(model: ir.Model) -> None:
    """Lift MatMul and Gemm with a constant kernel in the main graph, in place."""
    model.opset_imports[LIFTED] = 1
    for node in list(model.graph):
        if not main_domain(node) or node.op_type not in ("MatMul", "Gemm"):
            continue
        dense = _of_matmul(node) if node.op_type == "MatMul" else _of_gemm(node)
        if dense is None:
            continue
        dense.metadata_props.update(node.metadata_props)
        dense.name = node.name
        model.graph.insert_before(node, dense)
        made, old = dense.outputs[0], node.outputs[0]
        made.type, made.shape = old.type, old.shape
        replace_uses(old, made)
        model.graph.remove(node, safe=True)
        if len(dense.inputs) == 2:
            _take_bias(model.graph, dense)


def _of_matmul(node: ir.Node) -> ir.Node | None:
    x, kernel = node.inputs
    array = constant_of(kernel, _NO_LIMIT)
    if x is None or x.shape is None or len(x.shape) < 2 or array is None or array.ndim != 2:
        return None
    if constant_of(x) is not None or array.dtype.kind != "f":
        return None
    return ir.node("Dense", [x, kernel], domain=LIFTED)


def _of_gemm(node: ir.Node) -> ir.Node | None:
    x, kernel = node.inputs[0], node.inputs[1]
    array = constant_of(kernel, _NO_LIMIT)
    scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
    turned = node.attributes.get_int("transA", 0) != 0
    if x is None or kernel is None or array is None or turned or scaled:
        return None
    if constant_of(x) is not None or array.dtype.kind != "f" or _tied(kernel):
        return None
    if node.attributes.get_int("transB", 0):
        kernel = rewritten(node, kernel, np.ascontiguousarray(array.T))
        array = array.T
    inputs = [x, kernel]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant_of(node.inputs[2], _NO_LIMIT)
        if (
            bias is None
            or bias.size not in (1, array.shape[1])
            or bias.reshape(-1).shape != (bias.shape or (1,))[-1:]
        ):
            return None
        if bias.size == array.shape[1]:
            inputs.append(reshaped(node, node.inputs[2], [bias.size]))
        else:
            inputs.append(make_constant(node, np.full(array.shape[1], bias.reshape(()), bias.dtype)))
    return ir.node("Dense", inputs, domain=LIFTED)


def _tied(kernel: ir.Value) -> bool:
    """Whether something else than dense layers reads a kernel, so that it has to stay as it is."""
    return any(use.node.op_type not in ("Dense", "Gemm", "MatMul") for use in kernel.uses())


def _take_bias(graph: ir.Graph, dense: ir.Node) -> None:
    """Make the constant that is added behind a dense layer, or behind the Reshape after it, its bias."""
    output = dense.outputs[0]
    reshape = _only_reader(output, "Reshape")
    if reshape is not None and reshape.inputs[0] is not output:
        return
    last = output if reshape is None else reshape.outputs[0]
    add = _only_reader(last, "Add")
    if add is None:
        return
    other = add.inputs[1] if add.inputs[0] is last else add.inputs[0]
    bias, units = constant_of(other, _NO_LIMIT), dense.inputs[1]
    kernel = constant_of(units, _NO_LIMIT)
    assert kernel is not None
    size = kernel.shape[1]
    if (
        other is None
        or bias is None
        or bias.size != size
        or not _along_units(bias.shape, last, size, reshape)
    ):
        return
    dense.resize_inputs(3)
    dense.replace_input_with(2, reshaped(dense, other, [size]))
    last.shape = last.shape or add.outputs[0].shape
    last.type = last.type or add.outputs[0].type
    replace_uses(add.outputs[0], last)
    graph.remove(add, safe=True)


def _along_units(shape: Sequence[int], summed: ir.Value, units: int, reshape: ir.Node | None) -> bool:
    """Whether a constant of that shape adds one number a unit to the value."""
    own = [size for size in shape if size != 1] or [1]
    trailing = list(shape)[-len(own) :] if own != [1] else [1]
    if trailing != own:
        return False
    if reshape is None:
        return own == [units] or units == 1
    if summed.shape is None or len(summed.shape) < len(own):
        return False
    last = list(summed.shape)[-len(own) :]
    return last == own and int(np.prod(own)) == units


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    node = sole_reader(value)
    return node if node is not None and node.op_type == op and main_domain(node) else None
