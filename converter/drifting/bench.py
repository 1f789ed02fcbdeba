"""A model with all of its points as outputs, in one piece and parted into its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.drifting.points import Point
from converter.errors import ValidationError
from converter.model import Array, LayeredModel
from converter.onnxfile import OnnxFile, referring
from converter.onnxfile.index import inner_graphs
from converter.runtime import Session
from converter.surgery import cut
from converter.targets import TARGETS

__all__ = ["FED", "Bench"]

# What is added to the name of a point for the input that takes its place.
FED = "#fed"


class Bench:
    """Runs a model in ONNX Runtime, with its optimisations, every point being an output.

    Weights are written to a folder once; those of an ONNX file stay where they are.
    """

    def __init__(
        self,
        model: LayeredModel,
        points: Sequence[Point],
        folder: Path,
        provider: str,
        custom_ops: Sequence[Path] = (),
    ) -> None:
        """Store a model.

        Args:
            model: the layered model, whole; it is not changed.
            points: what to put out.
            folder: an empty one, to be removed afterwards.
            provider: ONNX Runtime's execution provider.
            custom_ops: libraries of operators for ONNX Runtime.
        """
        self._provider, self._custom_ops = provider, tuple(custom_ops)
        self._values = [point.value for point in points]
        self._varying = [point.value for point in points if not point.constant]
        if isinstance(model.graph, OnnxFile):
            content, self._folder = referring(model.graph, {})
            self._proto = onnx.ModelProto.FromString(content)
            del self._proto.graph.output[:]
        else:
            # Under their own names in the graph: no other value has to step aside for them.
            ends = [
                dataclasses.replace(p.boundary, spec=dataclasses.replace(p.boundary.spec, name=p.value))
                for p in points
            ]
            path, self._folder = folder / "model.onnx", folder
            TARGETS["onnx"].write(cut(model, "model", (), ends), path, {}, beside=True)
            self._proto = onnx.load(path, load_external_data=False)
        del self._proto.graph.value_info[:]
        self._tap()
        _narrow_identities(self._proto.graph)
        self._whole: Session | None = None
        self._parted: Session | None = None

    def _tap(self) -> None:
        there = {info.name for info in self._proto.graph.output}
        for value in self._values:
            if value not in there:
                self._proto.graph.output.add(name=value)  # ONNX Runtime infers its type

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Every point, computed from the model's inputs.

        Raises:
            ValidationError: the model does not load or run.
        """
        if self._whole is None:
            self._whole = self._session(self._proto)
        return self._whole.run(feeds, self._values)

    def run_parted(self, feeds: Mapping[str, Array], given: Mapping[str, Any]) -> dict[str, Any]:
        """Every point, computed from what is given at the points before it.

        The graph is cut at all points at once: whatever read a point reads an input instead. Each part is
        then what cutting from its inputs to its own output gives, and all of them run in one session.

        Args:
            feeds: the model's inputs.
            given: point → the array to put in its place; tensors that depend on no input are computed.

        Raises:
            ValidationError: the model does not load or run.
        """
        fed = {v: a for v in self._varying if isinstance(a := given[v], np.ndarray)}
        if self._parted is None:
            self._parted = self._session(_parted(self._proto, fed))
        return self._parted.run({**feeds, **{v + FED: a for v, a in fed.items()}}, self._values)

    def _session(self, model: onnx.ModelProto) -> Session:
        try:
            content = model.SerializeToString()
        except ValueError as error:  # protobuf has no messages of 2 GiB
            raise ValidationError(f"the graph without its weights is too large: {error}") from error
        return Session(content, self._provider, folder=self._folder, custom_ops=self._custom_ops)


def _parted(model: onnx.ModelProto, fed: Mapping[str, Array]) -> onnx.ModelProto:
    """The model in which whatever read one of these values reads an input of the same type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {value: value + FED for value in fed}
    _read_instead(copy.graph, names)
    read = _reads(copy.graph)
    for value, array in fed.items():
        if value + FED in read:
            kind = (
                onnx.TensorProto.STRING
                if array.dtype.kind in "OSU"
                else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            )
            # Of sizes the number alone: they change from batch to batch.
            copy.graph.input.append(
                onnx.helper.make_tensor_value_info(value + FED, kind, [None] * array.ndim)
            )
    return copy


def _read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for inner in inner_graphs(node):
            _read_instead(inner, names)


def _reads(graph: onnx.GraphProto) -> set[str]:
    found = {name for node in graph.node for name in node.input}
    return found.union(*(_reads(inner) for node in graph.node for inner in inner_graphs(node)))


def _narrow_identities(graph: onnx.GraphProto) -> None:
    """Take from an Identity all but its first input: exported loops have such with the shape as a second."""
    for node in graph.node:
        if node.op_type == "Identity":
            del node.input[1:]
        for inner in inner_graphs(node):
            _narrow_identities(inner)
