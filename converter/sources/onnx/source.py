"""An ONNX file as a source: the verbs of `converter.model.Source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from converter.edits import Edits
from converter.errors import SourceError, TargetError, UsageError, ValidationError
from converter.model import (
    Array,
    Boundary,
    Dim,
    Layer,
    LayeredModel,
    Outline,
    Source,
    SourceInfo,
    TensorSpec,
)
from converter.onnxfile import OnnxFile, referring
from converter.runtime import Session
from converter.sources.onnx.names import Names
from converter.sources.onnx.outline import outline_of

__all__ = ["OnnxSource", "open_onnx_file"]


def open_onnx_file(path: Path, *, trust: bool = False, custom_ops: Sequence[Path] = ()) -> OnnxSource:
    """An ONNX file as a source.

    Args:
        path: the file.
        trust: follow links from its external data out of its folder.
        custom_ops: libraries of operators for ONNX Runtime, which run their code.

    Raises:
        SourceError: it is not there, or no ONNX model.
    """
    return OnnxSource(OnnxFile(path, trust=trust), custom_ops)


class OnnxSource:
    """An ONNX file, seen through the verbs that every source has; ONNX Runtime is its framework."""

    packages: tuple[str, ...] = ()
    added: frozenset[str] = frozenset()
    origin: str | None = None  # opening is quicker than any cache

    def __init__(self, file: OnnxFile, custom_ops: Sequence[Path] = ()) -> None:
        self.file = file
        self.info = SourceInfo("onnx", file.path.stem, str(file.path), "file", True)
        self._custom_ops = tuple(custom_ops)
        self._names = Names(file, self.boundary)
        self._wanted: tuple[str, ...] = ()
        self._layers: tuple[Layer, ...] | None = None
        self._listing = False
        self._taps: tuple[tuple[str, ...], Session] | None = None

    @property
    def beside(self) -> tuple[Path, ...]:
        return self.file.external.opened

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(info) for info in self.file.inputs if info.name not in self.file.weights)

    @property
    def outputs(self) -> tuple[Boundary, ...]:
        # What a file declares needs no inference, which for an output would go through the whole graph.
        return tuple(
            Boundary(self._spec(info), info.name)
            if info.type.tensor_type.HasField("shape")
            else self.boundary(info.name)
            for info in self.file.outputs
        )

    @property
    def layers(self) -> tuple[Layer, ...]:
        if self._layers is None:
            self._layers = self._found()
        return self._layers

    def _found(self) -> tuple[Layer, ...]:
        """The layers that are named next, or all where a name means none or several."""
        named = [(name, self._names.find(name)) for name in self._wanted]
        found = [layer for _, layer in named if layer is not None]
        if named and len(found) == len(named):
            return tuple(found)
        self._listing = True
        layers = self._names.all()
        self._listing = False
        for pattern in (name for name, layer in named if layer is None):
            layers += self._names.tensors_like(pattern, layers)
        return tuple({layer.name: layer for layer in (*found, *layers)}.values())

    def outline(self, most: int, near: Sequence[Boundary] = ()) -> Outline:
        return outline_of(self.file, most, [boundary.value for boundary in near], self._spec)

    def expect(self, names: Sequence[str], *, trunk: bool = True) -> None:
        del trunk  # nothing is traced: what comes after a cut costs nothing
        self._wanted, self._layers = tuple(names), None

    def export(self, sinks: Sequence[Boundary], opset: int | None) -> LayeredModel:
        del sinks, opset  # the file is what it is; finishing takes pieces of it to another opset
        return LayeredModel(self.file, self.inputs, self.outputs, self.layers, anywhere=self.boundary)

    def expect_unchanged(self) -> None:
        """Make sure that what was read is of one state of the file.

        Raises:
            SourceError: somebody has written to it, or put another file in its place.
        """
        self.file.expect_unchanged()

    def weights(self) -> dict[str, Any]:
        raise TargetError("the weights of an ONNX file have no names but those in the file")

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        """The uncut file in ONNX Runtime, without its optimizations, with the wanted tensors as outputs."""
        names = tuple(dict.fromkeys(boundary.value for boundary in wanted))
        if self._taps is None or self._taps[0] != names:
            infos = self.file.typed(names)
            taps = {name: infos.get(name, onnx.ValueInfoProto(name=name)) for name in names}
            model, folder = referring(self.file, taps)
            try:
                session = Session(model, folder=folder, optimize=False, custom_ops=self._custom_ops)
            except ValidationError as error:
                raise SourceError(
                    f"ONNX Runtime cannot run {self.file.path.name}: {error.message}", hint=self._hint(error)
                ) from error
            self._taps = names, session
        return self._taps[1].run(feeds, names)

    def run64(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        del feeds, wanted
        raise UsageError(
            f"{self.info.locator} cannot be run in float64: ONNX Runtime has no such kernel for Conv",
            hint="a noise floor is for Keras and PyTorch models",
        )

    def _hint(self, error: ValidationError) -> str | None:
        known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"} | {
            f.domain for f in self.file.header.functions
        }
        other = sorted({o.domain for o in self.file.header.opset_import} - known)
        if other and not self._custom_ops:
            return (
                f"it has operators of {', '.join(other)}: --custom-ops LIB names the library that runs them, "
                "--no-validate cuts without running anything"
            )
        return error.hint

    def trainable(self) -> dict[str, str]:
        raise TargetError("an ONNX file is not trained: there is nothing to freeze")

    def frozen(self) -> frozenset[str]:
        return frozenset()

    def members(self, layer: Layer) -> list[int]:
        """The nodes of a layer, by their numbers in the file."""
        return self._names.members(layer.name)

    def edited(self, edits: Edits, info: SourceInfo) -> Source:
        del edits, info
        raise TargetError("an ONNX file has no framework besides ONNX")

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        del inputs, starts, ends
        raise TargetError("an ONNX file has no framework besides ONNX")

    def boundary(self, name: str) -> Boundary:
        """The boundary that a tensor of the file is."""
        info = self.file.typed([name]).get(name)
        if info is None and not self._listing:
            info = self._asked(name)
        return Boundary(self._spec(info) if info is not None else TensorSpec(name, ("...",), "unknown"), name)

    def _asked(self, name: str) -> onnx.ValueInfoProto | None:
        """A type that ONNX cannot infer, as ONNX Runtime has it, which knows further operators."""
        model, folder = referring(self.file, {name: onnx.ValueInfoProto(name=name)})
        try:
            session = Session(model, folder=folder, optimize=False, custom_ops=self._custom_ops)
        except ValidationError:
            return None  # the file does not run as it is: cutting it says what is missing
        word, sizes = session.types[name]
        number = _TENSORS.get(word)
        if number is None:
            return None
        shape = [size if isinstance(size, (int, str)) else None for size in sizes]
        info = onnx.helper.make_tensor_value_info(name, number, shape)
        self.file.note(info)
        return info

    def _spec(self, info: onnx.ValueInfoProto) -> TensorSpec:
        return TensorSpec(info.name, *_shape_and_dtype(info.type, info.name))


def _shape_and_dtype(kind: onnx.TypeProto, name: str) -> tuple[tuple[Dim, ...], str]:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return (), f"sequence({_shape_and_dtype(kind.sequence_type.elem_type, name)[1]})"
    if which == "optional_type":
        return (), f"optional({_shape_and_dtype(kind.optional_type.elem_type, name)[1]})"
    if which not in ("tensor_type", "sparse_tensor_type"):
        return ("...",), which or "unknown"
    tensor = getattr(kind, which)
    if not tensor.HasField("shape"):
        return ("...",), _dtype(tensor.elem_type)
    sizes: list[Dim] = []
    for axis, size in enumerate(tensor.shape.dim):
        if size.HasField("dim_value"):
            sizes.append(size.dim_value)
        else:
            sizes.append(size.dim_param or f"{name}_dim{axis}")
    return tuple(sizes), _dtype(tensor.elem_type)


# ONNX Runtime's words for tensors.
_TENSORS = {
    f"tensor({name.lower()})": number
    for name, number in onnx.TensorProto.DataType.items()
    if name != "UNDEFINED"
}
# Where NumPy and ml_dtypes call an element type otherwise than ONNX.
_NAMES = {
    "float": "float32",
    "double": "float64",
    "undefined": "unknown",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn",
}


def _dtype(number: int) -> str:
    try:
        name = str(onnx.TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return "unknown"
    return _NAMES.get(name, name)
