"""Inputs and outputs in int8: what quantizes at the ends is left to the caller, who is told the scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from converter.finish.graphs import constant_of
from converter.model import LAYER, Array
from converter.precision.ranges import Range

__all__ = ["Scale", "quantize_ends"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the levels of a quantized tensor mean: `scale * (level - zero_point)`.

    Attributes:
        scale: a step.
        zero_point: the level of zero.
        dtype: NumPy's name of the levels' dtype.
    """

    scale: float
    zero_point: int
    dtype: str = "uint8"

    def levels(self, array: Array) -> Array:
        """The nearest levels, half to even; what lies outside is cut off."""
        info = np.iinfo(self.dtype)
        found = np.round(array / np.float32(self.scale)) + self.zero_point
        return np.clip(found, info.min, info.max).astype(self.dtype)

    def numbers(self, levels: Array) -> Array:
        """What levels mean, float32."""
        return (levels.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)


def quantize_ends(
    model: ir.Model, ranges: Mapping[str, Range], given: Mapping[str, Scale] | None = None
) -> dict[str, Scale]:
    """Make float inputs and outputs uint8 in place; their scales by name.

    Args:
        model: a graph with QuantizeLinear and DequantizeLinear inside.
        ranges: of inputs and outputs that nothing inside quantizes.
        given: scales that inputs come in.
    """
    graph, scales = model.graph, {}
    for value in list(graph.inputs):
        if value.dtype == ir.DataType.FLOAT:
            scales[str(value.name)] = _input(graph, value, ranges, (given or {}).get(str(value.name)))
    for index, value in enumerate(list(graph.outputs)):
        name = str(value.name)
        if value.dtype == ir.DataType.FLOAT:
            scales[name] = _output(graph, index, value, ranges)
    return scales


def _input(graph: ir.Graph, value: ir.Value, ranges: Mapping[str, Range], given: Scale | None) -> Scale:
    readers = [use.node for use in value.uses() if use.node.op_type == "QuantizeLinear"]
    found = next((scale for node in readers if (scale := _scale_of(node)) is not None), None)
    scale = given or found or _scale_for(ranges, value)
    value.type = ir.TensorType(ir.DataType.UINT8)  # types are shared between copies of a graph
    others = [use for use in value.uses() if _scale_of(use.node) != scale]
    if others:
        made = _node(graph, "DequantizeLinear", value, scale, f"{value.name}/DequantizeLinear")
        made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        first = next(iter(graph))
        graph.insert_before(first, made)
        for use in others:
            use.node.replace_input_with(use.idx, made.outputs[0])
    for node in readers:
        if _scale_of(node) == scale and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)
    return scale


def _output(graph: ir.Graph, index: int, value: ir.Value, ranges: Mapping[str, Range]) -> Scale:
    name, node = value.name, value.producer()
    scale = None if node is None or node.op_type != "DequantizeLinear" else _scale_of(node)
    inner = None if scale is None or node is None else node.inputs[0]
    if (
        scale is not None
        and inner is not None
        and inner.producer() is not None
        and not inner.is_graph_output()
    ):
        assert node is not None
        graph.outputs[index] = inner
        value.name, inner.name = f"{name}:float", name
        inner.type, inner.shape = ir.TensorType(ir.DataType.UINT8), value.shape
        if not value.uses():
            graph.remove(node, safe=True)
        return scale
    scale = _scale_for(ranges, value)
    made = _node(graph, "QuantizeLinear", value, scale, f"{name}/QuantizeLinear")
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.UINT8), value.shape
    graph.append(made)
    graph.outputs[index] = made.outputs[0]
    value.name, made.outputs[0].name = f"{name}:float", name
    return scale


def _scale_of(node: ir.Node) -> Scale | None:
    """The scale of a node that quantizes a tensor as a whole to uint8, or makes floats of one."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
        return None
    step, zero = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    if step is None or zero is None or step.size != 1 or zero.dtype != np.uint8:
        return None
    return Scale(float(step.reshape(())), int(zero.reshape(())))


def _scale_for(ranges: Mapping[str, Range], value: ir.Value) -> Scale:
    low, high = (float(end) for end in ranges.get(str(value.name), (np.float32(-1), np.float32(1))))
    low, high = min(low, 0.0), max(high, 0.0)
    step = float(np.float32((high - low) / 255)) or 1.0
    return Scale(step, round(-low / step))


def _node(graph: ir.Graph, kind: str, value: ir.Value, scale: Scale, name: str) -> ir.Node:
    inputs = [value]
    for part, array in (("scale", np.float32(scale.scale)), ("zero_point", np.uint8(scale.zero_point))):
        tensor = ir.Tensor(np.asarray(array), name=f"{name}:{part}")
        constant = ir.Value(
            name=tensor.name, shape=ir.Shape(()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(constant)
        inputs.append(constant)
    node = ir.Node("", kind, inputs, name=name)
    node.outputs[0].name = f"{name}:0"
    producer = value.producer()
    if producer is not None and LAYER in producer.metadata_props:
        node.metadata_props[LAYER] = producer.metadata_props[LAYER]
    return node
