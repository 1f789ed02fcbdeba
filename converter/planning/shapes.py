"""The shapes of everything in a graph, for one sample of given sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from converter.errors import UsageError
from converter.model import LayeredModel
from converter.onnxfile import SMALL, OnnxFile, inferred, stub_model

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Shapes", "concrete"]

# For symbolic sizes that nobody gave: an image's sides, a sequence's length.
IMAGE_SIDE, LENGTH = 224, 128


class Shapes:
    """Shapes and element types by value.

    Attributes:
        graph: the graph, whose inputs have fixed sizes; its large weights have no data.
        sizes: value → its shape; missing where it cannot be told.
        types: value → its TensorProto.DataType.
        assumed: what symbolic sizes of inputs were taken to be, by name.
    """

    def __init__(self, graph: onnx.GraphProto, assumed: Mapping[str, int]) -> None:
        self.graph = graph
        self.assumed = dict(assumed)
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}

    def read(self, graph: onnx.GraphProto) -> None:
        """Take over what a graph says about its values."""
        for tensor in graph.initializer:
            self.sizes[tensor.name], self.types[tensor.name] = tuple(tensor.dims), tensor.data_type
        for info in (*graph.input, *graph.value_info, *graph.output):
            kind = info.type.tensor_type
            if not info.type.HasField("tensor_type"):
                continue
            self.types[info.name] = kind.elem_type
            dims = kind.shape.dim
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in dims):
                self.sizes[info.name] = tuple(d.dim_value for d in dims)
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    if inner.node:
                        self.read(inner)


def concrete(model: LayeredModel, given: Mapping[str, Sequence[int]]) -> Shapes:
    """The shapes of a model for one sample.

    By ONNX's shape inference; where sizes are computed in ways that it does not follow, after onnxscript has
    folded what is constant now that the inputs have fixed sizes.

    Args:
        model: the layered model.
        given: sizes of inputs by name; the first symbolic size is 1 without, others are assumed.
    """
    graph = model.graph
    proto = stub_model(graph) if isinstance(graph, OnnxFile) else _stub_of(graph)
    assumed: dict[str, int] = {}
    held = {tensor.name for tensor in proto.graph.initializer}
    _check(given, {info.name: info for info in proto.graph.input if info.name not in held})
    for info in proto.graph.input:
        if info.name not in held:
            _fix(info, given.get(info.name, ()), assumed)
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    shapes = Shapes(proto.graph, assumed)
    shapes.read(inferred(proto).graph)
    if any(name not in shapes.sizes for node in proto.graph.node for name in node.output if name):
        shapes.read(_folded(proto).graph)
    _from_boundaries(model, shapes)
    for node in reversed(proto.graph.node):  # folding leaves one name of the two
        if node.op_type == "Identity" and node.output[0] in shapes.sizes:
            shapes.sizes.setdefault(node.input[0], shapes.sizes[node.output[0]])
    return shapes


def _folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir as ir
    import onnxscript.optimizer

    model = ir.from_proto(proto)
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=SMALL, output_size_limit=SMALL
    )
    return inferred(ir.to_proto(model))


def _from_boundaries(model: LayeredModel, shapes: Shapes) -> None:
    """What layers say about their own tensors stands in where nothing else is known."""
    for layer in model.layers:
        for boundary in layer.boundaries:
            sizes = [1 if s == "batch" else shapes.assumed.get(str(s), s) for s in boundary.spec.shape]
            if boundary.value not in shapes.sizes and all(isinstance(size, int) for size in sizes):
                shapes.sizes[boundary.value] = tuple(int(size) for size in sizes)


def _check(given: Mapping[str, Sequence[int]], inputs: Mapping[str, onnx.ValueInfoProto]) -> None:
    """Refuse sizes that no input has."""
    for name, sizes in given.items():
        if name not in inputs:
            raise UsageError(f"no input is called {name!r}", hint=f"the inputs are {', '.join(inputs)}")
        dims = inputs[name].type.tensor_type.shape.dim
        fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        if len(fixed) != len(sizes) or any(f not in (None, s) for f, s in zip(fixed, sizes, strict=True)):
            says = "x".join(
                dim.dim_param or str(dim.dim_value) if dim.dim_param or dim.dim_value else "?" for dim in dims
            )
            raise UsageError(f"{name} has the shape {says}, which {'x'.join(map(str, sizes))} is not")


def _fix(info: onnx.ValueInfoProto, given: Sequence[int], assumed: dict[str, int]) -> None:
    """Fix the sizes of an input: as given, as another input's of the same name, or as one may expect."""
    dims = info.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value") and not given:
            continue
        name = dim.dim_param or f"{info.name}_dim{axis}"
        usual = 1 if axis == 0 else IMAGE_SIDE if len(dims) >= 4 else LENGTH
        size = given[axis] if axis < len(given) else assumed.get(name, usual)
        if not dim.HasField("dim_value"):
            assumed[name] = size
        dim.dim_value = size


def _stub_of(model: ir.Model) -> onnx.ModelProto:
    """The model without the bytes of its large weights."""
    from converter.onnxfile.memory import without_initializers

    weights = {name: value.const_value for name, value in model.graph.initializers.items()}
    large = {name: weight for name, weight in weights.items() if weight is not None and weight.nbytes > SMALL}
    proto = without_initializers(model, large)
    for name, weight in large.items():
        proto.graph.initializer.add(name=name, dims=list(weight.shape.numpy()), data_type=weight.dtype)
    return proto
