"""What rules build with: values of the graph as KerasTensors, layers with weights, names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnx_ir as ir
from keras import layers, ops

from converter.model import Array, Plain
from converter.rebuilding.graph import Node, Unsupported
from converter.rebuilding.keras.sizes import Size, is_sizes
from converter.rebuilding.names import Names, dotted

__all__ = ["Builder", "extra", "is_tensor", "legal"]

# A constant of more elements than this is held by a layer, so that a model's config stays text to read.
INLINE = 4096
# What the length of the model's first axis is called, whatever exporters call it.
BATCH = "the batch of the model"
# Layers that hold constants are called this and a number.
CONSTANTS = "constant_of_the_graph"
# A table of more rows than this is held as one row: the numbers of its rows would stand in the config.
_ROWS = 2048


def is_tensor(value: Any) -> bool:
    """Whether a value is computed when the model runs."""
    return isinstance(value, keras.KerasTensor)


def legal(name: str) -> str:
    """A name as Keras takes it for inputs."""
    return name.replace("/", "_").replace(":", "_").replace("@", "_")


def extra(model: Any) -> int:
    """Number of scalars in layers that hold constants."""
    return sum(layer.count_params() for layer in model.layers if layer.name.startswith(CONSTANTS))


class Builder:
    """The values of a graph so far, and the layers that made them.

    Attributes:
        plain: the graph.
        values: value of the graph → KerasTensor, array, or array of `Size`s.
        names: the names given to layers.
    """

    def __init__(self, plain: Plain) -> None:
        self.plain = plain
        self.values: dict[ir.Value, Any] = {}
        self.names = Names()
        self.inputs: list[Any] = []
        self._layers: dict[Any, Any] = {}
        self._held: dict[str, Any] = {}
        self._rows: dict[int, Any] = {}
        self._reserved = _stems(plain)
        self._of_batch: dict[int, Any] = {}

    # ---------------------------------------------------------------- values

    def begins_with_batch(self, *tensors: Any) -> None:
        """Note that the first axis of these is the batch."""
        self._of_batch.update((id(x), x) for x in tensors if is_tensor(x) and x.shape and x.shape[0] is None)

    def has_batch(self, x: Any) -> bool:
        """Whether the first axis of a value is certainly the batch."""
        return id(x) in self._of_batch

    def get(self, node: Node, index: int) -> Any:
        """An input: KerasTensor, array, array of sizes; None where it is left out. Weights are arrays."""
        if not node.has(index):
            return None
        value = node.inputs[index]
        assert value is not None
        if value in self.values:
            return self.values[value]
        return node.constant(index)

    def operand(self, node: Node, index: int) -> Any:
        """An input to compute with: a KerasTensor, or an array that is no weight and not large."""
        found = self.get(node, index)
        if found is None or is_tensor(found):
            return found
        value = node.inputs[index]
        assert value is not None
        if is_sizes(found):
            return self.measured(node, found)
        if node.weight(index) is not None or found.size > INLINE:
            return self.held(str(value.name), found, node.weight(index) is not None)
        return found

    def tensor(self, node: Node, index: int) -> Any:
        """An input as a KerasTensor, also where it is a constant."""
        found = self.operand(node, index)
        return found if found is None or is_tensor(found) else self.lifted(found)

    def lifted(self, array: Array) -> Any:
        """A constant as a KerasTensor."""
        array = np.asarray(array)
        if array.size > INLINE:
            return self.held(f"array{len(self._held)}", array, False)
        if array.dtype == bool:
            return ops.logical_or(ops.cast(self.zero(), "bool"), array)
        return ops.add(ops.cast(self.zero(), array.dtype.name), array)

    def ints(self, node: Node, index: int, what: str = "value") -> list[int]:
        """An input of whole numbers that is known now.

        Raises:
            Unsupported: it is computed when the model runs.
        """
        found = self.get(node, index)
        if found is None or is_tensor(found) or is_sizes(found):
            raise Unsupported(node, f"its {what} is computed, expected a constant")
        return [int(number) for number in np.asarray(found).reshape(-1)]

    def sizes(self, node: Node, index: int) -> list[Any]:
        """An input that names sizes: numbers and `Size`s.

        Raises:
            Unsupported: it is computed from data.
        """
        found = self.get(node, index)
        if found is None or is_tensor(found):
            raise Unsupported(node, "its shape is computed from data, expected a constant")
        return [n if isinstance(n, Size) else int(n) for n in np.asarray(found).reshape(-1)]

    def size_of(self, node: Node, index: int, axis: int) -> Any:
        """The length of an axis of an input: a number, or a `Size`."""
        x = self.get(node, index)
        if x.shape[axis] is not None:
            return int(x.shape[axis])
        shape = node.shape(index)
        named = shape[axis] if shape is not None else None
        if axis % len(x.shape) == 0 and self.has_batch(x):
            named = BATCH
        return Size(x, axis % len(x.shape), named if isinstance(named, str) else None)

    # ---------------------------------------------------------------- sizes as data

    def along(self, size: Size, node: Node) -> Any:
        """A vector of zeros (int32) as long as a size says."""
        if size.tensor is None:
            raise Unsupported(node, "a size that is computed from other sizes is used as data")
        x = size.tensor
        for axis in reversed(range(len(x.shape))):
            if axis != size.axis:
                x = ops.take(x, 0, axis=axis)
        return ops.zeros_like(x, dtype="int32")

    def measured(self, node: Node, array: Array) -> Any:
        """Sizes as a KerasTensor of int64."""
        if not is_sizes(array):
            return self.lifted(array)
        flat = [
            ops.sum(ops.cast(ops.add(self.along(n, node), 1), "int64")) if isinstance(n, Size) else n
            for n in array.reshape(-1)
        ]
        parts = [n if is_tensor(n) else self.lifted(np.asarray(n, np.int64)) for n in flat]
        return parts[0] if array.ndim == 0 else ops.stack(parts)

    def spread(self, node: Node, x: Any, sizes: Sequence[Any]) -> Any:
        """x broadcast against a shape, as Expand does."""
        x = x if is_tensor(x) else self.lifted(x)
        rank = max(len(x.shape), len(sizes))
        for _ in range(rank - len(x.shape)):
            x = ops.expand_dims(x, 0)
        wanted = [*[1] * (rank - len(sizes)), *sizes]
        repeats = [
            n if isinstance(n, int) and n != 1 and have == 1 else 1
            for n, have in zip(wanted, x.shape, strict=True)
        ]
        for axis, size in enumerate(wanted):
            if isinstance(size, Size) and x.shape[axis] == 1:
                line = [-1 if place == axis else 1 for place in range(rank)]
                zeros = ops.reshape(self.along(size, node), line)
                x = (
                    ops.logical_or(x, ops.cast(zeros, "bool"))
                    if x.dtype == "bool"
                    else ops.add(x, ops.cast(zeros, x.dtype))
                )
        if repeats == [1] * rank:
            return x
        if None not in x.shape:
            return ops.broadcast_to(x, [h * r for h, r in zip(x.shape, repeats, strict=True)])
        return ops.tile(x, repeats)

    # ---------------------------------------------------------------- weights that no layer takes

    def zero(self) -> Any:
        """The number 0 (int32) as a KerasTensor: where what does not depend on the inputs begins."""
        if 0 not in self._rows:
            x = self.inputs[0]
            x = ops.take(x, 0, axis=None) if len(x.shape) else x
            self._rows[0] = ops.zeros_like(x, dtype="int32")
        return self._rows[0]

    def held(self, name: str, array: Array, weight: bool) -> Any:
        """An array as the table of an Embedding, looked up whole."""
        if name in self._held:
            return self._held[name]
        number = array.astype(np.float32) if array.dtype.kind in "iub" else array
        if not np.array_equal(number.astype(array.dtype), array, equal_nan=array.dtype.kind == "f"):
            raise ValueError(f"{name}: a constant of {array.size} large whole numbers")
        columns = array.shape[-1] if array.ndim else 1
        rows = max(array.size // max(columns, 1), 1)
        rows, columns = (rows, columns) if rows <= _ROWS else (1, array.size)
        called = self.names.fresh(dotted(name) if weight else CONSTANTS)
        layer = layers.Embedding(rows, columns, dtype=number.dtype.name, name=called)
        x = layer(self.rows(rows) if rows > 1 else self.zero())
        layer.embeddings.assign(number.reshape(rows, columns))
        layer.trainable = weight and name not in self.plain.frozen
        if tuple(x.shape) != array.shape:
            x = ops.reshape(x, array.shape)
        x = ops.cast(x, array.dtype.name) if number.dtype != array.dtype else x
        self._held[name] = x
        return x

    def rows(self, count: int) -> Any:
        """The numbers 0, 1, … (int32) as a KerasTensor."""
        if count not in self._rows:
            self._rows[count] = ops.add(self.zero(), np.arange(count, dtype=np.int32))
        return self._rows[count]

    # ---------------------------------------------------------------- layers

    def owns(self, node: Node, *indices: int) -> bool:
        """Whether these inputs are weights that a layer made of this node may keep for itself.

        A weight that several nodes read is kept by a layer only where they are the same layer, called again.
        """
        for index in indices:
            value = node.inputs[index] if node.has(index) else None
            if value is None or node.weight(index) is None:
                return False
            for use in value.uses():
                other = use.node
                same = (other.op_type, use.idx) == (node.op, index) and len(other.inputs) == len(node.inputs)
                if not same or str(other.attributes) != str(node.raw.attributes):
                    return False
                if any(
                    other.inputs[i] is not v
                    for i, v in enumerate(node.inputs)
                    if v is not None and i and v.is_initializer()
                ):
                    return False
        return True

    def layer(
        self,
        node: Node,
        make: Callable[..., Any],
        weights: Sequence[tuple[int, Array]],
        *inputs: Any,
        decides: Sequence[int] | None = None,
        dtype: str | None = None,
        **config: Any,
    ) -> Any:
        """Call a new layer that holds weights of the graph; the same one again where a node shares them.

        Args:
            node: the node that it is made of.
            make: the class.
            weights: for each weight of the layer, in its order: the input it comes from, the numbers.
            inputs: what the layer is called on.
            decides: inputs whose weights decide whether the layer is trained; None for all of `weights`.
            dtype: the layer's element type; None for its input's.
            config: arguments of the class.
        """
        sources = [str(node.inputs[index].name) for index, _ in weights]  # type: ignore[union-attr]
        key = (make.__name__, *sources, repr(sorted(config.items(), key=str)))
        if sources and key in self._layers:
            return self._layers[key](*inputs)
        name = self.names.layer(node, *(index for index, _ in weights)) if sources else self.name(node)
        if dtype is None and "float" in inputs[0].dtype:
            dtype = inputs[0].dtype
        layer = make(name=name, dtype=dtype, **config)
        result = layer(*inputs)
        self._layers[key] = layer
        for variable, (_, array) in zip(layer.weights, weights, strict=True):
            variable.assign(array)
        self._freeze(layer, sources, [i for i, _ in weights], decides)
        return result

    def _freeze(self, layer: Any, sources: list[str], indices: list[int], decides: Any) -> None:
        deciding = {
            source: variable
            for source, index, variable in zip(sources, indices, layer.weights, strict=True)
            if decides is None or index in decides
        }
        frozen = [source for source in deciding if source in self.plain.frozen]
        if frozen and len(frozen) == len(deciding):
            layer.trainable = False
        for source in frozen:
            deciding[source].trainable = False

    def simple(
        self, node: Node, make: Callable[..., Any], *inputs: Any, suffix: str = "", **config: Any
    ) -> Any:
        """Call a new layer without weights."""
        first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
        dtype = first.dtype if "float" in first.dtype else None
        return make(name=self.name(node, suffix), dtype=dtype, **config)(*inputs)

    # ---------------------------------------------------------------- names

    def name(self, node: Node, suffix: str = "") -> str:
        """An unused name for a layer or operation without weights."""
        layer = node.layer or ""
        before, at, number = layer.rpartition("@")
        stem = dotted(before if at and number.isdigit() else layer) if layer else dotted(node.name)
        if suffix or stem in self._reserved or any(r.startswith(f"{stem}.") for r in self._reserved):
            stem = f"{stem}_{suffix or node.op.lower()}"
        return self.names.fresh(stem or node.op.lower())

    def name_operations(self, node: Node, result: Any) -> None:
        """Name the operations that a rule put in, all those behind its results that have no name yet."""
        pending = [value for value in keras.tree.flatten(result) if is_tensor(value)]
        while pending:
            operation = pending.pop()._keras_history.operation
            if isinstance(operation, layers.Layer) and type(operation).__name__ == "InputLayer":
                continue
            if getattr(operation, "_converter_named", False):
                continue
            operation._converter_named = True
            if not isinstance(operation, layers.Layer):
                operation.name = self.name(node)
            for inbound in operation._inbound_nodes:
                pending += inbound.input_tensors


def _stems(plain: Plain) -> set[str]:
    """The names that layers with weights are going to have."""
    found: set[str] = set()
    for raw in plain.graph.graph:
        node = Node(raw, plain)
        for index in range(len(raw.inputs)):
            if node.weight(index) is not None:
                found.add(Names().layer(node, index))
    return found


def elements(shape: Sequence[int | None]) -> int | None:
    """Number of elements of a shape; None where it is not known."""
    return None if None in shape else math.prod(n for n in shape if n is not None)
