"""What rules for operators see of a graph: a node at a time, with constants and shapes at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.errors import TargetError
from converter.model import CHANNELS_LAST, LAYER, Array, Plain
from converter.schemas import schema_of, since

__all__ = ["Node", "Unsupported", "nodes_of"]


class Unsupported(TargetError):  # noqa: N818  # what is raised is said of a node, and reads so
    """A node that cannot be expressed in the other framework."""

    def __init__(self, node: Node, problem: str, hint: str | None = None) -> None:
        super().__init__(
            f"{node.op} (node {node.name!r}{f', layer {node.layer!r}' if node.layer else ''}): {problem}",
            hint=hint or "cut before this layer, or --replace it; the target onnx keeps it as it is",
        )
        self.op = node.op


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A node of a plain graph.

    Attributes:
        raw: the node itself.
        plain: the graph that it stands in.
    """

    raw: ir.Node
    plain: Plain

    @property
    def domain(self) -> str:
        return "" if self.raw.domain == "ai.onnx" else self.raw.domain

    @property
    def op(self) -> str:
        return self.raw.op_type

    @property
    def name(self) -> str:
        return self.raw.name or self.raw.op_type

    @property
    def layer(self) -> str | None:
        """The source's layer that the node belongs to, where that is known."""
        return self.raw.metadata_props.get(LAYER)

    @property
    def opset(self) -> int:
        """The opset that the node is to be read in."""
        return self.raw.version or self.plain.opset(self.domain)

    @cached_property
    def since(self) -> int:
        """The version of the operator: the opset that its definition came with; 1 where none is known."""
        return since(self.domain, self.op, self.opset)

    @property
    def inputs(self) -> tuple[ir.Value | None, ...]:
        return tuple(self.raw.inputs)

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        return tuple(self.raw.outputs)

    @property
    def channels_last(self) -> bool:
        """Whether the node's data have been turned to channels-last, although ONNX says channels-first."""
        return bool(self.raw.metadata_props.get(CHANNELS_LAST))

    def has(self, index: int) -> bool:
        """Whether the node has that input."""
        return index < len(self.raw.inputs) and self.raw.inputs[index] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value, its declared default where it is not given; tensors as arrays."""
        if name in self.raw.attributes:
            return _python(self.raw.attributes[name])
        schema = schema_of(self.domain, self.op, self.opset)
        declared = None if schema is None else schema.attributes.get(name)
        if declared is not None and declared.default_value.type:
            return _python(ir.from_proto(declared.default_value))
        return default

    def constant(self, index: int) -> Array | None:
        """The array of an input that is a constant or a weight; None where it is computed or left out."""
        if not self.has(index):
            return None
        value = self.raw.inputs[index]
        assert value is not None
        if value.is_graph_input() or value.const_value is None:
            return None
        return np.asarray(value.const_value.numpy())

    def expect_constant(self, index: int, what: str) -> Array:
        """The array of an input that has to be constant.

        Raises:
            Unsupported: it is computed.
        """
        array = self.constant(index)
        if array is None:
            raise Unsupported(self, f"its {what} is computed, expected a constant")
        return array

    def weight(self, index: int) -> str | None:
        """The name of an input that is one of the source's weights."""
        value = self.raw.inputs[index] if self.has(index) else None
        return value.name if value is not None and value.name in self.plain.weights else None

    def shape(self, index: int) -> tuple[int | str | None, ...] | None:
        """The shape of an input, as far as it is known; a string is a symbolic size."""
        return _shape(self.raw.inputs[index]) if self.has(index) else None

    def rank(self, index: int) -> int:
        """The number of axes of an input.

        Raises:
            Unsupported: it is not known.
        """
        shape = self.shape(index)
        if shape is None:
            raise Unsupported(self, "the rank of its input is not known")
        return len(shape)

    def output_shape(self, index: int = 0) -> tuple[int | str | None, ...] | None:
        """The shape of an output, as far as it is known."""
        return _shape(self.raw.outputs[index])

    def dtype(self, index: int) -> str | None:
        """NumPy's name of an input's element type."""
        value = self.raw.inputs[index] if self.has(index) else None
        return None if value is None or value.dtype is None else value.dtype.numpy().name


def nodes_of(plain: Plain) -> list[Node]:
    """The nodes in the order of execution."""
    return [Node(raw, plain) for raw in plain.graph.graph]


def _shape(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def _python(attribute: Any) -> Any:
    value = attribute.value
    if isinstance(value, ir.TensorProtocol):
        return value.numpy()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item.numpy() if isinstance(item, ir.TensorProtocol) else item for item in value]
    return value
