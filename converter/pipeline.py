"""The whole story: source → (edit) → export → cut → finish → write → validate → deliver."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.editing import Edited, edit
from converter.errors import CutError, TargetError, UsageError
from converter.finish import finish, name_by_layer, restate
from converter.model import Boundary, LayeredModel, Piece, Source
from converter.onnxfile import FROM_FILE, Excerpt
from converter.proving import failure, prove
from converter.report import Document, Timings, metadata
from converter.request import DEFAULT_OPSET, EXTERNAL_DATA, Pieces, Request
from converter.runtime import provider_for
from converter.samples import vocabularies
from converter.sources import sha256_of, versions_of
from converter.surgery import Frontier, cut, frontier, legal_cuts, select
from converter.targets import TARGETS, staged

__all__ = [
    "changed",
    "check_targets",
    "convert",
    "cut_out",
    "deliver",
    "whole",
]

_PACKAGES = ("converter", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu")
Progress = Callable[[str, str], None]


def convert(source: Source, request: Request, folder: Path, progress: Progress, timings: Timings) -> Document:
    """Cut a source as requested, prove the pieces, and write them to `folder`.

    Raises:
        CutError, ValidationError, TargetError: as the stages say; nothing is written then.
    """
    check_targets(source, request)
    edited = changed(source, request, progress, timings)
    source = source if edited is None else edited.source
    made = cut_out(source, request, progress, timings)
    return deliver(source, made, request, folder, progress, timings, edited)


def changed(source: Source, request: Request, progress: Progress, timings: Timings) -> Edited | None:
    """The model with what is asked for changed in it; None where nothing is."""
    if not request.changes:
        return None
    with timings.stage("edit"):
        progress("edit", source.info.name)
        return edit(source, request.changes, seed=request.seed, trust=request.trust)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Hold Python's cyclic garbage collector back while graphs are built.

    Nearly every object made then is kept; each full collection walks all of the framework's
    objects to find nothing, and takes up to a quarter of the whole time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_collector()
def cut_out(source: Source, request: Request, progress: Progress, timings: Timings) -> Pieces:
    """Export what the cut needs, cut it, and finish the pieces."""
    with timings.stage("trace"):
        named = (*request.from_, *request.split, *request.to)
        source.expect(named, trunk=not (request.from_ or request.split))
        progress("trace", source.info.name)
        inputs = [spec.name for spec in source.inputs]
        starts = select(request.split or request.from_, source.layers, inputs)
        ends = select(request.to, source.layers, inputs) or source.outputs
    with timings.stage("export"):
        progress("export", f"what {_names(ends)} needs")
        layered = source.export([*starts, *ends], request.opset or DEFAULT_OPSET)
    with timings.stage("cut"):
        pieces, edge = _cut(layered, request, starts, ends)
        progress("cut", " | ".join(map(str, pieces)))
    if request.surgery is not None:
        with timings.stage("surgery"):
            progress("surgery", ", ".join(piece.role for piece in pieces))
            for piece in pieces:
                _rewrite(piece, request, request.surgery)
    with timings.stage("finish"):
        for piece in pieces:
            _finish(piece, request.opset)
        progress("finish", ", ".join(f"{p.role} {p.nodes} nodes" for p in pieces))
    return Pieces(pieces, edge, layered.inputs, vocabularies(layered.graph))


def deliver(
    source: Source,
    made: Pieces,
    request: Request,
    folder: Path,
    progress: Progress,
    timings: Timings,
    edited: Edited | None = None,
) -> Document:
    """Write the pieces to a scratch folder, validate what was written, move it into place."""
    check_targets(source, request)
    provider = provider_for(request.device) if request.validate else ""
    versions = versions_of([*_PACKAGES, *source.packages])
    asked = _asked(request, made.crossing)
    edits = None if edited is None else edited.facts
    proof = f"passed: {provider} against {source.info.kind}"
    if request.surgery is not None and not request.surgery_preserves:
        proof = f"shapes only: {provider}"
    proof = proof if request.validate else "UNVALIDATED"
    with staged(folder) as scratch:
        with timings.stage("write"):
            progress("write", f"{', '.join(request.targets)} to {folder}")
            files: list[dict[str, Any]] = []
            natives = _natives(source, made, request)
            for piece in made.pieces:
                facts = metadata(source.info, asked, piece, proof, versions, edits)
                files += _write(piece, natives, request, scratch, facts, folder if request.link else None)
            _spare(source, [folder / name for name in ("report.json", *(file["path"] for file in files))])
        certificate = None
        if request.validate:
            with timings.stage("validate"):
                judge = "the uncut file" if source.info.kind == "onnx" else f"{source.info.kind} itself"
                progress("validate", f"{provider} against {judge}")
                home = folder if request.link else None
                certificate = prove(source, made, natives, request, scratch, provider, home, edited)
        document = Document(
            source.info, asked, made.pieces, certificate, files, timings.seconds, versions, edits
        )
        if certificate is not None and not certificate.passed:
            raise failure(document, certificate)
        (scratch / "report.json").write_text(document.as_json(), encoding="utf-8")
    return document


# ---------------------------------------------------------------- steps


def _rewrite(piece: Piece, request: Request, function: Callable[[Any], Any]) -> None:
    """Let the user's function change a piece; its ends may be others then, unless values are preserved."""
    from converter.surgery.rewrite import rewritten, specs_of

    if isinstance(piece.graph, Excerpt):
        restate(piece, request.opset)
    else:
        name_by_layer(piece)
    assert not isinstance(piece.graph, Excerpt)
    notes = piece.graph.meta
    graph = rewritten(piece.graph, function, piece.role)
    graph.meta.update(notes)
    inputs, outputs = specs_of(graph.graph.inputs), specs_of(graph.graph.outputs)
    ends = [[(spec.name, spec.dtype) for spec in specs] for specs in (inputs, outputs)]
    before = [[(spec.name, spec.dtype) for spec in specs] for specs in (piece.inputs, piece.outputs)]
    piece.graph = graph
    if request.surgery_preserves:
        if ends != before:
            raise TargetError(
                f"the rewrite cannot preserve values: it has {ends[0]} -> {ends[1]}, "
                f"expected {before[0]} -> {before[1]}"
            )
        return
    ranges = {spec.name: spec.value_range for spec in piece.inputs}
    piece.inputs = tuple(dataclasses.replace(s, value_range=ranges.get(s.name)) for s in inputs)
    piece.outputs, piece.starts, piece.ends = outputs, (), ()


def _finish(piece: Piece, opset: int | None) -> None:
    """Pieces of ONNX files stay as they stand there, unless another opset is asked for."""
    if isinstance(piece.graph, Excerpt):
        empty = not piece.graph.numbers
        if opset is not None and not empty:
            restate(piece, opset)
    elif piece.graph.meta.get(FROM_FILE):
        empty = False  # rewritten by the user, in the opset that was asked for
    else:
        finish(piece, opset or DEFAULT_OPSET)
        empty = all(node.op_type == "Identity" for node in piece.graph.graph)
    if piece.starts and empty:
        raise CutError(f"nothing is computed after {_names(piece.starts)}: the {piece.role} is empty")


def whole(source: Source, opset: int = DEFAULT_OPSET) -> LayeredModel:
    """The layered graph of the whole model, side branches included."""
    source.expect(())
    everything = [b for layer in source.layers for b in layer.boundaries]
    return source.export([*source.outputs, *everything], opset)


def _cut(
    model: LayeredModel, request: Request, starts: Sequence[Boundary], ends: Sequence[Boundary]
) -> tuple[tuple[Piece, ...], Frontier | None]:
    if not starts:
        return (cut(model, "trunk" if request.to else "model", (), ends),), None
    edge = frontier(model, starts, ends)
    if edge.idle and len(edge.idle) == len(starts):
        raise CutError(f"{_names(ends)} does not depend on {_names(starts)}: nothing lies between")
    crossing = (*edge.cut, *edge.crossing)
    if request.split:
        return (cut(model, "trunk", (), crossing), cut(model, "head", crossing, ends)), edge
    if not edge.single and not request.frontier:
        raise _not_single(model, edge, starts, ends)
    return (cut(model, "segment" if request.to else "head", crossing, ends),), edge


def _not_single(
    model: LayeredModel, edge: Frontier, starts: Sequence[Boundary], ends: Sequence[Boundary]
) -> CutError:
    also = [f"{b.spec}" for b in edge.crossing] + [f"the input {name}" for name in edge.inputs]
    legal = legal_cuts(model, ends)
    order = [layer.name for layer in model.layers]
    values = {b.value for b in starts}
    places = [i for i, la in enumerate(model.layers) if any(b.value in values for b in la.boundaries)]
    before = [name for name in order[: min(places)] if name in legal][-1:]
    after = [name for name in order[max(places) + 1 :] if name in legal][:1]
    near = " and ".join(before + after)
    return CutError(
        f"{_names(starts)} is not all that crosses the cut: {', '.join(also)} crosses it, too",
        hint=f"{f'single-tensor cuts nearest to it: {near}; ' if near else ''}"
        "--frontier accepts the further inputs, --split makes a trunk that puts them out",
    )


def check_targets(source: Source, request: Request) -> None:
    """Refuse targets that this source cannot have.

    Raises:
        UsageError, TargetError: as the names say.
    """
    if request.link and source.info.kind != "onnx":
        raise UsageError(f"{source.info.locator} has no external data to link: --link is for ONNX files")
    for kind in request.targets:
        framework = TARGETS[kind].FRAMEWORK
        if framework not in (None, source.info.kind):
            raise TargetError(
                f"target {kind!r} is a native model of {framework}, and {source.info.locator} is one of "
                f"{source.info.kind}",
                hint="the target onnx is for every source",
            )


def _spare(source: Source, targets: Sequence[Path]) -> None:
    """Refuse to write over what the source is read from."""
    for own in (Path(source.info.locator), *source.beside):
        for target in targets:
            if own.exists() and target.exists() and own.samefile(target):
                raise TargetError(
                    f"{target} is what the source is read from, and would be written over",
                    hint="choose another --output",
                )


def _natives(source: Source, made: Pieces, request: Request) -> dict[str, Any]:
    """Each piece as an object of the source's framework, by role, where a target asks for it."""
    if not any(TARGETS[kind].FRAMEWORK for kind in request.targets):
        return {}
    return {
        piece.role: source.native([spec.name for spec in piece.model_inputs], piece.starts, piece.ends)
        for piece in made.pieces
    }


def _write(
    piece: Piece,
    natives: Mapping[str, Any],
    request: Request,
    folder: Path,
    facts: dict[str, str],
    home: Path | None,
) -> list[dict[str, Any]]:
    written = []
    for kind in dict.fromkeys(request.targets):
        path = folder / f"{piece.role}{TARGETS[kind].SUFFIX}"
        if kind == "onnx":
            beside = EXTERNAL_DATA[request.external_data]
            files = TARGETS[kind].write(piece, path, facts, beside=beside, home=home)
        else:
            files = TARGETS[kind].write(natives[piece.role], path)
        for file in files:
            about: dict[str, Any] = {"bytes": file.stat().st_size}
            if request.validate:  # an unproven file needs no digest, and a large one costs more than the cut
                about["sha256"] = sha256_of(file).removeprefix("sha256:")
            written.append(
                {"kind": kind, "piece": piece.role, "path": str(file.relative_to(folder)), **about}
            )
    return written


def _asked(request: Request, crossing: Sequence[str]) -> dict[str, Any]:
    return {
        "to": list(request.to),
        "from": list(request.from_),
        "split": list(request.split),
        "frontier": list(crossing),
    }


def _names(boundaries: Sequence[Boundary]) -> str:
    return ", ".join(boundary.name for boundary in boundaries)
