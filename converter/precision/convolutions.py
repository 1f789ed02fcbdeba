"""Convolutions in int8 with ranges that are found while the model runs, weights with a scale a channel.

ONNX Runtime's quantizer gives a convolution's weight one scale: its kernel (ConvInteger) takes no zero points
by channel. Scales by channel need none: levels lie around 128 in every channel, and the products are scaled
behind the kernel. Weights are uint8, for which the kernel is several times as fast as for int8.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from converter.model import LAYER, Array

__all__ = ["to_integers"]

_ZERO = 128


def to_integers(model: ir.Model, leave: Collection[str]) -> None:
    """Convert convolutions with constant float32 weights in place.

    Args:
        model: a graph whose constants are initializers.
        leave: names of nodes to leave in float.
    """
    levels: dict[ir.Value, ir.Node] = {}
    for node in list(model.graph):
        if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and node.name not in leave:
            constants = [value.const_value for value in node.inputs[1:] if value is not None]
            if all(value is not None and value.dtype == ir.DataType.FLOAT for value in constants):
                _convert(model.graph, node, levels)


def quantized(weight: Array) -> tuple[Array, Array]:
    """uint8 levels around 128, and a scale for each channel of axis 0."""
    rows = weight.reshape(len(weight), -1)
    step = np.abs(rows).max(1) / np.float32(255 - _ZERO)
    step = np.where(step > 0, step, np.float32(1)).astype(np.float32)
    found = np.clip(np.round(rows / step[:, None]) + _ZERO, 0, 255).astype(np.uint8)
    return found.reshape(weight.shape), step


def _convert(graph: ir.Graph, node: ir.Node, levels: dict[ir.Value, ir.Node]) -> None:
    taken, weight = node.inputs[0], node.inputs[1]
    assert taken is not None
    assert weight is not None
    assert weight.const_value is not None
    name, made = str(node.name), list[ir.Node]()

    def add(kind: str, inputs: list[ir.Value], suffix: str, outputs: int = 1) -> ir.Node:
        new = ir.Node("", kind, inputs, num_outputs=outputs, name=f"{name}/{suffix}")
        for index, value in enumerate(new.outputs):
            value.name = f"{new.name}:{index}"
        if LAYER in node.metadata_props:
            new.metadata_props[LAYER] = node.metadata_props[LAYER]
        made.append(new)
        return new

    def constant(array: Array, suffix: str) -> ir.Value:
        tensor = ir.Tensor(array, name=f"{name}:{suffix}")
        value = ir.Value(
            name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        return value

    if taken not in levels:
        levels[taken] = add("DynamicQuantizeLinear", [taken], "levels", 3)
    given, step, zero = levels[taken].outputs
    stored, scale = quantized(weight.const_value.numpy())
    shape = (1, -1, *(1,) * (stored.ndim - 2))  # channels of what comes out
    inputs = [given, constant(stored, "levels"), zero, constant(np.array(_ZERO, np.uint8), "zero_point")]
    product = add("ConvInteger", inputs, "integers")
    for attribute in node.attributes.values():
        product.attributes[attribute.name] = attribute
    cast = add("Cast", [product.outputs[0]], "cast")
    cast.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    both = add("Mul", [step, constant(scale.reshape(shape), "scale")], "scale")
    last = add("Mul", [cast.outputs[0], both.outputs[0]], "scaled")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and bias.const_value is not None:
        last = add(
            "Add", [last.outputs[0], constant(bias.const_value.numpy().reshape(shape), "bias")], "bias"
        )
    graph.insert_before(node, made)
    old, new = node.outputs[0], last.outputs[0]
    new.type, new.shape, label = old.type, old.shape, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    new.name = label
