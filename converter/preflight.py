"""An estimate of how much memory a run will take, made before it takes it.

What is held already is measured, not guessed: a framework takes half a gigabyte by itself. What is still to
come is reckoned from the weights that the cut needs and from the largest tensor that a layer puts out,
with factors fitted to measured runs (`benchmarks/memory.py`).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from converter.arrays import headers_of
from converter.errors import SourceError, TargetError, UsageError
from converter.model import Boundary, Layer, Piece, Source, TensorSpec
from converter.onnxfile import Excerpt, OnnxFile
from converter.samples import BATCHES, IMAGE_SIDE, LENGTH
from converter.supervision import limits, memory
from converter.supervision.fate import SMALLER

__all__ = [
    "Demand",
    "Work",
    "budget",
    "check",
    "check_files",
    "demand_of",
    "demand_of_pieces",
    "estimate",
    "rows_of",
]

_MEGABYTE = 10**6


@dataclasses.dataclass(frozen=True)
class Demand:
    """What decides how much memory a run takes from here on.

    Attributes:
        kind: kind of the source: `keras`, `torch` or `onnx`.
        weights: bytes of the weights that the cut needs.
        all_weights: bytes of the whole model's.
        tensor: bytes of the largest tensor that a layer puts out, for all samples that run at once.
        targets: artifacts besides `.onnx`.
        tflite: whether any of them is TensorFlow Lite's.
        validates: whether the source and ONNX Runtime run at all.
    """

    kind: str
    weights: int
    all_weights: int
    tensor: int
    targets: int = 0
    tflite: bool = False
    validates: bool = True


def estimate(demand: Demand, held: int) -> int:
    """Bytes that a run holds at its peak, more rather than less: up to twice what it takes.

    Args:
        demand: what is still to come.
        held: bytes that the process holds before the export.
    """
    if demand.kind == "onnx" and not demand.validates and not demand.targets:
        return held + 50 * _MEGABYTE  # weights are copied from file to file
    # TensorFlow Lite's converter, a process of its own, holds some 36 copies of the weights.
    targets = demand.targets * demand.weights + demand.tflite * (36 * demand.weights + 500 * _MEGABYTE)
    if demand.kind == "onnx":
        session = demand.weights + demand.all_weights  # the uncut file is loaded whole, to judge
        return held + session + targets + 6 * demand.tensor + 150 * _MEGABYTE
    return held + int(2.4 * demand.weights) + targets + 5 * demand.tensor + 300 * _MEGABYTE


def check(demand: Demand) -> str:
    """Refuse a run that will not fit; what to tell the user of one that may not, or nothing.

    Refused is what does not fit even if it takes half of what is still to come: the estimate may be twice
    what a run takes, and nothing that fits shall be refused.

    Raises:
        SourceError: it will not fit into `--memory-limit`, or else into what this machine has left.
    """
    held = memory.resident([os.getpid()])
    left = budget(held)
    found = estimate(demand, held)
    if left is None or found <= left:
        return ""
    if (held + found) // 2 > left:
        weights = limits.in_bytes(demand.weights)
        raise _refusal(
            f"this run would take about {limits.in_bytes(found)} ({weights} of weights)", found, left
        )
    return f"about {limits.in_bytes(found)} at most, {limits.in_bytes(left)} are left: it may not be enough"


def check_files(paths: Iterable[Path]) -> None:
    """Refuse weights that are larger than the memory that there is, before they are read.

    Raises:
        SourceError: their files do not fit into `--memory-limit`, or else into what this machine has left.
    """
    size = sum(path.stat().st_size for path in paths if path.is_file())
    held = memory.resident([os.getpid()])
    left = budget(held)
    if left is not None and held + size > left:
        raise _refusal(f"the weights alone would take {limits.in_bytes(size)}", held + size, left)


def budget(held: int) -> int | None:
    """Bytes that this process may hold in all: `--memory-limit`, else what it holds and the machine has left.

    A margin stays with the machine. None where nothing is known of its memory.
    """
    given, left = limits.memory_limit(), memory.available()
    if given is not None:
        return given
    return None if left is None else held + left - memory.margin()


def _refusal(what: str, needed: int, left: int) -> SourceError:
    allowed = limits.memory_limit() is not None
    bound = f"--memory-limit is {limits.in_bytes(left)}" if allowed else f"{limits.in_bytes(left)} can be had"
    return SourceError(
        f"{what} of memory, and {bound}: refused before it begins",
        hint=f"{SMALLER}; --memory-limit {math.ceil(needed / 1e9)}GB has it tried",
    )


# ---------------------------------------------------------------- what a run has ahead of it


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done with a cut.

    Attributes:
        rows: samples that run at once.
        targets: kinds of artifacts.
        validates: whether anything is run.
    """

    rows: int
    targets: tuple[str, ...]
    validates: bool

    @property
    def others(self) -> int:
        """Artifacts besides `.onnx`."""
        return len({*self.targets} - {"onnx"})

    @property
    def tflite(self) -> bool:
        """Whether any of them is TensorFlow Lite's."""
        return any(target.startswith("tflite") for target in self.targets)


def demand_of(
    source: Source, starts: Sequence[Boundary], ends: Sequence[Boundary], work: Work
) -> Demand | None:
    """What exporting a cut of a framework's model, and all that follows, has ahead of it.

    None of a model that is an ONNX graph since it was changed: it is cut as one, and its pieces tell.

    Args:
        source: the model.
        starts: where the cut starts; empty for the model's inputs.
        ends: where it ends.
        work: what is done with it.
    """
    try:
        tensors = source.weights().values()
    except TargetError:
        return None
    total = sum(tensor.nbytes for tensor in tensors)
    elements = sum(tensor.size for tensor in tensors)
    layers = source.layers
    outputs = {boundary.value for boundary in source.outputs}
    needed = total
    if elements and not starts and outputs.isdisjoint(boundary.value for boundary in ends):
        parameters = sum(layer.parameters for layer in _outermost(layers, ends))
        needed = min(total, math.ceil(parameters * total / elements))
    specs = [boundary.spec for layer in layers for boundary in layer.boundaries]
    largest = _largest(specs, work.rows)
    return Demand(source.info.kind, needed, total, largest, work.others, work.tflite, work.validates)


def demand_of_pieces(file: OnnxFile, pieces: Sequence[Piece], work: Work) -> Demand:
    """What pieces of an ONNX file have ahead of them once they are cut, which takes next to nothing.

    The uncut file judges them, and is loaded whole.
    """
    total = sum(weight.nbytes for weight in file.weights.values())
    specs = [spec for piece in pieces for spec in (*piece.inputs, *piece.outputs) if "..." not in spec.shape]
    needed = sum(map(_weights_in, pieces))
    return Demand("onnx", needed, total, _largest(specs, work.rows), work.others, work.tflite, work.validates)


def _weights_in(piece: Piece) -> int:
    """Bytes of the weights of a piece."""
    if isinstance(piece.graph, Excerpt):
        return sum(weight.nbytes for weight in piece.graph.weights)
    values = piece.graph.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _outermost(layers: Sequence[Layer], ends: Sequence[Boundary]) -> Collection[Layer]:
    """Layers with weights up to the last of some boundaries; no layer inside of another, none twice."""
    values = {boundary.value for boundary in ends}
    places = [i for i, layer in enumerate(layers) if any(b.value in values for b in layer.boundaries)]
    owning = [layer for layer in layers[: max(places, default=-1) + 1] if layer.parameters]
    names = {layer.base for layer in owning}
    found: dict[str, Layer] = {}
    for layer in owning:
        around = {layer.base[:place] for place, character in enumerate(layer.base) if character in "./"}
        if names.isdisjoint(around):
            found.setdefault(layer.base, layer)
    return found.values()


def _largest(specs: Iterable[TensorSpec], rows: int) -> int:
    """Bytes of the largest of some tensors."""
    return max((_bytes(spec, rows) for spec in specs), default=0)


def _bytes(spec: TensorSpec, rows: int) -> int:
    """Bytes of a tensor; sizes that are not known are those of random samples."""
    usual = IMAGE_SIDE if len(spec.shape) >= 4 else LENGTH
    sizes = [
        size if isinstance(size, int) else usual if axis else rows for axis, size in enumerate(spec.shape)
    ]
    try:
        return math.prod(sizes) * spec.numpy_dtype.itemsize
    except TypeError:  # texts, sequences and what else NumPy has no dtype for
        return 0


def rows_of(samples: Path | None, draws: int) -> int:
    """How many samples run at once.

    Args:
        samples: the user's own, `.npz` or a folder of images; what cannot be read counts as random ones.
        draws: batches of random ones that are joined.
    """
    random = draws * max(BATCHES)
    if samples is None:
        return random
    if samples.is_dir():
        return max(1, sum(len(files) for _, _, files in os.walk(samples)))
    try:
        headers = headers_of(samples, "samples").values()
    except UsageError:  # the reader of samples says so where they are read
        return random
    return max((header.shape[0] for header in headers if header.shape), default=1)
