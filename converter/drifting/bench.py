"""A model with all of its points as outputs, in one piece and parted into its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converter.drifting.points import Point
from converter.errors import ValidationError
from converter.model import Array, LayeredModel
from converter.onnxfile.index import inner_graphs
from converter.runtime import Session
from converter.stored import read_instead, stored, tap

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
        self._proto, self._folder = stored(model, [point.boundary for point in points], folder)
        del self._proto.graph.output[:]
        tap(self._proto.graph, self._values)
        self._whole: Session | None = None
        self._parted: Session | None = None

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
    read_instead(copy.graph, {value: value + FED for value in fed})
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


def _reads(graph: onnx.GraphProto) -> set[str]:
    found = {name for node in graph.node for name in node.input}
    return found.union(*(_reads(inner) for node in graph.node for inner in inner_graphs(node)))
