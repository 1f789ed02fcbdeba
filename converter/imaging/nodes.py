"""New nodes of a graph, and preprocessing as nodes in front of its input.

Resizing reads uint8: ONNX Runtime's antialiased Resize then works in Pillow's integers and rounds between
the two axes, which float32 does not; with `exclude_outside` it drops weights beyond an edge, as Pillow does.
It is done on NCHW, since CUDA's kernel long took no other. The channels are put where the model has them
while the image is still uint8. Arithmetic is one multiplication and one addition.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.errors import TargetError
from converter.imaging.steps import Crop, Normalize, Resize, Reverse, Scale, Step
from converter.model import LAYER, Array, Dim, TensorSpec

__all__ = ["Nodes", "put_before"]

_OPSET = 18  # whose Resize has antialias and axes
_ORDERS = {1: (0, 3, 1, 2), 3: (0, 2, 3, 1)}


class Nodes:
    """New nodes of a graph, in order, under names that the graph does not have.

    Attributes:
        made: the nodes, which are in no graph yet.
    """

    def __init__(self, model: ir.Model, layer: str) -> None:
        """Begin with no nodes.

        Args:
            model: where they will be; constants are put there at once.
            layer: what they are called in their metadata.
        """
        self.made: list[ir.Node] = []
        self._graph = model.graph
        self._layer = layer
        self._taken = {value.name for graph in model.graphs() for value in _values(graph)}

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        shape: Sequence[Dim | None],
        *,
        outputs: int = 1,
        **attributes: Any,
    ) -> ir.Value:
        """A node; its first output, whose type is said."""
        node = ir.node(op, inputs, attributes, num_outputs=outputs, name=self.fresh(f"{self._layer}/{op}"))
        node.metadata_props[LAYER] = self._layer
        for index, output in enumerate(node.outputs):
            output.name = self.fresh(f"{node.name}:{index}")
        value = node.outputs[0]
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        self.made.append(node)
        return value

    def constant(self, array: Array) -> ir.Value:
        """An initializer of the graph."""
        name = self.fresh(f"{self._layer}/constant")
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(1)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def _values(graph: ir.Graph | ir.Function) -> list[Any]:
    nodes = list(graph)
    initializers = list(graph.initializers.values()) if isinstance(graph, ir.Graph) else []
    return [*graph.inputs, *initializers, *nodes, *(output for node in nodes for output in node.outputs)]


def put_before(
    model: ir.Model, steps: Sequence[Step], spec: TensorSpec, image: TensorSpec, axis: int
) -> None:
    """Put steps in front of a graph input; see `Preprocess.build`.

    Args:
        model: changed in place.
        steps: what is done to the image.
        spec: the input as the model has it.
        image: the input as it is to be: uint8, NHWC.
        axis: where `spec` has its channels.
    """
    opset = model.opset_imports.get("", 0)
    if opset < _OPSET and any(step.sizing for step in steps):
        raise TargetError(
            f"resizing and cropping need opset {_OPSET}, and the graph is in {opset}",
            hint=f"--opset {_OPSET} or newer, or words that leave the size alone",
        )
    graph = model.graph
    place, old = next((i, value) for i, value in enumerate(graph.inputs) if value.name == spec.name)
    front = _Front(Nodes(model, "preprocess"), image)
    for number, step in enumerate(steps):
        if not any(later.sizing for later in steps[number:]):
            front.turn(axis)
        front.step(step)
    front.turn(axis)
    made = front.finished(spec)
    ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
    graph.inputs[place] = front.image
    if len(graph):
        graph.insert_before(graph[0], front.nodes.made)
    else:
        graph.extend(front.nodes.made)


class _Front:
    """The image on its way: its value, where its channels are, and what is known of its size.

    Attributes:
        image: the new graph input.
        nodes: the nodes so far.
    """

    def __init__(self, nodes: Nodes, image: TensorSpec) -> None:
        self.nodes = nodes
        self.image = ir.Value(name=image.name, shape=ir.Shape(image.shape), type=image.onnx_type)
        self._value = self.image
        self._axis = 3
        self._batch, self._channels = image.shape[0], int(image.shape[3])
        self._sizes: list[Dim | None] = list(image.shape[1:3])
        self._least = [size if isinstance(size, int) else 1 for size in self._sizes]
        self._pixels = True  # whole numbers of 0..255, whatever the dtype
        # Arithmetic that is due: x * factor + offset, for one or all channels.
        self._factor, self._offset = np.ones(1), np.zeros(1)

    def step(self, step: Step) -> None:
        """Add what a step does."""
        match step:
            case Scale():
                ratio = step.factor / step.divisor
                self._factor, self._offset = self._factor * ratio, self._offset * ratio + step.offset
            case Normalize():
                self._factor = self._factor / np.array(step.std)
                self._offset = (self._offset - np.array(step.mean)) / np.array(step.std)
            case Reverse():
                self._factor, self._offset = self._factor[::-1], self._offset[::-1]
                picks = self.nodes.constant(np.array([2, 1, 0], np.int64))
                self._add("Gather", [self._value, picks], axis=self._axis)
            case Resize():
                self._settle()
                self._resize(step)
            case Crop():
                self._settle()
                self._crop(step)

    def turn(self, axis: int) -> None:
        """Put the channels there."""
        if axis != self._axis:
            self._axis = axis
            self._add("Transpose", [self._value], perm=_ORDERS[axis])

    def finished(self, spec: TensorSpec) -> ir.Value:
        """The value that the model takes."""
        self._settle()
        self._cast(ir.DataType.FLOAT)
        self._cast(ir.DataType.from_numpy(spec.numpy_dtype))
        self._value.shape = ir.Shape(spec.shape)
        return self._value

    @property
    def _spatial(self) -> list[int]:
        return [2, 3] if self._axis == 1 else [1, 2]

    def _add(self, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> None:
        """A node that makes the next image."""
        shape = [self._batch, *self._sizes]
        shape.insert(self._axis, self._channels)
        dtype = attributes.pop("dtype", self._value.dtype)
        self._value = self.nodes.add(op, inputs, dtype, shape, **attributes)

    def _cast(self, dtype: ir.DataType) -> None:
        if self._value.dtype != dtype:
            self._add("Cast", [self._value], dtype=dtype, to=dtype)

    def _settle(self) -> None:
        """Do the arithmetic that is due."""
        factor, offset = self._factor, self._offset
        self._factor, self._offset = np.ones(1), np.zeros(1)
        for op, array, nothing in (("Mul", factor, 1), ("Add", offset, 0)):
            if (array != nothing).any():
                self._cast(ir.DataType.FLOAT)
                self._pixels = False
                shape = (-1, 1, 1) if self._axis == 1 and array.size > 1 else (-1,)
                constant = self.nodes.constant(array.astype(np.float32).reshape(shape))
                self._add(op, [self._value, constant])

    def _resize(self, step: Resize) -> None:
        self.turn(1)
        plain = not step.antialias and step.method != "nearest"
        if self._pixels or plain:
            self._cast(ir.DataType.FLOAT if plain else ir.DataType.UINT8)
        sizes = self._constants(step.height, step.width) if step.width else self._shorter(step.height)
        if step.width:
            self._sizes = [step.height, step.width]
            self._least = [step.height, step.width]
        else:
            known = [size for size in self._sizes if isinstance(size, int)]
            self._sizes = list(step.size(*known)) if len(known) == 2 else [None, None]
            self._least = [step.height, step.height]
        # All four sizes, as all eight pads below: where Resize or Pad name axes, ONNX Runtime 1.31 fails when
        # it moves a transpose through them.
        others = self._whole("Shape", self._value, start=0, end=2)
        sizes = self._whole("Concat", others, sizes, size=4, axis=0)
        self._add("Resize", [self._value, None, None, sizes], **_sampling(step))
        if plain and step.method == "bicubic":
            # A Reshape to the same shape, which ONNX Runtime moves no transpose through: moved through the
            # Resize it would make it one of NHWC, which the plain bicubic kernel refuses to shrink.
            self._add("Reshape", [self._value, self._constants(0, 0, 0, 0)])
        if plain and self._pixels:
            self._add("Round", [self._value])
            if step.method == "bicubic":
                ends = [self.nodes.constant(np.array(end, np.float32)) for end in (0, 255)]
                self._add("Clip", [self._value, *ends])

    def _shorter(self, short: int) -> ir.Value:
        """Height and width, in the graph, when the shorter side becomes this long."""
        sides = self._shape()
        least = self._whole("ReduceMin", sides, size=1, keepdims=1)
        return self._whole("Div", self._whole("Mul", sides, self._constants(short)), least)

    def _crop(self, step: Crop) -> None:
        wanted = self._constants(step.height, step.width)
        axes = self._constants(*self._spatial)
        if any(least < side for least, side in zip(self._least, (step.height, step.width), strict=True)):
            lack = self._whole("Max", self._whole("Sub", wanted, self._shape()), self._constants(0))
            before = self._whole("Div", lack, self._constants(2))
            after = self._whole("Sub", lack, before)
            ends = [self._constants(*[0] * count) for count in ((2, 2, 0) if self._axis == 1 else (1, 2, 1))]
            pads = self._whole("Concat", ends[0], before, ends[1], after, ends[2], size=8, axis=0)
            self._sizes = [None, None]
            self._add("Pad", [self._value, pads])
        # Half of the surplus, halves to even, as Python's round has it.
        surplus = self._whole("Sub", self._shape(), wanted)
        half = self.nodes.constant(np.array(0.5, np.float32))
        real = self.nodes.add("Cast", [surplus], ir.DataType.FLOAT, [2], to=ir.DataType.FLOAT)
        real = self.nodes.add("Mul", [real, half], ir.DataType.FLOAT, [2])
        real = self.nodes.add("Round", [real], ir.DataType.FLOAT, [2])
        start = self.nodes.add("Cast", [real], ir.DataType.INT64, [2], to=ir.DataType.INT64)
        end = self._whole("Add", start, wanted)
        self._sizes, self._least = [step.height, step.width], [step.height, step.width]
        self._add("Slice", [self._value, start, end, axes])

    def _shape(self) -> ir.Value:
        rows, columns = self._spatial
        return self._whole("Shape", self._value, start=rows, end=columns + 1)

    def _whole(self, op: str, *inputs: ir.Value, size: int = 2, **attributes: Any) -> ir.Value:
        """A vector of whole numbers."""
        return self.nodes.add(op, inputs, ir.DataType.INT64, [size], **attributes)

    def _constants(self, *values: int) -> ir.Value:
        return self.nodes.constant(np.array(values, np.int64))


def _sampling(step: Resize) -> dict[str, Any]:
    """The attributes of a Resize."""
    modes = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    chosen: dict[str, Any] = {"mode": modes[step.method], "coordinate_transformation_mode": "half_pixel"}
    if step.method == "nearest":
        chosen["nearest_mode"] = "round_prefer_ceil"
    if step.antialias:
        chosen |= {"antialias": 1, "exclude_outside": 1}
    if step.method == "bicubic":
        chosen["cubic_coeff_a"] = -0.5 if step.antialias else -0.75
    return chosen
