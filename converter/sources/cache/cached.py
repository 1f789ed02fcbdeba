"""A source whose exports are kept: what was exported before is read back, and only weights are attached."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from converter.edits import Edits
from converter.model import Array, Boundary, Layer, LayeredModel, Outline, Source, SourceInfo, TensorSpec
from converter.onnxfile import OnnxFile
from converter.sources.cache.store import Entry, Store
from converter.sources.digest import sha256_of, versions_of

__all__ = ["CachedSource"]

_PACKAGES = ("converter", "onnx", "onnx-ir", "onnxscript")


@dataclasses.dataclass(frozen=True)
class _Outline:
    """What an export is of: the model's ends, its layers, and which tensors are in the graph.

    Attributes:
        whole: every layer was traced, not only those that some trunk needs.
        values: `Boundary.value` of the tensors that the graph has.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Boundary, ...]
    layers: tuple[Layer, ...]
    whole: bool
    values: frozenset[str]

    def serves(self, names: Sequence[str]) -> bool:
        """Whether such a cut may come from it: trunks to these layers, or without any what needs the whole.

        A model may fix the batch where one of its trunks does not; then the whole serves no trunk.
        """
        if not self.whole:
            return bool(names)
        return not names or any("batch" in spec.shape for spec in self.inputs)

    def model(self, graph: ir.Model) -> LayeredModel:
        """The layered model that has this graph."""
        layers = tuple(la for la in self.layers if any(b.value in self.values for b in la.boundaries))
        outputs = tuple(boundary for boundary in self.outputs if boundary.value in self.values)
        return LayeredModel(graph, self.inputs, outputs, layers)


class CachedSource:
    """A source with the same verbs, which asks the one inside only for what the cache does not have.

    Args:
        source: the source; it has an `origin`.
        store: where exports are kept.
        whole: export whole models, so that every later cut is found.
    """

    def __init__(self, source: Source, store: Store, *, whole: bool = False) -> None:
        self._source = source
        self._store = store
        self._whole = whole
        self._names: tuple[str, ...] = ()
        self._outline: _Outline | None = None
        self._loaded: tuple[int, _Outline, LayeredModel] | None = None
        self.info: SourceInfo = source.info
        self.packages: tuple[str, ...] = source.packages
        self.beside = source.beside
        self.origin = source.origin
        self.added = source.added

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._source.inputs if self._outline is None else self._outline.inputs

    @property
    def outputs(self) -> tuple[Boundary, ...]:
        return self._source.outputs if self._outline is None else self._outline.outputs

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._source.layers if self._outline is None else self._outline.layers

    def outline(self, most: int, near: Sequence[Boundary] = ()) -> Outline:
        return self._source.outline(most, near)

    def expect(self, names: Sequence[str], *, trunk: bool = True) -> None:
        self._names = names = tuple(names) if trunk and not self._whole else ()
        self._outline = None
        for entry in self._store.find(self._key):
            outline = _outline(entry.header)
            known = {layer.name for layer in outline.layers}
            reached = outline.whole or all(name.partition(":")[0] in known for name in names)
            if reached and outline.serves(names):
                self._outline = outline
                return
        self._source.expect(self._names)

    def export(self, sinks: Sequence[Boundary], opset: int) -> LayeredModel:
        wanted = {boundary.value for boundary in sinks}
        if self._loaded is not None and self._loaded[0] == opset and self._serves(self._loaded[1], wanted):
            return self._loaded[2]
        for entry in self._store.find(self._key):
            outline = _outline(entry.header)
            if entry.header["opset"] == opset and self._serves(outline, wanted):
                self._store.touch(entry)
                self._outline = outline
                self._loaded = opset, outline, outline.model(_with_weights(entry, self._source.weights()))
                return self._loaded[2]
        return self._exported(sinks, opset)

    def _serves(self, outline: _Outline, wanted: set[str]) -> bool:
        return outline.serves(self._names) and wanted <= outline.values

    def _exported(self, sinks: Sequence[Boundary], opset: int) -> LayeredModel:
        """Export from the source, and keep what comes of it."""
        source, self._outline = self._source, None
        source.expect(self._names)
        boundaries = [*source.outputs, *(b for layer in source.layers for b in layer.boundaries)]
        layered = source.export(boundaries if self._whole else sinks, opset)
        assert not isinstance(layered.graph, OnnxFile)
        made = {value.name for node in layered.graph.graph for value in node.outputs}
        values = frozenset(b.value for b in boundaries) & made
        outline = _Outline(source.inputs, source.outputs, source.layers, bool(source.outputs), values)
        self._loaded = opset, outline, layered
        header = {
            **dataclasses.asdict(outline),
            "values": sorted(values),
            "opset": opset,
            "source": self.info.locator,
            "cut": "" if outline.whole else ", ".join(self._names),
            "initializers": list(layered.graph.graph.initializers),
        }
        self._store.put(self._key, header, _without_weights(layered.graph, set(source.weights())))
        return layered

    def weights(self) -> Mapping[str, ir.TensorProtocol]:
        return self._source.weights()

    @property
    def model(self) -> Any:
        """The framework's own object."""
        return getattr(self._source, "model", None)

    def trainable(self) -> Mapping[str, str]:
        return self._source.trainable()

    def frozen(self) -> Set[str]:
        return self._source.frozen()

    def edited(self, edits: Edits, info: SourceInfo) -> Source:
        return self._source.edited(edits, info)

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        return self._source.run(feeds, wanted)

    def run64(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        return self._source.run64(feeds, wanted)

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        return self._source.native(inputs, starts, ends)

    @functools.cached_property
    def _key(self) -> str:
        """The digest of all that decides what is exported."""
        package = Path(__file__).resolve().parents[2]
        code = [sha256_of(path) for path in sorted(package.glob("sources/**/*.py"))]
        versions = versions_of([*_PACKAGES, *self.packages])
        weights = {n: [str(w.dtype), *map(str, w.shape)] for n, w in self._source.weights().items()}
        parts = [self.info.kind, self.origin, self.info.weights, code, versions, weights]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _outline(header: Mapping[str, Any]) -> _Outline:
    return _Outline(
        tuple(_spec(spec) for spec in header["inputs"]),
        tuple(_boundary(boundary) for boundary in header["outputs"]),
        tuple(
            Layer(**{**layer, "boundaries": tuple(_boundary(b) for b in layer["boundaries"])})
            for layer in header["layers"]
        ),
        header["whole"],
        frozenset(header["values"]),
    )


def _boundary(fields: Mapping[str, Any]) -> Boundary:
    return Boundary(_spec(fields["spec"]), fields["value"])


def _spec(fields: Mapping[str, Any]) -> TensorSpec:
    value_range = fields["value_range"]
    return TensorSpec(
        fields["name"],
        tuple(fields["shape"]),
        fields["dtype"],
        None if value_range is None else (value_range[0], value_range[1]),
    )


def _without_weights(model: ir.Model, weights: set[str]) -> bytes:
    """The model's bytes with inputs in the place of the source's weights; other constants stay."""
    copy = model.clone()
    graph = copy.graph
    for name in [name for name in graph.initializers if name in weights]:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    data: bytes = ir.to_proto(copy).SerializeToString()
    return data


def _with_weights(entry: Entry, weights: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """The model with the source's weights as initializers again, in the order that they had."""
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(entry.graph))
    graph = model.graph
    names = {spec["name"] for spec in entry.header["inputs"]}
    found = dict(graph.initializers)
    for value in [value for value in graph.inputs if value.name not in names]:
        assert value.name is not None
        graph.inputs.remove(value)
        value.const_value = weights[value.name]
        found[value.name] = value
    graph.initializers.clear()
    for name in entry.header["initializers"]:
        graph.register_initializer(found[name])
    return model
