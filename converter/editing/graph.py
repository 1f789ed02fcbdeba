"""Changed ONNX graphs, of ONNX files and with heads that are ONNX files themselves.

A changed graph is written to a file of its own and opened as any other. What judges it is not that file: it
is the original, run to where it was changed, then the new layers by themselves, then the original's rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from converter.editing.changes import Changes
from converter.editing.edit import Edited
from converter.editing.heads import OnnxHead, channels_last_of
from converter.editing.weights import digests, kept_weights
from converter.edits import Call, Edits, Region, bridge, expect_one_to_one, regions
from converter.errors import CutError, SourceError, TargetError, UsageError, ValidationError
from converter.finish import finish
from converter.finish.cleanup import remove_unused
from converter.heads import Head
from converter.model import Array, Boundary, Layer, LayeredModel, Piece, Source, SourceInfo, TensorSpec
from converter.onnxfile import FROM_FILE, Excerpt, OnnxFile
from converter.onnxfile.memory import as_model
from converter.runtime import Session
from converter.scratch import Scratch
from converter.sources.onnx import OnnxSource
from converter.surgery import cut, frontier
from converter.surgery.graft import bypass, graft, values_of
from converter.surgery.heads import head_model
from converter.targets import TARGETS
from converter.validation import compare

__all__ = ["edited_graph"]

Judge = Callable[[Mapping[str, Array], Sequence[str]], dict[str, Array]]
_OPSET = 18


def edited_graph(source: Source, edits: Edits, info: SourceInfo, changes: Changes) -> Edited:
    """The changed model as an ONNX file; see `converter.editing.edit`."""
    made = source
    if (edits.replaced or edits.dropped) and not isinstance(source, OnnxSource):
        raise TargetError(
            "layers from an ONNX file go onto a cut (--to LAYER --head FILE), not into the middle"
        )
    if isinstance(source, OnnxSource) and any(w.is_sparse for w in source.file.weights.values()):
        raise TargetError("a file with sparse weights is cut, but not changed")
    if edits.frozen:
        raise TargetError("a graph of ONNX is not trained: there is nothing to freeze")
    for layer, new in edits.replaced:
        assert isinstance(made, OnnxSource)
        made = _replaced(made, layer, new, edits, info)
    if edits.dropped:
        assert isinstance(made, OnnxSource)
        for given, out in _bridges(made, edits.dropped):
            made = _rewired(made, given, out, None, info)
    if edits.end is not None:
        made = _headed(made, edits, info)
    assert isinstance(made, OnnxSource)
    weights = kept_weights(
        _weights(source), digests(_weights(made)), folded=not isinstance(source, OnnxSource)
    )
    return Edited(made, source, (), changes.described() | {"weights": weights})


def _weights(source: Source) -> Mapping[str, ir.TensorProtocol]:
    """The weights by name, read when they are asked for."""
    if not isinstance(source, OnnxSource):
        return source.weights()
    model = _whole(source)[1]
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def _whole(source: OnnxSource) -> tuple[LayeredModel, ir.Model]:
    """The whole file, to cut and to change."""
    layered = source.export([], None)
    piece = cut(layered, "model", (), source.outputs)
    assert isinstance(piece.graph, Excerpt)
    return layered, as_model(piece.graph)


class _Changed(OnnxSource):
    """A changed graph in a file of its own, judged by what it was made of."""

    def __init__(self, model: ir.Model, info: SourceInfo, judge: Judge) -> None:
        self._folder = Scratch()
        path = self._folder.path / "model.onnx"
        model.meta[FROM_FILE] = True
        remove_unused(model)
        for value in (v for node in model.graph for v in node.outputs if not v.is_graph_output()):
            value.shape = value.type = None  # what they were before the change
        TARGETS["onnx"].write(Piece("model", model, (), (), (), ()), path, {})
        super().__init__(OnnxFile(path))
        self.info = info
        self._judge = judge

    @property
    def beside(self) -> tuple[Path, ...]:
        return ()

    def native(self, inputs: Sequence[str], starts: Sequence[Boundary], ends: Sequence[Boundary]) -> Any:
        del inputs, starts, ends
        raise TargetError(
            "a model with layers from an ONNX file, or made of one, has no framework besides ONNX",
            hint="leave native targets out, or give the layers in words: --head dense(10)",
        )

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[Boundary]) -> dict[str, Array]:
        return self._judge(feeds, [boundary.value for boundary in wanted])


# ---------------------------------------------------------------- a head on a cut


def _headed(base: Source, edits: Edits, info: SourceInfo) -> OnnxSource:
    end: Boundary | None = edits.end
    new: Any = edits.head
    assert end is not None
    if not isinstance(base, OnnxSource):
        base.expect([end.name])
    layered = base.export([end], _OPSET)
    piece = cut(layered, "trunk", (), (end,))
    if isinstance(piece.graph, Excerpt):
        model = as_model(piece.graph)
    else:
        finish(piece, _OPSET)
        model = piece.graph
    spec = piece.outputs[0]
    if isinstance(new, Head):
        new = new.onto(
            spec.shape, channels_last=edits.channels_last, usual=channels_last_of(base), seed=edits.seed
        )
    at = values_of(model)[spec.name]
    prefix = _free_prefix(base, model)
    ends = graft(model, dict.fromkeys(_inputs(new), at), _scion(new, spec, model), prefix)
    model.graph.outputs[:] = ends
    model.graph.sort()
    names = [value.name or "" for value in ends]

    def judge(feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        there = [name for name in wanted if name not in names]
        if there and not isinstance(base, OnnxSource):
            raise SourceError(
                f"a model of {base.info.kind} with a head of ONNX is not cut again at {there[0]}",
                hint="write it, and cut the file",
            )
        given = base.run(feeds, [end, *(_boundary(base, name) for name in there)])
        made = _run(new, given[end.value])
        return {n: made[n.removeprefix(prefix)] if n in names else given[n] for n in wanted}

    return _Changed(model, info, judge)


def _free_prefix(source: Source, model: ir.Model) -> str:
    """What the names of a head begin with, and no other name of the model."""
    taken = {*values_of(model), *(source.file.edges.ids if isinstance(source, OnnxSource) else ())}
    number, prefix = 1, "head/"
    while any(name.startswith(prefix) for name in taken):
        number += 1
        prefix = f"head_{number}/"
    return prefix


def _inputs(new: Head | OnnxHead) -> list[str]:
    if isinstance(new, Head):
        return ["input"]
    held = {tensor.name for tensor in new.model.graph.initializer}
    return [value.name for value in new.model.graph.input if value.name not in held]


def _scion(new: Head | OnnxHead, given: TensorSpec, model: ir.Model) -> onnx.ModelProto:
    """New layers as a graph in the opset of the model that they go into."""
    opset = model.opset_imports.get("", _OPSET)
    if isinstance(new, Head):
        if opset < 9:
            raise TargetError(f"new layers need opset 9, and the model is in {opset}", hint="--opset 18")
        return head_model(new, given, opset)
    held = {tensor.name for tensor in new.model.graph.initializer}
    (value,) = (v for v in new.model.graph.input if v.name not in held)
    _fits(new.name, value, given)
    found = next((o.version for o in new.model.opset_import if o.domain in ("", "ai.onnx")), opset)
    if found == opset:
        return new.model
    try:
        return onnx.version_converter.convert_version(new.model, opset)
    except Exception as error:
        raise TargetError(
            f"{new.name} is in opset {found}, and cannot be expressed in {opset}, which the model is in",
            hint=f"convert the model first: converter convert MODEL --opset {found}",
        ) from error


def _fits(name: str, value: onnx.ValueInfoProto, given: TensorSpec) -> None:
    """Refuse a head that declares an input of another type or shape."""
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    sizes = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
    differing = len(sizes) != len(given.shape) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(sizes, given.shape, strict=False)
    )
    if dtype != given.dtype or (differing and kind.HasField("shape")):
        shown = ", ".join(map(str, sizes))
        raise UsageError(f"{name} takes {value.name}: {dtype}[{shown}], and the layer puts out {given}")


def _run(new: Head | OnnxHead, value: Array) -> dict[str, Array]:
    if isinstance(new, Head):
        return {new.units[-1].name: new.run(value).astype(value.dtype)}
    return new.run(value)


# ---------------------------------------------------------------- changes in the middle


def _bridges(source: OnnxSource, layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """(what goes in, what comes out) of each group of layers to leave out."""
    chosen = {number for layer in layers for number in source.members(layer)}
    return [
        tuple(
            source.file.edges.names[v] for v in bridge([la.name for la in layers], region, _described(source))
        )  # type: ignore[misc]
        for region in _regions(source, chosen)
    ]


def _regions(source: OnnxSource, chosen: set[int]) -> list[Region]:
    edges = source.file.edges
    varying = edges.varying()
    calls = [
        Call(
            str(n), tuple(v for v in reads if v in varying), tuple(v for v in edges.writes[n] if v in varying)
        )
        for n, reads in enumerate(edges.reads)
    ]
    computing = {number for number in chosen if calls[number].writes}  # constants are of no region
    return regions(calls, computing, {edges.ids[boundary.value] for boundary in source.outputs})


def _described(source: OnnxSource) -> Callable[[int], tuple[str, Any]]:
    def describe(value: int) -> tuple[str, Any]:
        spec = _boundary(source, source.file.edges.names[value]).spec
        return f"{spec}", (spec.shape, spec.dtype)

    return describe


def _replaced(source: OnnxSource, layer: Layer, new: Any, edits: Edits, info: SourceInfo) -> OnnxSource:
    found = _regions(source, set(source.members(layer)))
    reads, writes = ([v for region in found for v in getattr(region, side)] for side in ("reads", "writes"))
    expect_one_to_one(layer.name, len(reads), len(writes))
    names = source.file.edges.names
    given, out = names[reads[0]], names[writes[0]]
    spec, old = (_boundary(source, name).spec for name in (given, out))
    reshaped = ""
    if isinstance(new, Head):
        new = new.onto(
            spec.shape, channels_last=edits.channels_last, usual=channels_last_of(source), seed=edits.seed
        )
        shape = new.shapes(spec.shape)[-1]
        if shape[1:] != old.shape[1:]:
            shown = ", ".join(map(str, shape))
            reshaped = f"{layer.name} puts out {old}, and what is to replace it [{shown}]"
    return _rewired(source, given, out, new, info, f"{layer.name}/", reshaped)


def _rewired(
    source: OnnxSource,
    given: str,
    out: str,
    new: Head | OnnxHead | None,
    info: SourceInfo,
    prefix: str = "",
    reshaped: str = "",
) -> OnnxSource:
    """A model in which what one tensor was comes from another, through new layers or as it is.

    Args:
        source: the model.
        given: the tensor that goes in.
        out: the tensor that is something else from now on.
        new: the new layers; None where `given` goes on as it is.
        info: of the changed model.
        prefix: what names in the new layers begin with.
        reshaped: says that `out` has another shape than before, which what comes after may not take.
    """
    layered, model = _whole(source)
    values = values_of(model)
    value = values[given]
    if new is not None:
        scion = _scion(new, _boundary(source, given).spec, model)
        ends = graft(model, dict.fromkeys(_inputs(new), value), scion, prefix)
        if len(ends) != 1:
            raise UsageError(f"what replaces a layer puts out one tensor, not {len(ends)}")
        value = ends[0]
    bypass(model, values[out], value, grafted=new is not None)
    rest = _Rest(layered, _boundary(source, out), source)

    def judge(feeds: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        before = source.run(feeds, [_boundary(source, given)])[given]
        changed = before if new is None else next(iter(_run(new, before).values()))
        return rest.run(feeds, changed, wanted)

    if not reshaped:
        return _Changed(model, info, judge)
    for end in model.graph.outputs:
        if end is not value:
            end.shape = None
    try:
        made = _Changed(model, info, judge)
        Session(made.file.path, optimize=False)
    except (SourceError, ValidationError) as error:
        raise CutError(
            f"{reshaped}; what comes after does not take that: {' '.join(error.message.split())[:300]}",
            hint="an inner layer's replacement has the same shape",
        ) from error
    return made


@dataclasses.dataclass
class _Rest:
    """What of a model comes after a tensor, run by itself with another in that tensor's place."""

    model: LayeredModel
    start: Boundary
    source: OnnxSource

    def run(self, feeds: Mapping[str, Array], changed: Array, wanted: Sequence[str]) -> dict[str, Array]:
        """The wanted tensors of the changed model.

        Raises:
            ValidationError: the rest, given what the original has at its start, is not the original.
        """
        ends = [_boundary(self.source, name) for name in wanted if name != self.start.value]
        found = {self.start.value: changed}
        edge = frontier(self.model, [self.start], ends) if ends else None
        after = [b for b in ends if edge is not None and self._depends(b)]
        before = [b for b in ends if b not in after]
        found |= self.source.run(feeds, before) if before else {}
        if not after:
            return {name: found[name] for name in wanted}
        edge = frontier(self.model, [self.start], after)
        crossing = (*edge.cut, *edge.crossing)
        given = self.source.run(feeds, [*crossing, *after])
        with Scratch() as folder:
            path = folder / "rest.onnx"
            piece = cut(self.model, "head", crossing, after)
            assert isinstance(piece.graph, Excerpt)
            for info in piece.graph.inputs:
                if info.name == self.start.value:
                    info.type.tensor_type.ClearField("shape")
            TARGETS["onnx"].write(piece, path, {})
            session = Session(path, optimize=False)
        names = dict(zip((b.value for b in after), (spec.name for spec in piece.outputs), strict=True))
        same = session.run({**feeds, **{b.value: given[b.value] for b in crossing}})
        for value, name in names.items():
            if not compare("rest", value, 0, same[name], given[value], spread=math.inf).passed:
                raise ValidationError(f"the part after {self.start.name} is not the original's at {value}")
        got = session.run({**feeds, **{b.value: given[b.value] for b in crossing}, self.start.value: changed})
        found |= {value: got[name] for value, name in names.items()}
        return {name: found[name] for name in wanted}

    def _depends(self, end: Boundary) -> bool:
        edges = self.source.file.edges
        return edges.ids[self.start.value] in edges.upstream([edges.ids[end.value]])


def _boundary(source: Source, name: str) -> Boundary:
    """The boundary that a tensor is.

    Raises:
        SourceError: it is inside of new layers, where the original has nothing to compare with.
    """
    assert isinstance(source, OnnxSource)
    if name not in source.file.edges.ids:
        raise SourceError(
            f"{name} is inside of a new layer, where the original has no tensor to compare with"
        )
    return source.boundary(name)
