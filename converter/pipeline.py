"""The whole story: source → (edit) → export → cut → finish → write → validate → deliver."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter import preflight
from converter.charting import chart, with_comparisons, with_drift, with_edits
from converter.devices import Device, device_for, provider_for
from converter.dressing import Dressed, dress, settle
from converter.editing import Edited, edit
from converter.errors import CutError, SourceError, TargetError, UsageError, ValidationError
from converter.finish import finish, name_by_layer, opened, restate
from converter.making import Workshop
from converter.model import Boundary, LayeredModel, Piece, Source, TensorSpec
from converter.onnxfile import FROM_FILE, Excerpt, OnnxFile
from converter.precision import lower
from converter.proving import Proof, failure
from converter.report import Document, Timings, metadata
from converter.report.chart import Chart
from converter.request import DEFAULT_OPSET, WORDS_OPSET, Pieces, Request
from converter.samples import expect_samples, vocabularies
from converter.sources import unchanging, versions_of
from converter.supervision import channel
from converter.surgery import Frontier, cut, frontier, legal_cuts, select
from converter.targets import TARGETS, expect_writable, staged
from converter.validation import Certificate
from converter.writing import INGREDIENTS, without, write

__all__ = [
    "changed",
    "check_targets",
    "convert",
    "cut_out",
    "deliver",
    "whole",
]

_PACKAGES = ("converter", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu")
_REPORTS = ("report.json", "report.html")
if TYPE_CHECKING:  # onnx_ir takes half a second to import
    from converter.precision.ends import Scale
    from converter.precision.lowering import Lowered

Progress = Callable[[str, str], None]


def convert(source: Source, request: Request, folder: Path, progress: Progress, timings: Timings) -> Document:
    """Cut a source as requested, prove the pieces, and write them to `folder`.

    Raises:
        CutError, ValidationError, TargetError: as the stages say; nothing is written then.
        UsageError: the samples are not for this source.
        SourceError: it will not fit into memory, or what it is read from was changed meanwhile.
    """
    check_targets(source, request)
    expect_writable(folder)
    if request.validate and request.device == "cuda":
        _device(request)
    with _unchanging(source):
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


def _unchanging(source: Source) -> contextlib.AbstractContextManager[None]:
    """Make sure that the file that a source goes on reading from stays as it was, whatever comes of it.

    Raises:
        SourceError: it was changed.
    """
    return unchanging(getattr(source, "expect_unchanged", lambda: None))  # of what was not read as a whole


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
        rows = preflight.rows_of(request.samples, 1 if request.precision is None else 6)
        if request.samples is not None:  # what stands around the pieces changes what samples are
            expect_samples(request.samples, () if request.dress else source.inputs)
        work = preflight.Work(rows, request.targets, request.validate)
        if source.info.kind != "onnx":
            _expect_to_fit(preflight.demand_of(source, starts, ends, work), progress)
    with timings.stage("export"):
        progress("export", f"what {_names(ends)} needs")
        opset = request.opset or DEFAULT_OPSET
        layered = source.export([*starts, *ends], max(opset, WORDS_OPSET) if request.dress.words else opset)
    with timings.stage("cut"):
        pieces, edge = _cut(layered, request, starts, ends)
        drawn = chart(source, layered, pieces)
        dressed = _dressed(source, pieces, layered.inputs, request)
        raw = tuple(map(_copied, pieces))
        progress("cut", " | ".join(map(str, pieces)))
        if isinstance(layered.graph, OnnxFile):
            _expect_to_fit(preflight.demand_of_pieces(layered.graph, pieces, work), progress)
    if request.surgery is not None:
        with timings.stage("surgery"):
            progress("surgery", ", ".join(piece.role for piece in pieces))
            for piece in pieces:
                _rewrite(piece, request, request.surgery)
    with timings.stage("finish"):
        for piece in pieces:
            _finish(piece, request)
        progress("finish", ", ".join(f"{p.role} {p.nodes} nodes" for p in pieces))
    tables = vocabularies(layered.graph)
    if dressed is None:
        return Pieces(pieces, raw, edge, layered.inputs, tables, chart=drawn)
    return Pieces(pieces, raw, edge, dressed.inputs, dressed.renamed(tables), dressed=dressed, chart=drawn)


def deliver(
    source: Source,
    made: Pieces,
    request: Request,
    folder: Path,
    progress: Progress,
    timings: Timings,
    edited: Edited | None = None,
) -> Document:
    """Write the pieces to a scratch folder, validate what was written, move it into place.

    Raises:
        ValidationError: something computes what the source does not; nothing is written then.
        TargetError: some artifacts cannot be made; the others are written, and the error has the report.
    """
    check_targets(source, request)
    device = _device(request) if request.validate else None
    provider = "" if device is None else device.provider
    versions = versions_of([*_PACKAGES, *source.packages])
    asked = _asked(request, made.crossing)
    edits = None if edited is None else edited.facts
    with staged(folder) as scratch, _unchanging(source if edited is None else edited.original):
        proof = Proof(source, made, request, device, edited)
        around = {} if made.dressed is None else made.dressed.facts
        made = proof.made = _lowered(proof, progress, timings)
        workshop = Workshop(source, made, request, scratch / INGREDIENTS, proof.calibration)
        with timings.stage("write"):
            progress("write", f"{', '.join(request.targets)} to {folder}")
            facts = {
                piece.role: metadata(
                    source.info,
                    asked,
                    piece,
                    _verdict(source, request, provider),
                    versions,
                    edits,
                    made.lowered[piece.role].facts if piece.role in made.lowered else None,
                    around,
                )
                for piece in made.pieces
            }
            written = write(proof, workshop, facts, scratch, folder if request.link else None)
            files, failures = written.files, written.failures
            _spare(source, [folder / name for name in (*_REPORTS, *(file["path"] for file in files))])
        certificate = None
        if request.validate:
            with timings.stage("validate"):
                judge = "the uncut file" if source.info.kind == "onnx" else f"{source.info.kind} itself"
                progress("validate", f"{device} against {judge}")
                kinds = dict.fromkeys(file["kind"] for file in files)
                home = folder if request.link else None
                certificate, broken = proof.certify(kinds, workshop, scratch, home)
                files = without(files, broken, scratch)
                failures |= broken
        found = None
        if request.drift:
            with timings.stage("drift"):
                progress("drift", f"every layer of {source.info.name}")
                found = _drifting(proof, provider or provider_for(request.device))
        document = Document(
            source.info,
            asked,
            made.pieces,
            certificate,
            files,
            timings.seconds,
            versions,
            edits,
            {kind: (error.message, error.hint) for kind, error in failures.items()},
            [lowered.facts for lowered in made.lowered.values()],
            around,
            samples=written.samples,
            chart=_charted(made, edited, certificate, found),
            drift=found,
        )
        if not files:
            raise _unmade(failures, None)
        if certificate is not None and not certificate.passed:
            raise failure(document, certificate)
        shutil.rmtree(scratch / INGREDIENTS, ignore_errors=True)
        (scratch / "report.html").write_text(document.as_html(), encoding="utf-8")
        (scratch / "report.json").write_text(document.as_json(), encoding="utf-8")
    if failures:
        raise _unmade(failures, document)
    return document


# ---------------------------------------------------------------- steps


def _device(request: Request) -> Device:
    """Where to validate; `auto` leaves what has no kernels on GPUs to the CPU."""
    asked = request.precision
    if request.device == "auto" and asked is not None and asked.kind == "int8-dynamic":
        why = "CUDA has no kernels for DynamicQuantizeLinear and ConvInteger"
        return dataclasses.replace(device_for("cpu"), asked="auto", why=why)
    return device_for(request.device)


def _lowered(proof: Proof, progress: Progress, timings: Timings) -> Pieces:
    """The pieces in the precision that is asked for."""
    made, precision = proof.made, proof.request.precision
    if precision is None:
        return made
    found: dict[str, Lowered] = {}
    scales: dict[str, Scale] = {}  # what one piece puts out in levels the next one takes in the same
    # What is chosen by measuring is measured where it is proven.
    provider = proof.provider or provider_for(proof.request.device)
    with timings.stage("precision"):
        for piece in made.pieces:
            progress("precision", f"{piece.role} in {precision.kind}")
            feeds = proof.calibration(piece) if precision.measures else ()
            found[piece.role] = lower(piece, precision, feeds, provider, scales)
            scales |= found[piece.role].scales
    pieces = tuple(lowered.piece for lowered in found.values())
    return dataclasses.replace(made, pieces=pieces, lowered=found)


def _charted(
    made: Pieces, edited: Edited | None, certificate: Certificate | None, drift: Mapping[str, Any] | None
) -> Chart | None:
    """What became of each layer, with what was put in and taken out, and with errors where they are known."""
    found = made.chart
    if found is None:
        return None
    if edited is not None:
        found = with_edits(found, edited.original, edited.source.added, edited.facts)
    if certificate is not None:
        found = with_comparisons(found, made.pieces, certificate.comparisons)
    return found if drift is None else with_drift(found, drift.get("layers", ()))


def _drifting(proof: Proof, provider: str) -> dict[str, Any]:
    """Every layer of the source compared, for the report: what the pieces are held to is the certificate."""
    from converter.drifting import drift
    from converter.report.drift import drift_as_json

    request, source = proof.request, proof.source
    try:
        found = drift(
            source,
            whole(source),
            proof.feeds[-1],
            provider=provider,
            custom_ops=request.custom_ops,
            noise_floor=request.noise_floor,
        )
    except (SourceError, ValidationError) as error:  # the pieces are proven all the same
        return {"problem": error.message}
    return drift_as_json(found)


def _copied(piece: Piece) -> Piece:
    """The piece with a graph of its own, which shares the weights; an excerpt of a file never changes."""
    graph = piece.graph
    return dataclasses.replace(piece, graph=graph if isinstance(graph, Excerpt) else graph.clone())


def _expect_to_fit(demand: preflight.Demand | None, progress: Progress) -> None:
    """Refuse what will not fit into memory; tell of what may not."""
    note = "" if demand is None else preflight.check(demand)
    if note:
        progress("memory", note)


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


def _finish(piece: Piece, request: Request) -> None:
    """Pieces of ONNX files stay as they stand there, unless another opset or precision is asked for."""
    opset = request.opset
    if not isinstance(piece.graph, Excerpt) and request.finishes:
        finish(piece, opset or (piece.graph.opset_imports[""] if _from_file(piece) else DEFAULT_OPSET))
        if request.dress.static:
            settle(piece)
        empty = not piece.nodes
    elif isinstance(piece.graph, Excerpt):
        empty = not piece.graph.numbers
        if opset is not None and not empty:
            restate(piece, opset)
    elif _from_file(piece):
        empty = False  # rewritten by the user, in the opset that was asked for
    else:
        finish(piece, opset or DEFAULT_OPSET)
        empty = all(node.op_type == "Identity" for node in piece.graph.graph)
    if piece.starts and empty:
        raise CutError(f"nothing is computed after {_names(piece.starts)}: the {piece.role} is empty")


def _from_file(piece: Piece) -> bool:
    return bool(piece.graph.meta.get(FROM_FILE)) if not isinstance(piece.graph, Excerpt) else True


def _dressed(
    source: Source, pieces: Sequence[Piece], inputs: Sequence[TensorSpec], request: Request
) -> Dressed | None:
    """Put on the pieces what is to stand around them; the source as they see it then."""
    if request.finishes:
        for piece in pieces:
            if isinstance(piece.graph, Excerpt):
                opened(piece, request.opset or (WORDS_OPSET if request.dress.words else None))
    return dress(source, pieces, inputs, request.dress) if request.dress else None


def whole(source: Source, opset: int = DEFAULT_OPSET) -> LayeredModel:
    """The layered graph of the whole model, side branches included."""
    channel.stage("export")
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
    """Refuse options that this source cannot have, and targets none of which can be made on this machine.

    Raises:
        UsageError, TargetError: as the names say.
    """
    if request.noise_floor and source.info.kind == "onnx":
        source.run64({}, ())  # says why not
    if request.link and source.info.kind != "onnx":
        raise UsageError(f"{source.info.locator} has no external data to link: --link is for ONNX files")
    missing = []
    for kind in request.targets:
        try:
            getattr(TARGETS[kind], "expect", lambda: None)()
        except TargetError as error:
            missing.append(error)
    if len(missing) == len(request.targets):  # others are made without what is missing
        raise missing[0]


def _verdict(source: Source, request: Request, provider: str) -> str:
    """What the metadata of a file say of its proof: files that fail are not written."""
    if not request.validate:
        return "UNVALIDATED"
    if request.surgery is not None and not request.surgery_preserves:
        return f"shapes only: {provider}"
    return f"passed: {provider} against {source.info.kind}"


def _unmade(failures: Mapping[str, TargetError], document: Document | None) -> TargetError:
    """The error that a run ends with which could not make all that was asked for."""
    first = next(iter(failures.values()))
    if document is None and len(failures) == 1:
        return first
    each = "\n".join(f"  {kind}: {error.message}" for kind, error in failures.items())
    rest = "nothing was written" if document is None else "the others were written"
    return TargetError(
        f"{len(failures)} of the targets could not be made, {rest}:\n{each}", hint=first.hint, report=document
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


def _asked(request: Request, crossing: Sequence[str]) -> dict[str, Any]:
    return {
        "to": list(request.to),
        "from": list(request.from_),
        "split": list(request.split),
        "frontier": list(crossing),
    }


def _names(boundaries: Sequence[Boundary]) -> str:
    return ", ".join(boundary.name for boundary in boundaries)
