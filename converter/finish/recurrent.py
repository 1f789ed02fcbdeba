"""Weights of recurrent layers, which exporters put together from the framework's own.

ONNX has the gates of LSTMs and GRUs in another order than PyTorch, and both biases in one tensor. The parts
are put together once for all; the result is a weight under the name of its first part.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from converter.finish.graphs import constant_of, main_domain
from converter.finish.weights import derived, origin_of

__all__ = ["settle_recurrent"]

_NO_LIMIT = 1 << 62


def settle_recurrent(model: ir.Model, weights: Collection[str]) -> set[str]:
    """Make constants of what recurrent layers of the main graph have for weights, in place.

    Returns:
        The names of all of them.
    """
    found: set[str] = set()
    for node in model.graph:
        if not main_domain(node) or node.op_type not in ("GRU", "LSTM", "RNN"):
            continue
        for place in range(1, min(4, len(node.inputs))):
            value = node.inputs[place]
            if value is None:
                continue
            if value.producer() is not None:
                settled = _settled(node, value, weights)
                if settled is None:
                    continue
                node.replace_input_with(place, settled)
                value = settled
            if value.is_initializer() and value.name is not None:
                found.add(value.name)
    return found


def _settled(near: ir.Node, value: ir.Value, weights: Collection[str]) -> ir.Value | None:
    """A computed weight as a constant; None where it depends on the model's inputs."""
    nodes: list[ir.Node] = []
    leaves: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    origin: str | None = None
    pending, seen = [value], {value}
    while pending:
        each = pending.pop()
        producer = each.producer()
        if producer is not None:
            if producer not in nodes:
                nodes.append(producer)
            more = [v for v in producer.inputs if v is not None and v not in seen]
            pending += reversed(more)
            seen.update(more)
            continue
        array = constant_of(each, _NO_LIMIT)
        if array is None or each.name is None:
            return None
        leaves[each.name] = array
        if origin is None and each.name in weights:
            origin = origin_of(each)
    assert isinstance(near.graph, ir.Graph)
    assert value.name is not None
    order = {node: place for place, node in enumerate(near.graph)}
    if any(node not in order for node in nodes):
        return None
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in sorted(nodes, key=order.__getitem__)],
        "weights",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in leaves.items()
        ],
        [onnx.ValueInfoProto(name=value.name)],
    )
    opset = near.graph.opset_imports.get("", 18)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (made,) = ReferenceEvaluator(proto).run([value.name], leaves)
    return derived(near, np.ascontiguousarray(made), origin or value.name)
