"""What the rows of a profile cost by the graph alone: weights, work, bytes moved, activations alive."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from functools import cached_property

import onnx

from converter.onnxfile import BITS, OnnxFile
from converter.onnxfile import inferred as bounded_inference
from converter.planning.macs import macs_of
from converter.planning.shapes import Shapes
from converter.profiling.graph import Written

__all__ = ["Costs", "Peak", "reinferred"]

# Inputs that say how others are quantised, by operator: they are no parameters of the float model.
_SCALES: Mapping[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
}
_GATHERS = frozenset(["Gather", "GatherND", "GatherElements", "GatherBlockQuantized"])


@dataclasses.dataclass(frozen=True)
class Peak:
    """The largest sum of activations that are alive at once.

    Attributes:
        bytes: that sum.
        row: the row whose node runs then.
        unsized: tensors whose sizes are not known, which count nothing.
    """

    bytes: int
    row: str
    unsized: int


class Costs:
    """Costs of nodes by their numbers.

    Attributes:
        macs: multiply-accumulate operations of each node; None where a shape or the operator is not known.
    """

    def __init__(self, written: Written, shapes: Shapes) -> None:
        self.written, self.shapes = written, shapes
        self.macs = [macs_of(node, shapes) for node in written.nodes]
        self._scales = frozenset(
            node.input[index]
            for node in written.nodes
            for index in _SCALES.get(node.op_type, ())
            if index < len(node.input)
        )

    def nbytes(self, value: int) -> int | None:
        """Bytes of a tensor; None where its shape or its type is not known."""
        name = self.written.edges.names[value]
        shape, bits = self.shapes.sizes.get(name), BITS.get(self.shapes.types.get(name, 0))
        return None if shape is None or bits is None else (math.prod(shape) * bits + 7) // 8

    @cached_property
    def weights(self) -> dict[int, tuple[int, int, int]]:
        """Weight → the first node that reads it, its parameters, its bytes.

        Parameters are elements, several to a byte where weights are packed; scalars (limits, factors),
        integers of 64 bits (sizes, axes, indices), scales and zero points are none, but their bytes count.
        """
        found: dict[int, tuple[int, int, int]] = {}
        for number, reads in enumerate(self.written.edges.reads):
            for value in reads:
                if value not in found:
                    held = self._held(value)
                    if held is not None:
                        found[value] = (number, *held)
        for value, (number, _, nbytes) in list(found.items()):
            node, name = self.written.nodes[number], self.written.edges.names[value]
            numbers = {attribute.name: attribute.i for attribute in node.attribute}
            if node.op_type == "MatMulNBits" and node.input[1] == name:  # the last block is padded
                found[value] = (number, numbers["K"] * numbers["N"], nbytes)
            elif node.op_type == "GatherBlockQuantized" and node.input[0] == name:
                found[value] = (number, nbytes * 8 // numbers.get("bits", 4), nbytes)
        return found

    def _held(self, value: int) -> tuple[int, int] | None:
        """Parameters and bytes of a value that the file holds; None for what is computed or fed."""
        name = self.written.edges.names[value]
        weight = self.written.file.weights.get(name)
        if weight is not None:
            dims, dtype, nbytes = weight.dims, weight.dtype, weight.nbytes
        else:
            producer = self.written.edges.producer.get(value, -1)
            node = self.written.nodes[producer] if producer >= 0 else None
            if node is None or node.op_type != "Constant":
                return None
            tensor = next((a.t for a in node.attribute if a.name == "value"), onnx.TensorProto())
            dims, dtype = tuple(tensor.dims), tensor.data_type
            nbytes = (math.prod(dims) * BITS.get(dtype, 0) + 7) // 8
        counts = dims and dtype != onnx.TensorProto.INT64 and name not in self._scales
        return (math.prod(dims) if counts else 0), nbytes

    def moved(self, nodes: Collection[int]) -> int | None:
        """Bytes that some nodes together read and write: what goes in, weights, what comes out.

        Each tensor counts once, of a table the rows that are taken; what stays between them counts nothing.
        """
        edges, inside = self.written.edges, set(nodes)
        made = {value for node in inside for value in edges.writes[node]}
        values = {value for node in inside for value in edges.reads[node]} - made
        for value in made & self.written.varying:
            readers = self.written.readers.get(value, ())
            if value in self.written.ends or not readers or any(r not in inside for r in readers):
                values.add(value)
        for value in made - self.written.varying:  # what is constant is weights, as the file holds them
            if self._held(value) is not None:
                values.add(value)
        sizes = [self._read(value, inside) for value in values]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _read(self, value: int, inside: Collection[int]) -> int | None:
        """Bytes of a tensor; of a table from which rows are gathered, as many as are taken out."""
        held = self._held(value)
        size = held[1] if held else self.nbytes(value)
        readers = [node for node in self.written.readers.get(value, ()) if node in inside]
        tables = [n for n in readers if self.written.nodes[n].op_type in _GATHERS and self._is_data(value, n)]
        if size is None or not readers or len(tables) < len(readers):
            return size
        taken = [self.nbytes(self.written.edges.writes[node][0]) for node in tables]
        return min(size, sum(count if count is not None else size for count in taken))

    def _is_data(self, value: int, node: int) -> bool:
        return self.written.edges.reads[node][0] == value

    def peak(self) -> Peak:
        """The peak of activations when nodes run in the order of the file, nothing fused, nothing in place.

        Inputs are alive from the start until their last reader has run, others from the node that makes them;
        outputs stay. Weights, and what is computed of weights alone, are no activations.
        """
        edges, written = self.written.edges, self.written
        last = {value: nodes[-1] for value, nodes in written.readers.items()}
        alive = sum(self.nbytes(value) or 0 for value in edges.inputs)
        peak, row = alive, "(inputs)"
        used = (value for value in written.varying if value in last or value in written.ends)
        unsized = sum(self.nbytes(value) is None for value in used)
        leaving: dict[int, list[int]] = {}
        for value in written.varying - written.ends:
            if value in last or value in edges.producer:
                leaving.setdefault(last.get(value, edges.producer.get(value, 0)), []).append(value)
        for node, writes in enumerate(edges.writes):
            alive += sum(self.nbytes(value) or 0 for value in writes if value in written.varying)
            if alive > peak:
                peak, row = alive, written.rows[node]
            alive -= sum(self.nbytes(value) or 0 for value in leaving.get(node, ()))
        return Peak(peak, row, unsized)


def reinferred(
    shapes: Shapes, file: OnnxFile, known: Mapping[str, tuple[int, ...]], types: Mapping[str, int]
) -> None:
    """Add shapes that a run has shown, and infer further ones from these.

    Operators that ONNX does not define stop its shape inference; what follows them is known once they ran.
    """
    missing = {name: sizes for name, sizes in known.items() if name not in shapes.sizes}
    if not missing:
        return
    for name, sizes in missing.items():
        shapes.sizes[name] = sizes
        if name in types:
            shapes.types.setdefault(name, types[name])
    model = onnx.ModelProto()
    model.CopyFrom(file.header)
    model.graph.CopyFrom(shapes.graph)
    for name in missing:
        if shapes.types.get(name):
            model.graph.value_info.append(
                onnx.helper.make_tensor_value_info(name, shapes.types[name], shapes.sizes[name])
            )
    inferred = Shapes(shapes.graph, {})
    inferred.read(bounded_inference(model).graph)
    for name, sizes in inferred.sizes.items():
        shapes.sizes.setdefault(name, sizes)
    for name, kind in inferred.types.items():
        shapes.types.setdefault(name, kind)
