"""What every pass needs of a graph: constants read and made, uses replaced."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "constant_of",
    "forget_shapes",
    "main_domain",
    "make_constant",
    "replace_uses",
    "sole_reader",
    "static_sizes",
]


def main_domain(node: ir.Node) -> bool:
    """Whether the node is one of ONNX's own operators."""
    return node.domain in ("", "ai.onnx")


def constant_of(value: ir.Value | None, limit: int = 1 << 16) -> npt.NDArray[Any] | None:
    """The value's array where it is a constant of at most `limit` elements, else None."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.size > limit:
        return None
    return tensor.numpy()


def make_constant(near: ir.Node, array: npt.NDArray[Any], name: str = "constant") -> ir.Value:
    """A new initializer of the graph that `near` stands in."""
    graph = near.graph
    assert isinstance(graph, ir.Graph)
    copy, unique = 0, name
    while unique in graph.initializers:
        copy = copy + 1 if copy else len(graph.initializers)
        unique = f"{name}_{copy}"
    tensor = ir.Tensor(np.asarray(array), name=unique)
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def static_sizes(sizes: Collection[object]) -> list[int] | None:
    """Sizes of axes as numbers; None where one of them is symbolic."""
    found = [size for size in sizes if isinstance(size, int)]
    return found if len(found) == len(sizes) else None


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, in the value's own graph."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, producer = uses[0].node, value.producer()
    return node if producer is not None and node.graph is producer.graph else None


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads `old` read `new`; a graph output keeps its name."""
    if old.is_graph_output():
        name, old.name = old.name, None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = name
    else:
        old.replace_all_uses_with(new)


def forget_shapes(model: ir.Model) -> None:
    """Drop the shapes of inner values: runtimes infer them, and stale ones would be errors."""
    for graph in model.graphs():
        for node in graph:
            for output in node.outputs:
                if not output.is_graph_output():
                    output.shape = None
                    output.type = None
