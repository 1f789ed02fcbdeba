"""A file's profile: what each of its layers costs, as it is written and as it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import onnx

from converter.errors import SourceError, UsageError, ValidationError
from converter.model import Array, LayeredModel, TensorSpec
from converter.onnxfile import OnnxFile
from converter.planning.shapes import Shapes, concrete
from converter.profiling.cost import Costs, Peak, reinferred
from converter.profiling.graph import MOVERS, Written
from converter.profiling.measure import Latency, Measured, Setting, measured
from converter.profiling.trace import Kernel, by_event, marked, traced, unmarked
from converter.samples import draw, vocabularies
from converter.sources.onnx import open_onnx_file

__all__ = ["RUNTIME", "Profile", "Row", "profile"]

# The row of kernels that stand for no node of the file: changes of layout, copies to and from a device.
RUNTIME = "(runtime)"


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer or node.

    Attributes:
        name: its name; `(runtime)` for what ONNX Runtime added.
        operator: that of its most costly node.
        output: shape of the last tensor it puts out; None where it is not known.
        parameters: elements of the weights that no row before it reads.
        weight_bytes: their bytes.
        macs: its multiply-accumulate operations; None where they are not known.
        moved_bytes: what its kernels read and write together, as the file's element types have it; None where
            a size is not known, and where it has no kernels: its tensors stay inside others'.
        intensity: floating-point operations, two a MAC, of a byte moved; None without MACs.
        kernels: the operators that run for it, in order.
        fused: other rows that its kernels compute as well.
        within: where it has no kernel of its own, the rows that compute it; empty if nothing has to run.
        latency: milliseconds of its kernels in a run; None where it has none.
        share: its part of the sum of all rows' medians, from 0 to 1: one slow run counts little.
        gflops: floating-point operations a second that it reached, in 10^9; None without MACs.
    """

    name: str
    operator: str
    output: tuple[int, ...] | None
    parameters: int
    weight_bytes: int
    macs: int | None
    moved_bytes: int | None
    intensity: float | None
    kernels: tuple[str, ...]
    fused: tuple[str, ...]
    within: tuple[str, ...]
    latency: Latency | None
    share: float
    gflops: float | None


@dataclasses.dataclass(frozen=True)
class Profile:
    """A file's profile.

    Attributes:
        path: the file.
        by: what its rows are, `layer` or `node`.
        inputs: its inputs with the sizes that they had.
        assumed: symbolic sizes that nobody gave, by name.
        setting: how it ran.
        rows: in the order of the file; `(runtime)` last, if there is such time.
        parameters: elements of its weights.
        weight_bytes: bytes of its weights.
        file_bytes: bytes of the file and of those beside it that hold its weights.
        macs: multiply-accumulate operations of a run.
        peak: of its activations.
        latency: milliseconds of a whole run, measured without the profiler.
        kernel_latency: milliseconds of all kernels of a run with the profiler.
        uncounted: nodes whose MACs are not known.
    """

    path: Path
    by: str
    inputs: tuple[TensorSpec, ...]
    assumed: Mapping[str, int]
    setting: Setting
    rows: tuple[Row, ...]
    parameters: int
    weight_bytes: int
    file_bytes: int
    macs: int
    peak: Peak
    latency: Latency
    kernel_latency: Latency
    uncounted: tuple[str, ...]


def profile(
    path: Path,
    setting: Setting,
    sizes: Mapping[str, Sequence[int]] | None = None,
    *,
    by: str = "layer",
    seed: int = 0,
    trust: bool = False,
) -> Profile:
    """Profile an ONNX file.

    Args:
        path: the file.
        setting: how to run it.
        sizes: sizes of inputs by name; others that are symbolic are assumed (1 sample, images of 224 x 224,
            sequences of 128).
        by: rows by `layer`, or by `node`.
        seed: of the inputs drawn.
        trust: follow links from external data out of the file's folder.

    Raises:
        SourceError: no such file, no ONNX model, external data that are not there.
        UsageError: sizes that no input has, or inputs for which none can be told.
        ValidationError: the model does not load or does not run.
    """
    _refuse_others(path)
    source = open_onnx_file(path, trust=trust, custom_ops=setting.custom_ops)
    written = Written(source.file, by)
    model = LayeredModel(source.file, source.inputs, (), ())
    try:
        shapes = concrete(model, sizes or {})
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: its types contradict each other: {error}") from error
    inputs = tuple(_fixed(spec, shapes) for spec in source.inputs)
    content, folder = marked(written)
    try:
        ran = measured(content, _feeds(inputs, source.file, seed), setting, folder=folder)
    except ValidationError as error:
        hint = error.hint or "inputs are drawn at random, with the sizes that the file declares"
        if shapes.assumed and error.hint is None:
            hint = f"the sizes {_said(shapes.assumed)} were assumed; --shape NAME=1x3x224x224 sets others"
        raise ValidationError(f"{path}: {unmarked(error.message, written)}", hint=hint) from error
    return _Profiler(path, written, shapes, ran).profile(by, inputs, setting)


def _refuse_others(path: Path) -> None:
    if path.suffix.lower() == ".ort":
        raise SourceError(
            f"{path}: ONNX Runtime's own format holds a graph that is optimised already, without the layers",
            hint="profile the .onnx file that it was made of",
        )
    if path.is_dir():
        raise SourceError(f"{path} is a folder", hint="converter profile takes a .onnx file")
    if path.is_file() and path.suffix.lower() in _KINDS:
        raise SourceError(
            f"{path} is a {path.suffix} file; converter profile takes ONNX files",
            hint=f"converter convert {path} writes one",
        )


_KINDS = frozenset((".keras", ".h5", ".hdf5", ".pt", ".pth", ".pt2", ".py", ".tflite", ".safetensors"))


def _said(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def _fixed(spec: TensorSpec, shapes: Shapes) -> TensorSpec:
    sizes = shapes.sizes.get(spec.name)
    if sizes is None or "..." in spec.shape or len(sizes) != len(spec.shape):
        raise UsageError(
            f"the input {spec} declares no sizes, so that none can be drawn for it",
            hint="write the file with the shapes of its inputs",
        )
    return dataclasses.replace(spec, shape=sizes)


def _feeds(inputs: Sequence[TensorSpec], file: OnnxFile, seed: int) -> dict[str, Array]:
    return draw(inputs, vocabularies(file), seed)[0]


class _Profiler:
    """Joins what a graph says with what ran."""

    def __init__(self, path: Path, written: Written, shapes: Shapes, ran: Measured) -> None:
        self.path, self.written, self.ran = path, written, ran
        self.kernels = traced(written, ran.optimized)
        self.events = by_event(self.kernels, [kernel.name for kernel in ran.kernels])
        self.runs = 1 + max((kernel.run for kernel in ran.kernels), default=0)
        known, types = self._seen()
        reinferred(shapes, written.file, known, types)
        self.costs, self.shapes = Costs(written, shapes), shapes
        self.rows: dict[str, list[int]] = {}
        for node in sorted(range(len(written.rows)), key=lambda node: (written.constant(node), node)):
            self.rows.setdefault(written.rows[node], []).append(node)
        self.row_of: dict[Kernel, str] = {}
        self.computed: dict[str, list[Kernel]] = {}
        self.by: dict[int, str] = {}
        self._attribute()

    def _seen(self) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
        """Shapes and types of original tensors, as kernels put them out."""
        sizes: dict[str, tuple[int, ...]] = {}
        types: dict[str, int] = {}
        for event in self.ran.kernels:
            kernel = self.events.get(event.name)
            if event.run or kernel is None or "nchwc" in kernel.name:
                continue
            for value, (kind, shape) in zip(kernel.outputs, event.outputs, strict=False):
                if value is not None:
                    name = self.written.edges.names[value]
                    sizes[name] = shape
                    types[name] = _TYPES.get(kind, 0)
        return sizes, types

    def _attribute(self) -> None:
        """Say in which row each kernel counts: that of the most costly node that it computes."""
        for kernel in self.kernels:
            main = self.written.main(kernel.nodes, lambda node: self.costs.macs[node] or 0)
            row = RUNTIME if main is None else self.written.rows[main]
            self.row_of[kernel] = row
            self.computed.setdefault(row, []).append(kernel)
            for node in kernel.nodes:
                self.by.setdefault(node, row)

    def profile(self, by: str, inputs: tuple[TensorSpec, ...], setting: Setting) -> Profile:
        times: dict[str, list[float]] = {}
        names: dict[str, dict[str, str]] = {}
        for event in self.ran.kernels:
            kernel = self.events.get(event.name)
            row = RUNTIME if kernel is None else self.row_of[kernel]
            times.setdefault(row, [0.0] * self.runs)[event.run] += event.microseconds / 1e3
            names.setdefault(row, {})[event.name] = event.operator
        sums = [sum(column) for column in zip(*times.values(), strict=True)] or [0.0]
        medians = sum(Latency.of(column).median for column in times.values())
        weights: dict[str, tuple[int, int]] = {}
        for node, parameters, nbytes in self.costs.weights.values():
            before = weights.get(self.written.rows[node], (0, 0))
            weights[self.written.rows[node]] = before[0] + parameters, before[1] + nbytes
        rows = [
            self._row(name, times, tuple(names.get(name, {}).values()), weights.get(name, (0, 0)), medians)
            for name in (*self.rows, *([RUNTIME] if RUNTIME in times else []))
        ]
        file = self.written.file
        macs = self.costs.macs
        return Profile(
            path=self.path,
            by=by,
            inputs=inputs,
            assumed=self.shapes.assumed,
            setting=setting,
            rows=tuple(rows),
            parameters=sum(parameters for _, parameters, _ in self.costs.weights.values()),
            weight_bytes=sum(nbytes for _, _, nbytes in self.costs.weights.values()),
            file_bytes=file.size + sum(path.stat().st_size for path in file.external.opened),
            macs=sum(count or 0 for count in macs),
            peak=self.costs.peak(),
            latency=self.ran.total,
            kernel_latency=Latency.of(sums),
            uncounted=tuple(self.written.name_of(n) for n, count in enumerate(macs) if count is None),
        )

    def _row(
        self,
        name: str,
        times: Mapping[str, Sequence[float]],
        kernels: tuple[str, ...],
        weights: tuple[int, int],
        medians: float,
    ) -> Row:
        own = self.rows.get(name, [])
        latency = Latency.of(times[name]) if name in times else None
        covered = sorted({n for kernel in self.computed.get(name, ()) for n in kernel.nodes})
        work = self._macs(covered) if latency is not None else None
        moved = self.costs.moved(covered) if covered else None
        main = self.written.main(own, lambda node: self.costs.macs[node] or 0)
        main = own[0] if main is None and own else main or 0
        return Row(
            name=name,
            operator=self.written.nodes[main].op_type if own else ", ".join(dict.fromkeys(kernels)),
            output=self._output(own),
            parameters=weights[0],
            weight_bytes=weights[1],
            macs=self._macs(own) if own else None,
            moved_bytes=moved,
            intensity=2 * work / moved if work and moved else None,
            kernels=kernels,
            fused=self._others(name, covered),
            within=() if latency is not None else self._within(name, own),
            latency=latency,
            share=latency.median / medians if latency is not None and medians else 0.0,
            gflops=2 * work / latency.median / 1e6 if work and latency and latency.median else None,
        )

    def _macs(self, nodes: Collection[int]) -> int | None:
        counts = [self.costs.macs[node] for node in nodes]
        return None if None in counts else sum(count or 0 for count in counts)

    def _output(self, nodes: Sequence[int]) -> tuple[int, ...] | None:
        """The shape of what the last node puts out that runs; constants stand behind those."""
        running = [node for node in nodes if not self.written.constant(node)] or nodes
        written = self.written.edges.writes[running[-1]] if running else ()
        return self.shapes.sizes.get(self.written.edges.names[written[0]]) if written else None

    def _others(self, name: str, covered: Sequence[int]) -> tuple[str, ...]:
        """Other rows of which some work, no mere moving of data, is done by a row's kernels."""
        rows = self.written.rows
        working = (n for n in sorted(covered) if self.written.nodes[n].op_type not in MOVERS)
        return tuple(
            dict.fromkeys(rows[n] for n in working if rows[n] != name and not self.written.constant(n))
        )

    def _within(self, name: str, own: Sequence[int]) -> tuple[str, ...]:
        rows = (self.by[n] for n in own if n in self.by and not self.written.constant(n))
        return tuple(dict.fromkeys(row for row in rows if row != name))


# ONNX Runtime's words for element types → TensorProto.DataType.
_TYPES = {name.lower(): number for name, number in onnx.TensorProto.DataType.items()}
