"""What a user asks for, and what was cut out for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.devices import expect_device
from converter.dressing import AXES, Dress, Dressed
from converter.editing import Changes
from converter.errors import UsageError
from converter.finish import OPSETS
from converter.imaging import Preprocess
from converter.model import Piece, TensorSpec
from converter.precision import INT4_OPSET, Precision
from converter.report.chart import Chart
from converter.surgery import Frontier
from converter.targets import TARGETS

if TYPE_CHECKING:  # onnx_ir takes half a second to import
    from converter.precision.lowering import Lowered

__all__ = ["DEFAULT_OPSET", "EXTERNAL_DATA", "WORDS_OPSET", "Pieces", "Request"]

DEFAULT_OPSET = 18
WORDS_OPSET = 18  # the first that resizes images as they are resized for training
LAYOUTS = ("source", "native")
# What --external-data says → whether weights go beside.
EXTERNAL_DATA = {"auto": None, "always": True, "never": False}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to keep of a model, how to prove it and what to make of it.

    Attributes:
        to: layers (names, calls, globs) to end at; empty for the model's outputs.
        from_: layers to start from; empty for the model's inputs.
        split: layers to part the model at, into trunk and head.
        frontier: accept what crosses the cut besides `from_` as further inputs.
        targets: kinds of artifacts to write.
        opset: ONNX opset of the `.onnx` files; None for an ONNX file's own, and 18 for other sources.
        device: where ONNX Runtime validates: `auto`, `cpu` or `cuda`.
        samples: the user's inputs to validate on; seeded random ones where None.
        seed: seed of those.
        validate: False writes without proof, marked UNVALIDATED.
        trust: the source was opened with trust; its native models may need it, too.
        external_data: weights of `.onnx` files in a file beside: `auto` (large ones), `always`, `never`.
        link: external data of an ONNX source stay where they are, and are referred to.
        custom_ops: libraries of operators for ONNX Runtime.
        changes: what to change in the model before it is cut; the layer that a head goes onto is in there.
        surgery: a rewrite of each piece, as an `onnx_graphsurgeon.Graph`, before it is finished.
        surgery_preserves: the rewrite claims to preserve values, and is held to that.
        layout: of models rebuilt in another framework: `source` takes and puts out tensors as the source
            does, `native` as that framework's layers do.
        precision: in what the artifacts of ONNX compute; None for the source's own.
        min_snr: what every output has to reach, in dB.
        dress: what stands around each piece: layout, fixed sizes, images in, classes out, names.
        images: what is done to samples that are images, where the piece does not do it itself.
        largest_batch: prove ONNX files on as many samples at once as fit into memory, too.
        drift: compare every layer of the model besides, for the report.
        noise_floor: with `drift`: against the framework in float64 as well.
    """

    to: tuple[str, ...] = ()
    from_: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    frontier: bool = False
    targets: tuple[str, ...] = ("onnx",)
    opset: int | None = None
    device: str = "auto"
    samples: Path | None = None
    seed: int = 0
    validate: bool = True
    trust: bool = False
    external_data: str = "auto"
    link: bool = False
    custom_ops: tuple[Path, ...] = ()
    changes: Changes = dataclasses.field(default_factory=Changes)
    surgery: Callable[[Any], Any] | None = None
    surgery_preserves: bool = False
    layout: str = "source"
    precision: Precision | None = None
    min_snr: float | None = None
    dress: Dress = dataclasses.field(default_factory=Dress)
    images: Preprocess | None = None
    largest_batch: bool = False
    drift: bool = False
    noise_floor: bool = False

    def __post_init__(self) -> None:
        if self.split and (self.to or self.from_):
            raise UsageError("a split is a cut of its own: it goes with neither `to` nor `from`")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise UsageError(f"no target {', '.join(unknown)!r}: expected some of {', '.join(TARGETS)}")
        if self.link and self.external_data == "always":
            raise UsageError(
                "--link leaves weights where they are: --external-data always does not go with it"
            )
        if self.external_data not in EXTERNAL_DATA:
            raise UsageError(f"external data {self.external_data!r}: expected {', '.join(EXTERNAL_DATA)}")
        if self.surgery_preserves and self.surgery is None:
            raise UsageError("there is no --surgery to preserve anything")
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout {self.layout!r}: expected {', '.join((*LAYOUTS, *AXES))}")
        natives = [target for target in self.targets if TARGETS[target].FRAMEWORK != "onnx"]
        if self.surgery is not None and natives:
            raise UsageError(
                f"--surgery rewrites a graph of ONNX: target {', '.join(natives)} would not have it"
            )
        if self.min_snr is not None and not 0 < self.min_snr < math.inf:
            raise UsageError(f"--min-snr {self.min_snr:g}: expected a number of dB above 0")
        self._check_precision(natives)
        self._check_dress()
        self._check_drift()
        expect_device(self.device)
        if self.opset is not None and self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset}: expected {OPSETS.start} to {OPSETS.stop - 1}")

    def _check_precision(self, natives: Sequence[str]) -> None:
        if self.precision is None:
            return
        if natives:
            raise UsageError(
                f"--precision is for what is made of ONNX: target {', '.join(natives)} would not have it",
                hint="tflite-fp16 and tflite-int8 are targets; a run of its own writes the others",
            )
        if self.link:
            raise UsageError("--link leaves weights where they are: --precision does not go with it")
        if self.opset is not None and self.precision.kind == "int4-weights" and self.opset < INT4_OPSET:
            raise UsageError(f"opset {self.opset} has no types of 4 bits: expected {INT4_OPSET} at least")

    def _check_drift(self) -> None:
        if self.noise_floor and not self.drift:
            raise UsageError("--noise-floor goes with --drift")

    def _check_dress(self) -> None:
        if self.images is not None and self.samples is None:
            raise UsageError("--images says what is done to --samples, and there are none")
        if self.dress and self.surgery is not None:
            raise UsageError(
                "--surgery does not go with layouts, sizes, names and words around a piece",
                hint="write the piece first, and dress the file that comes out",
            )
        if self.dress and self.link:
            raise UsageError("--link leaves an ONNX file's weights where they are: nothing else may change")
        if self.dress.layout and self.layout != "source":
            raise UsageError(f"layout is {self.layout} or {self.dress.layout}, not both")

    @property
    def finishes(self) -> bool:
        """Whether pieces of ONNX files, too, are finished, and do not stay as they stand."""
        return bool(self.dress) or self.precision is not None

    @property
    def calibrates(self) -> bool:
        """Whether something is measured on samples that nothing may be validated on."""
        return (self.precision is not None and self.precision.measures) or any(
            getattr(TARGETS[kind], "PRECISION", None) == "int8" for kind in self.targets
        )


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What was cut out of a model.

    Attributes:
        pieces: a trunk, a head, a segment, the whole model; or a trunk and its head.
        raw: the same before they were finished: what models of other frameworks are made of.
        frontier: what crosses the cut; None where nothing starts at a layer.
        inputs: the model's inputs, as they were when it was cut.
        tables: rows of the embedding that each integer input of the model indexes.
        lowered: role of a piece of less precision → what was done to it.
        dressed: the source as the pieces see it, where something stands around them.
        chart: what became of each layer of the source.
    """

    pieces: tuple[Piece, ...]
    raw: tuple[Piece, ...]
    frontier: Frontier | None
    inputs: tuple[TensorSpec, ...]
    tables: Mapping[str, int]
    lowered: Mapping[str, Lowered] = dataclasses.field(default_factory=dict)
    dressed: Dressed | None = None
    chart: Chart | None = None

    def turned(self, piece: Piece) -> dict[str, list[int]]:
        """Inputs and outputs of a piece whose axes are not in the source's order → the permutation."""
        found = {} if self.dressed is None else self.dressed.turned
        return {spec.name: found[spec.name] for spec in (*piece.inputs, *piece.outputs) if spec.name in found}

    @property
    def crossing(self) -> tuple[str, ...]:
        """The names of the tensors that cross the cut."""
        edge = self.frontier
        return () if edge is None else (*(b.name for b in (*edge.cut, *edge.crossing)), *edge.inputs)
