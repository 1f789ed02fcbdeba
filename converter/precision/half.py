"""float16 and bfloat16: every operator that can computes in it, the others in float32 between casts.

onnxruntime.transformers.float16 and onnxconverter-common cast to half between any two operators, those that
are kept in float32 included, so that what one of them keeps from overflowing overflows on its way to the
next. Here each value has one dtype, that of what computes it, and is cast for those readers alone that want
another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from converter.model import LAYER, Array
from converter.onnxfile import SMALL
from converter.precision.kernels import allows

__all__ = ["HALVES", "LARGEST", "MOVERS", "Half", "in_floats", "kept", "overflowing", "to_half"]

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_FLOAT = ir.DataType.FLOAT
# Operators that float16 is too coarse for, whatever their definition allows: positions and thresholds.
_COARSE = frozenset("CumSum NonMaxSuppression Range RoiAlign".split())
# Operators that compute nothing.
MOVERS = frozenset(
    "Cast Concat Expand Flatten Gather Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze".split()
)
# The largest float16. Samples are few: what comes within half of it may well be beyond on others.
LARGEST = 65504.0
# The smallest subnormal float16; a constant that is meant to keep a divisor from zero must not become zero.
_TINY = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Half:
    """How to make a graph one of half precision.

    Attributes:
        dtype: float16 or bfloat16.
        keep: names of nodes that stay in float32 → why.
        whole: names of those among them whose weights are not stored in less, either.
        ends: whether inputs and outputs are of that dtype, too.
    """

    dtype: ir.DataType
    keep: Mapping[str, str]
    whole: Collection[str] = ()
    ends: bool = False


def overflowing(model: ir.Model, largest: Mapping[str, float]) -> dict[str, str]:
    """Names of the nodes that read or put out what float16 may not hold → why.

    Args:
        model: a float32 graph.
        largest: the largest magnitudes of its values, by name.
    """
    found = {}
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            top = 0.0 if value is None else largest.get(str(value.name), 0.0)
            if top > LARGEST / 2:
                found[str(node.name)] = f"values up to {top:.2g}, float16 ends at {LARGEST:g}"
    return found


def kept(
    model: ir.Model,
    half: Half,
    opset: int,
    runs: Callable[[ir.Node], bool],
) -> dict[str, str]:
    """Names of the nodes that stay in float32 → why."""
    found = dict(half.keep)
    for node in model.graph:
        if node.name is None or node.name in found or not in_floats(node):
            continue
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
            if isinstance(attribute, ir.Attr)
        ):
            found[node.name] = "it has a graph inside"
        elif node.op_type in _COARSE or _makes_floats(node):
            found[node.name] = f"{node.op_type} is too coarse in half precision"
        elif not _may(node, half.dtype, opset):
            found[node.name] = f"{node.op_type} of opset {opset} is not defined in {half.dtype.name.lower()}"
        elif not runs(node):
            found[node.name] = (
                f"ONNX Runtime has no kernel of {node.op_type} in {half.dtype.name.lower()} here"
            )
    return found | _stranded(model, found)


def _stranded(model: ir.Model, keep: Mapping[str, str]) -> dict[str, str]:
    """Nodes that only move floats which nothing beside them computes in half precision."""
    converted = {
        node
        for node in model.graph
        if node.name not in keep and node.op_type not in MOVERS and in_floats(node)
    }

    def beside(node: ir.Node) -> bool:
        before = (value.producer() for value in node.inputs if value is not None)
        after = (user for output in node.outputs for user in output.consumers())
        return not converted.isdisjoint({*before, *after})

    movers = (node for node in model.graph if node.op_type in MOVERS and in_floats(node))
    return {str(node.name): "" for node in movers if node.name not in keep and not beside(node)}


def to_half(model: ir.Model, half: Half, opset: int) -> None:
    """Convert a graph in place.

    Requires: types of all values; `half.keep` names every node that cannot be converted; constants are
    initializers.
    Ensures: the same inputs and outputs by name and shape, in float32 unless `half.ends`.
    """
    work = _Conversion(model, half, opset)
    nodes = list(model.graph)
    converted = {node for node in nodes if in_floats(node) and node.name not in half.keep}
    for node in converted:
        _retype(node, half.dtype, opset)
    if half.ends:
        for taken in model.graph.inputs:
            if taken.dtype == _FLOAT:
                taken.type = ir.TensorType(half.dtype)  # types are shared between copies of a graph
    for node in nodes:
        work.inputs(node, node in converted)
    work.outputs()
    work.store()


class _Conversion:
    def __init__(self, model: ir.Model, half: Half, opset: int) -> None:
        self._graph, self._half, self._opset = model.graph, half, opset
        # What is in half precision from the beginning stays as it is.
        produced = (value for node in model.graph for value in node.outputs)
        everything = (*model.graph.inputs, *model.graph.initializers.values(), *produced)
        self._floats = {value for value in everything if value.dtype == _FLOAT}
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def inputs(self, node: ir.Node, converted: bool) -> None:
        """Cast what a node reads to what it wants."""
        dtype = self._half.dtype
        for index, value in enumerate(node.inputs):
            if value is None or value not in self._floats:
                continue
            takes = converted and allows(node, index, "i", dtype, self._opset)
            wanted = dtype if takes else _FLOAT
            if wanted != value.dtype:
                node.replace_input_with(index, self.cast(value, wanted))
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
                self.inside(attribute.as_graph())

    def inside(self, graph: ir.Graph) -> None:
        """Inner graphs read what they read before."""
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for index, value in enumerate(node.inputs):
                if value in self._floats and value.dtype == self._half.dtype:
                    node.replace_input_with(index, self.cast(value, _FLOAT))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another dtype: a constant is made anew, others are cast once for all readers."""
        found = self._casts.get((value, dtype))
        if found is None:
            found = self._constant(value, dtype) if value.is_initializer() else self._cast(value, dtype)
            self._casts[value, dtype] = found
        return found

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        name = self._free(f"{value.name}:{dtype.name.lower()}")
        tensor = ir.Tensor(rounded(array, dtype), dtype=dtype, name=name)
        made = ir.Value(
            name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(dtype), const_value=tensor
        )
        self._graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))])
        producer = value.producer()
        node.name = self._free(f"{value.name}:Cast_{dtype.name.lower()}")
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{node.name}:0", ir.TensorType(dtype), value.shape
        if producer is not None and LAYER in producer.metadata_props:
            node.metadata_props[LAYER] = producer.metadata_props[LAYER]
        if producer is None:
            first = next(iter(self._graph), None)
            if first is None:
                self._graph.append(node)
            else:
                self._graph.insert_before(first, node)
        else:
            self._graph.insert_after(producer, node)
        return made

    def outputs(self) -> None:
        """Outputs are float32 under their own names, or all of them half precision."""
        wanted = self._half.dtype if self._half.ends else _FLOAT
        for index, value in enumerate(self._graph.outputs):
            if value.dtype is None or value not in self._floats or value.dtype == wanted:
                continue
            name = value.name
            made = self.cast(value, wanted)  # which may be there for others that read it
            value.name, made.name = self._free(f"{name}:{value.dtype.name.lower()}"), name
            self._graph.outputs[index] = made

    def store(self) -> None:
        """Weights that nothing reads any more go; large ones that operators in float32 read are stored in
        bfloat16, which has their range."""
        for value in list(self._graph.initializers.values()):
            if not value.uses() and not value.is_graph_output():
                assert value.name is not None
                del self._graph.initializers[value.name]
            elif value.dtype == _FLOAT and self._large(value):
                self._as_stored(value)
        self._own_names()

    def _large(self, value: ir.Value) -> bool:
        if self._half.dtype != ir.DataType.BFLOAT16 or value.const_value is None:
            return False
        asked = any(use.node.name in self._half.whole for use in value.uses())
        return not asked and value.const_value.nbytes >= SMALL

    def _as_stored(self, value: ir.Value) -> None:
        stored = self.cast(value, self._half.dtype)
        uses = list(value.uses())
        made = self._cast(stored, _FLOAT)
        for use in uses:
            use.node.replace_input_with(use.idx, made)
        assert value.name is not None
        if not value.is_graph_output():
            del self._graph.initializers[value.name]

    def _own_names(self) -> None:
        """A weight that stands in one dtype only keeps its name."""
        for (value, _), made in self._casts.items():
            if (
                made.is_initializer()
                and not made.is_graph_output()  # it has its name already
                and value.name not in self._graph.initializers
                and value.name is not None
            ):
                assert made.name is not None
                del self._graph.initializers[made.name]
                made.name = value.name
                if made.const_value is not None:
                    made.const_value.name = value.name
                self._graph.register_initializer(made)

    def _free(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._graph.initializers:
            name, number = f"{stem}_{number}", number + 1
        return name


def rounded(array: Array, dtype: ir.DataType) -> Array:
    """The nearest numbers of half precision; what is not zero does not become zero in float16."""
    if dtype == ir.DataType.BFLOAT16:
        return array.astype(ml_dtypes.bfloat16)
    made = array.astype(np.float16)
    lost = (made == 0) & (array != 0)
    if lost.any():
        made[lost] = np.copysign(np.float16(_TINY), array[lost]).astype(np.float16)
    return made


def in_floats(node: ir.Node) -> bool:
    """Whether a node reads or puts out float32."""
    return any(value is not None and value.dtype == _FLOAT for value in (*node.inputs, *node.outputs))


def _makes_floats(node: ir.Node) -> bool:
    """Whether float32 comes out of nothing of the kind: the operator says the dtype in an attribute."""
    return node.op_type != "Cast" and not any(v is not None and v.dtype == _FLOAT for v in node.inputs)


def _may(node: ir.Node, dtype: ir.DataType, opset: int) -> bool:
    """Whether the first float32 input and every float32 output may be of another dtype."""
    places = [("i", index) for index, v in enumerate(node.inputs) if v is not None and v.dtype == _FLOAT][:1]
    places += [("o", index) for index, value in enumerate(node.outputs) if value.dtype == _FLOAT]
    return all(allows(node, index, kind, dtype, opset) for kind, index in places)


def _retype(node: ir.Node, dtype: ir.DataType, opset: int) -> None:
    for index, value in enumerate(node.outputs):
        if value.dtype == _FLOAT and allows(node, index, "o", dtype, opset):
            value.type = ir.TensorType(dtype)
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))
