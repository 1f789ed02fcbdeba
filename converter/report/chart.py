"""The layers of a model, and what became of each: what a report draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from converter.model import TensorSpec

__all__ = ["CUT_AWAY", "DROPPED", "KEPT", "NEW", "PARTLY", "Chart", "ChartLayer"]

KEPT, CUT_AWAY, PARTLY, NEW, DROPPED = "kept", "cut away", "partly", "new", "dropped"


@dataclasses.dataclass(frozen=True)
class ChartLayer:
    """A layer of the source.

    Attributes:
        name: its name.
        kind: its class or operator.
        state: `kept`, `cut away`, `partly` (some of what it holds is kept), `new` (put in), `dropped`.
        pieces: roles of the pieces that compute it.
        frontier: a piece starts or ends at a tensor of it.
        outputs: what it puts out, as far as that is known.
        parameters: number of scalar weights, those of its sub-layers included.
        reads: the layers whose outputs it reads, by their places in the chart.
        around: names of what it stands in, outermost first, where its own name does not say that.
        values: names of its outputs in the layered graph.
        error: largest difference from the framework over the framework's largest magnitude, where known.
        own_error: the same of the layer alone, on the framework's own tensors.
        limit: what `error` was held to.
        verdict: of a drift: `agrees`, `own`, `inherited`, `accumulated`.
    """

    name: str
    kind: str
    state: str
    pieces: tuple[str, ...] = ()
    frontier: bool = False
    outputs: tuple[TensorSpec, ...] = ()
    parameters: int = 0
    reads: tuple[int, ...] = ()
    around: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    error: float | None = None
    own_error: float | None = None
    limit: float | None = None
    verdict: str | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """The layers of a source in about the order of execution.

    Attributes:
        layers: the layers.
        gaps: (place in `layers`, number of layers left out before it).
    """

    layers: tuple[ChartLayer, ...]
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def left_out(self) -> int:
        """How many layers are not shown."""
        return sum(count for _, count in self.gaps)

    def as_dict(self) -> dict[str, Any]:
        """The layers as JSON-ready values."""
        return {"left_out": self.left_out, "list": [self._layer(layer) for layer in self.layers]}

    def _layer(self, layer: ChartLayer) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": layer.name,
            "kind": layer.kind,
            "state": layer.state,
            "pieces": list(layer.pieces),
            "frontier": layer.frontier,
            "outputs": [
                {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in layer.outputs
            ],
            "parameters": layer.parameters,
            "reads": [self.layers[place].name for place in layer.reads],
        }
        figures: Mapping[str, Any] = {
            "error": layer.error,
            "own_error": layer.own_error,
            "limit": layer.limit,
            "verdict": layer.verdict,
        }
        return entry | {key: value for key, value in figures.items() if value is not None}
