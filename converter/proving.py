"""Running what was written beside the framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.editing import Edited
from converter.errors import ValidationError
from converter.model import Piece, Source
from converter.report import Document
from converter.request import Pieces, Request
from converter.runtime import Session
from converter.samples import draw, read_samples
from converter.targets import TARGETS
from converter.validation import Candidate, Certificate, Comparison, check_shapes, validate

__all__ = ["failure", "prove"]


def prove(
    source: Source,
    made: Pieces,
    natives: Mapping[str, Any],
    request: Request,
    folder: Path,
    provider: str,
    home: Path | None,
    edited: Edited | None,
) -> Certificate:
    """Run what was written beside the framework; a split joined, too, a changed model beside the original."""
    if request.samples is not None:
        batches, origin = read_samples(request.samples, made.inputs), request.samples.name
    else:
        batches, origin = draw(made.inputs, made.tables, request.seed), f"seed={request.seed}"
    if request.surgery is not None and not request.surgery_preserves:
        return Certificate(provider, origin, _shapes(made, request, folder, provider), of="shapes")
    candidates, pairs = [], []
    for kind in dict.fromkeys(request.targets):
        judged = [
            _candidate(p, kind, natives.get(p.role), folder, request, provider, home) for p in made.pieces
        ]
        candidates += judged
        if request.split:
            pairs.append((judged[0], judged[1]))
    comparisons = validate(source, candidates, batches, pairs)
    if edited is not None and edited.seams:
        comparisons += validate(edited.original, [_unchanged(edited)], batches)
    return Certificate(provider, origin, comparisons)


def _shapes(made: Pieces, request: Request, folder: Path, provider: str) -> tuple[Comparison, ...]:
    """Pieces that a rewrite may have changed the values of, by the shapes that they declare."""
    found: tuple[Comparison, ...] = ()
    for piece in made.pieces:
        run = Session(folder / f"{piece.role}.onnx", provider, custom_ops=request.custom_ops).run
        feeds = draw(piece.inputs, made.tables, request.seed)
        found += check_shapes(piece.role, piece.inputs, piece.outputs, run, feeds)
    return found


def _unchanged(edited: Edited) -> Candidate:
    """What a changed model computes ahead of its changes, to be held against the original."""
    pairs = {after: before for before, after in edited.seams}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        found = edited.source.run(feeds, list(pairs))
        return {before.name: found[after.value] for after, before in pairs.items()}

    return Candidate("unchanged part", (), tuple((b, b.name) for b in pairs.values()), run)


def _candidate(
    piece: Piece,
    kind: str,
    native: Any,
    folder: Path,
    request: Request,
    provider: str,
    home: Path | None,
) -> Candidate:
    path = folder / f"{piece.role}{TARGETS[kind].SUFFIX}"
    if kind == "onnx":
        # What refers to data of its final folder is loaded as if it stood there.
        model = path if home is None else path.read_bytes()
        name, run = piece.role, Session(model, provider, folder=home, custom_ops=request.custom_ops).run
    else:
        name, run = path.name, TARGETS[kind].reload(path, piece, native, trust=request.trust)
    ends = tuple((b, spec.name) for b, spec in zip(piece.ends, piece.outputs, strict=True))
    return Candidate(name, piece.starts, ends, run)


def failure(document: Document, certificate: Certificate) -> ValidationError:
    failures = certificate.failures()
    first = failures[0]
    what = first.problem or f"scaled error {first.scaled_error:.2e} > {first.tolerance:.1e}"
    return ValidationError(
        f"{len(failures)} of {len(certificate.comparisons)} comparisons failed; "
        f"{first.piece} {first.output}: {what}",
        hint="nothing was written; --samples FILE validates on inputs of your own, --no-cache exports anew",
        report=document,
    )
