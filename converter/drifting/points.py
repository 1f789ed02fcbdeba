"""The tensors that are compared: every layer boundary of a model that both sides have as an array."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from converter.edges import Edges
from converter.model import Boundary, Layer, LayeredModel
from converter.onnxfile import OnnxFile
from converter.surgery import edges_of

__all__ = ["Point", "Points", "points"]

# Element types that ONNX Runtime puts out as the NumPy arrays that they are.
_ARRAYS = frozenset(
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string unknown".split()
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A tensor that is compared.

    Attributes:
        name: its layer's name, with what tells the tensor from others that the layer puts out.
        boundary: the tensor.
        kind: the class or operator of its layer; `output` for an output of the model that is no layer's.
        inputs: values of the nearest points that it is computed from.
        constant: it depends on no input of the model.
    """

    name: str
    boundary: Boundary
    kind: str
    inputs: tuple[str, ...]
    constant: bool

    @property
    def value(self) -> str:
        return self.boundary.value


@dataclasses.dataclass(frozen=True)
class Points:
    """The tensors that are compared, in order of execution.

    Attributes:
        all: the tensors.
        skipped: name of another → why it is not compared.
        random: the model draws random numbers.
    """

    all: tuple[Point, ...]
    skipped: Mapping[str, str]
    random: bool


def points(model: LayeredModel) -> Points:
    """The boundaries of a model's layers and its outputs, each tensor once, under its first layer's name.

    Args:
        model: the layered model, whole.
    """
    edges = edges_of(model.graph)
    varying = edges.varying()
    found: dict[str, tuple[str, Boundary, str]] = {}
    for layer in model.layers:
        for boundary in layer.boundaries:
            found.setdefault(boundary.value, (_name(layer, boundary), boundary, layer.kind))
    for boundary in model.outputs:
        found.setdefault(boundary.value, (boundary.name, boundary, "output"))
    reasons = {value: _reason(boundary, edges) for value, (_, boundary, _) in found.items()}
    kept = [value for value, reason in reasons.items() if reason is None]
    if isinstance(model.graph, OnnxFile):  # its scopes are listed after its nodes
        kept.sort(key=lambda value: edges.producer[edges.ids[value]])
    stops = {edges.ids[value] for value in kept} & varying
    return Points(
        tuple(
            Point(*found[value], _nearest(edges, edges.ids[value], stops), edges.ids[value] not in varying)
            for value in kept
        ),
        {found[value][0]: reason for value, reason in reasons.items() if reason is not None},
        bool(edges.random),
    )


def _name(layer: Layer, boundary: Boundary) -> str:
    """In ONNX files tensors have names of their own."""
    if len(layer.boundaries) == 1:
        return layer.name
    return boundary.name if boundary.name.startswith(layer.name) else f"{layer.name}:{boundary.name}"


def _reason(boundary: Boundary, edges: Edges) -> str | None:
    """Why a boundary cannot be compared."""
    value = edges.ids.get(boundary.value)
    if value is None:
        return "it is not in the exported graph"
    if value not in edges.producer:
        return "it is an input of the model, or a weight"
    if boundary.spec.dtype not in _ARRAYS:
        return f"ONNX Runtime has no arrays of {boundary.spec.dtype}"
    return None


def _nearest(edges: Edges, value: int, stops: Collection[int]) -> tuple[str, ...]:
    """Walking back from a value, the first points that are met."""
    met: dict[int, None] = {}
    seen: set[int] = set()
    stack = list(edges.before(value))
    while stack:
        read = stack.pop()
        if read in stops:
            met[read] = None
        elif read not in seen:
            seen.add(read)
            stack.extend(edges.before(read))
    return tuple(edges.names[read] for read in sorted(met))
