"""Running what was written beside the framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.editing import Edited
from converter.errors import TargetError, ValidationError
from converter.making import Workshop
from converter.model import Piece, Source
from converter.report import Document
from converter.request import Pieces, Request
from converter.runtime import Session
from converter.samples import draw, read_samples
from converter.targets import TARGETS, Run
from converter.validation import Candidate, Certificate, Comparison, Judge, check_shapes

__all__ = ["Proof", "failure", "first_failure"]

# Draws of random inputs to measure ranges of values on: a range of fewer samples is too narrow.
_CALIBRATION = 8


@dataclasses.dataclass
class Proof:
    """What artifacts are held to.

    Attributes:
        source: the source.
        made: its pieces.
        request: what was asked for.
        provider: ONNX Runtime's execution provider.
        edited: what was changed in the model, where something was.
    """

    source: Source
    made: Pieces
    request: Request
    provider: str
    edited: Edited | None

    @cached_property
    def _samples(self) -> tuple[list[dict[str, Any]], str]:
        """Inputs of the model, and where they come from."""
        samples = self.request.samples
        if samples is not None:
            return read_samples(samples, self.made.inputs), samples.name
        seed = self.request.seed
        return draw(self.made.inputs, self.made.tables, seed), f"seed={seed}"

    @cached_property
    def _judge(self) -> Judge:
        wanted = [b for piece in self.made.pieces for b in (*piece.starts, *piece.ends)]
        return Judge(self.source, wanted, self._samples[0])

    def calibration(self, piece: Piece) -> list[dict[str, Any]]:
        """Inputs of a piece as the framework has them there: the user's samples, or random ones of which
        none is validated on."""
        if self.request.samples is not None:
            return self._judge.feeds(piece.starts)
        seeds = range(self.request.seed + 1, self.request.seed + 1 + _CALIBRATION)
        batches = [b for seed in seeds for b in draw(self.made.inputs, self.made.tables, seed)]
        return Judge(self.source, piece.starts, batches).feeds(piece.starts)

    def certify(
        self, kinds: Iterable[str], workshop: Workshop, folder: Path, home: Path | None
    ) -> tuple[Certificate, dict[str, TargetError]]:
        """Compare the artifacts of these kinds with the framework; a split joined, a changed model beside
        the original, too.

        Returns:
            The certificate, and what stops kinds of artifacts from being loaded or run.

        Raises:
            ValidationError: an ONNX file does not load or run.
        """
        comparisons: tuple[Comparison, ...] = ()
        failures: dict[str, TargetError] = {}
        shapes = self.request.surgery is not None and not self.request.surgery_preserves
        for kind in kinds:
            try:
                if shapes:
                    comparisons += self._shapes(kind, workshop, folder, home)
                else:
                    comparisons += self._values(kind, workshop, folder, home)
            except TargetError as error:
                failures[kind] = error
            except ValidationError as error:
                if kind == "onnx":
                    raise
                failures[kind] = TargetError(error.message, hint=error.hint)
        if not shapes and self.edited is not None and self.edited.seams:
            original = Judge(self.edited.original, [b for b, _ in self.edited.seams], self._samples[0])
            comparisons += original.compare([_unchanged(self.edited)])
        of = "shapes" if shapes else "values"
        return Certificate(self.provider, self._samples[1], comparisons, of=of), failures

    def hold(self, name: str, piece: Piece, run: Run) -> Certificate:
        """Compare what computes a piece with the framework.

        Args:
            name: how comparisons call it, and its kind.
            piece: the piece.
            run: from the piece's inputs to its outputs, by name.
        """
        ends = tuple((b, spec.name) for b, spec in zip(piece.ends, piece.outputs, strict=True))
        candidate = Candidate(f"{piece.role} in {name}", piece.starts, ends, run, target=name)
        return Certificate(name, self._samples[1], self._judge.compare([candidate]))

    def _values(
        self, kind: str, workshop: Workshop, folder: Path, home: Path | None
    ) -> tuple[Comparison, ...]:
        judged = [self._candidate(kind, piece, workshop, folder, home) for piece in self.made.pieces]
        pairs = [(judged[0], judged[1])] if self.request.split else []
        return self._judge.compare(judged, pairs)

    def _shapes(
        self, kind: str, workshop: Workshop, folder: Path, home: Path | None
    ) -> tuple[Comparison, ...]:
        """Pieces that a rewrite may have changed the values of, by the shapes that they declare."""
        found: tuple[Comparison, ...] = ()
        for piece in self.made.pieces:
            candidate = self._candidate(kind, piece, workshop, folder, home)
            feeds = draw(piece.inputs, self.made.tables, self.request.seed)
            checked = check_shapes(candidate.name, piece.inputs, piece.outputs, candidate.run, feeds)
            found += tuple(dataclasses.replace(c, target=kind) for c in checked)
        return found

    def _candidate(
        self, kind: str, piece: Piece, workshop: Workshop, folder: Path, home: Path | None
    ) -> Candidate:
        path = folder / f"{piece.role}{TARGETS[kind].SUFFIX}"
        name, run = path.name, None
        if kind == "onnx":
            # What refers to data of its final folder is loaded as if it stood there.
            model = path if home is None else path.read_bytes()
            libraries = self.request.custom_ops
            name, run = piece.role, Session(model, self.provider, folder=home, custom_ops=libraries).run
        precision = getattr(TARGETS[kind], "PRECISION", None)
        # After a rewrite a piece may have no boundaries to end at: its shapes are compared alone.
        ends = tuple((b, spec.name) for b, spec in zip(piece.ends, piece.outputs, strict=False))
        return Candidate(
            name, piece.starts, ends, run or workshop.reload(kind, piece, folder), precision, target=kind
        )


def _unchanged(edited: Edited) -> Candidate:
    """What a changed model computes ahead of its changes, to be held against the original."""
    pairs = {after: before for before, after in edited.seams}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        found = edited.source.run(feeds, list(pairs))
        return {before.name: found[after.value] for after, before in pairs.items()}

    return Candidate("unchanged part", (), tuple((b, b.name) for b in pairs.values()), run)


def first_failure(certificate: Certificate) -> str:
    """What is wrong with the first comparison that did not pass."""
    first = certificate.failures()[0]
    what = first.problem or f"scaled error {first.scaled_error:.2e} > {first.tolerance:.1e}"
    return f"{first.piece} {first.output}: {what}"


def failure(document: Document, certificate: Certificate) -> ValidationError:
    """The error that a failed validation ends with."""
    return ValidationError(
        f"{len(certificate.failures())} of {len(certificate.comparisons)} comparisons failed; "
        f"{first_failure(certificate)}",
        hint="nothing was written; --samples FILE validates on inputs of your own, --no-cache exports anew",
        report=document,
    )
