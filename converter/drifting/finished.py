"""The model as it ships: finished, its outputs alone put out, so that a runtime may fuse as it likes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.drifting.points import Point
from converter.finish import finish
from converter.model import Array, LayeredModel
from converter.onnxfile import Excerpt
from converter.runtime import Session
from converter.surgery import cut
from converter.targets import TARGETS

__all__ = ["SUFFIX", "Finished"]

# What is added to the name of an output for that of the finished graph.
SUFFIX = "#finished"


class Finished:
    """The finished graph in ONNX Runtime, with all of its optimisations; an ONNX file is as it is.

    Attributes:
        points: its outputs, each computed from the same output of the unfinished graph, as it were.
    """

    def __init__(
        self,
        model: LayeredModel,
        points: Sequence[Point],
        folder: Path,
        provider: str,
        custom_ops: Sequence[Path] = (),
    ) -> None:
        """Finish a model.

        Args:
            model: the layered model, whole; it is not changed.
            points: what is compared of the unfinished graph.
            folder: to write to, to be removed afterwards.
            provider: ONNX Runtime's execution provider.
            custom_ops: libraries of operators for ONNX Runtime.

        Raises:
            TargetError: it cannot be finished or written.
            ValidationError: it does not load.
        """
        compared = {point.value: point for point in points}
        ends = [boundary for boundary in model.outputs if boundary.value in compared]
        piece = cut(model, "model", (), ends)
        if not isinstance(piece.graph, Excerpt):
            finish(piece, piece.graph.opset_imports[""])
        path = folder / "finished.onnx"
        TARGETS["onnx"].write(piece, path, {})
        self._session = Session(path, provider, custom_ops=custom_ops)
        self._names = {b.value + SUFFIX: s.name for b, s in zip(ends, piece.outputs, strict=True)}
        self.points = tuple(
            Point(
                name=f"{b.name}{SUFFIX}",
                boundary=dataclasses.replace(b, value=b.value + SUFFIX),
                kind="finished graph",
                inputs=(b.value,),
                constant=compared[b.value].constant,
            )
            for b in ends
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """The outputs, under the values of the unfinished graph with a suffix."""
        found = self._session.run(feeds)
        return {value: found[name] for value, name in self._names.items()}
