"""Running what was written beside the framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from converter.capacity import InParts, expect_independent, rows_that_fit
from converter.devices import Device
from converter.dressing import Dressed
from converter.editing import Edited
from converter.errors import TargetError, UsageError, ValidationError
from converter.imaging import Preprocess
from converter.making import Workshop
from converter.model import Boundary, Piece, Source, TensorSpec
from converter.placement import Placement
from converter.placing import explained
from converter.recording import Record
from converter.report import Document
from converter.request import Pieces, Request
from converter.runtime import Session, version
from converter.samples import BATCHES, count_of, draw, read_samples
from converter.targets import TARGETS, Run
from converter.validation import (
    Candidate,
    Certificate,
    Comparison,
    Judge,
    check_shapes,
    compare,
    compare_variants,
    spread_of,
)
from converter.variants import perturbed, variants

__all__ = ["Proof", "failure", "first_failure"]

# Draws of random inputs to set ranges by, and to choose by: a range of fewer samples is too narrow.
_CALIBRATION = 16
# Draws that artifacts of less precision are validated on, besides the first: shares of classes want some.
_HELD_OUT = 5


# Precision → what may help where it is not enough.
_FINER = {
    "int8": "--calibration minmax cuts nothing off, more --samples set better ranges, "
    "--precision mixed --min-snr DB leaves the most sensitive layers in float",
    "mixed": "a lower --min-snr, or more --samples, by which ranges and layers are chosen",
    "int8-dynamic": "--keep-float LAYER leaves a layer in float, --precision int8 has ranges by samples",
    "int4-weights": "--keep-float LAYER leaves a layer in float, --precision int8 has finer weights",
}


@dataclasses.dataclass
class Proof:
    """What artifacts are held to.

    Attributes:
        source: the source.
        made: its pieces.
        request: what was asked for.
        device: where ONNX Runtime runs; None where nothing is run.
        edited: what was changed in the model, where something was.
    """

    source: Source
    made: Pieces
    request: Request
    device: Device | None
    edited: Edited | None
    _placed: dict[str, Placement] = dataclasses.field(default_factory=dict)

    @property
    def provider(self) -> str:
        """ONNX Runtime's execution provider."""
        return "" if self.device is None else self.device.provider

    @cached_property
    def _samples(self) -> tuple[list[dict[str, Any]], str]:
        """Inputs of the model, and where they come from."""
        samples, seed = self.request.samples, self.request.seed
        if samples is None:
            drawn = draw(self.made.inputs, self.made.tables, seed)
            if self.request.precision is not None:
                later = range(seed + 1 + _CALIBRATION, seed + 1 + _CALIBRATION + _HELD_OUT)
                more = [draw(self.made.inputs, self.made.tables, s)[-1] for s in later]
                free = all(spec.shape and isinstance(spec.shape[0], str) for spec in self.made.inputs)
                drawn = [*drawn[:-1], *(_joined([drawn[-1], *more]) if free else [drawn[-1], *more])]
            return drawn, f"seed={seed}"
        if not self.request.calibrates:
            return self._given, samples.name
        return self._every_other(1), f"{samples.name}, every other sample"

    @property
    def feeds(self) -> list[dict[str, Any]]:
        """The samples as the source itself takes them, without what stands around the pieces."""
        dressed = self.made.dressed
        return [dict(batch) if dressed is None else dressed.inward(batch) for batch in self._samples[0]]

    @cached_property
    def _given(self) -> list[dict[str, Any]]:
        """The user's own inputs."""
        path, specs = self.request.samples, self.made.inputs
        assert path is not None
        how: dict[str, Any] = {
            "channels_last": self.source.info.channels_last,
            "known_as": {new: old for old, new in self.request.dress.renames.items()},
        }
        if not self.request.dress.static:
            return read_samples(path, specs, self._words(path), **how)
        # Pieces of a fixed batch take any number of samples, in batches of theirs.
        sizes = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
        free = [dataclasses.replace(spec, shape=("batch", *spec.shape[1:])) for spec in specs]
        whole = read_samples(path, free, self._words(path), **how)[-1]
        size, count = max(sizes, default=1), count_of(whole)
        if count < size:
            raise UsageError(f"samples {path}: {count} samples, but a batch has {size}")
        starts = range(0, count - size + 1, size)
        return [{name: x[start : start + size] for name, x in whole.items()} for start in starts]

    def _every_other(self, first: int) -> list[dict[str, Any]]:
        """Every other one of the user's samples; of fixed batches every other batch.

        Raises:
            UsageError: there is one alone.
        """
        batches = self._given
        if len(batches) > 1 and _begins(batches[1], batches[0]):
            batches = batches[1:]  # which `read_samples` puts before all samples, for another batch size
        fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in self.made.inputs)
        counts = list(map(count_of, batches))
        if len(batches) == 1 and (fixed or counts == [1]):
            raise UsageError(
                "one sample cannot both be measured and validated on", hint="give two samples at least"
            )
        found = []
        for number, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            if fixed or count == 1:
                found += [batch] if number % 2 == first else []
            else:
                found.append({name: x[first::2] for name, x in batch.items()})
        return found

    def _words(self, path: Path) -> Preprocess | None:
        """What is done to images of a folder, where the piece does not do it itself."""
        if self.request.images is not None or not path.is_dir() or self.request.dress.preprocess:
            return self.request.images
        preset = f"{'torchvision' if self.source.info.kind == 'torch' else 'keras'}:{self.source.info.name}"
        if self.source.info.locator != preset:
            raise UsageError(
                f"samples {path}: what is to be done to images before {self.source.info.name} takes them?",
                hint="--images 'resize(224),scale(1/255),normalize(imagenet)', or --preprocess builds it in",
            )
        return Preprocess.parse(Preprocess.parse(preset).without_sizes())

    @property
    def _answering(self) -> Source | Dressed:
        """What answers: the source, as the pieces see it."""
        return self.made.dressed or self.source

    @property
    def _wanted(self) -> list[Boundary]:
        """Where the framework's answers are wanted."""
        return [b for piece in self.made.pieces for b in (*piece.starts, *piece.ends)]

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._answering, self._wanted, self._samples[0])

    @cached_property
    def _variants(self) -> dict[str, dict[str, Any]]:
        """Inputs of other kinds, where the user gives none of his own."""
        if self.request.samples is not None:
            return {}
        return variants(self.made.inputs, self.made.tables, self.request.seed)

    def _moved(self, feeds: Mapping[str, Any], number: int) -> tuple[dict[str, Any], float]:
        return perturbed(self.made.inputs, feeds, self.request.seed + number)

    def calibration(self, piece: Piece) -> list[dict[str, Any]]:
        """Inputs of a piece as the framework has them there, of which none is validated on: every other
        one of the user's samples, or random ones."""
        if self.request.samples is not None:
            batches = self._every_other(0)
        else:
            seeds = range(self.request.seed + 1, self.request.seed + 1 + _CALIBRATION)
            batches = [draw(self.made.inputs, self.made.tables, seed)[-1] for seed in seeds]
        return Judge(self._answering, piece.starts, batches).feeds(piece.starts)

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
            original = Judge(self.edited.original, [b for b, _ in self.edited.seams], self.feeds)
            comparisons += original.compare([_unchanged(self.edited)])
        comparisons = self._images() + comparisons
        of = "shapes" if shapes else "values"
        placed = {role: placement.as_dict() for role, placement in self._placed.items()}
        device = {} if self.device is None else self.device.as_dict()
        made = Certificate(self.provider, self._samples[1], comparisons, of, placed, device)
        return made, failures

    def record(
        self, kind: str, piece: Piece, workshop: Workshop, folder: Path, home: Path | None
    ) -> Record | None:
        """What an artifact that was just written answers on seeded samples, for whoever gets it; None where
        it takes no samples drawn at random: sequences, or indices that only a layer knows.

        Raises:
            TargetError, ValidationError: it does not load, or not run.
        """
        asked, lowered = self.request.precision, self.made.lowered.get(piece.role)
        precision = getattr(TARGETS[kind], "PRECISION", None) if asked is None else asked.computes_in
        runtime = f"onnxruntime {version()}, {self.provider}" if kind == "onnx" else kind
        run = self._loaded(kind, piece, workshop, folder, home)
        scales = {} if lowered is None else lowered.scales
        inputs = [_levels(spec) if spec.name in scales else spec for spec in self._ranged(piece)]
        try:
            return Record.take(run, inputs, self.made.tables, self.request.seed, runtime, precision)
        except ValidationError:
            if self.request.samples is None and not piece.starts:
                self._judge.feeds(piece.ends)  # the framework says best what it does not take
                raise
            return None

    def _ranged(self, piece: Piece) -> list[TensorSpec]:
        """A piece's inputs, those that are layers' with the range that the framework has there."""
        found = list(piece.inputs)
        if not piece.starts:
            return found
        batches = self._judge.feeds(piece.starts)
        first = len(piece.model_inputs)
        for place, start in enumerate(piece.starts, start=first):
            arrays = [np.asarray(batch[start.name]) for batch in batches]
            if found[place].dtype != arrays[0].dtype.name or arrays[0].dtype.kind not in "iuf":
                continue
            known = [x[np.isfinite(x)] for x in arrays]
            low = min((float(x.min()) for x in known if x.size), default=0.0)
            high = max((float(x.max()) for x in known if x.size), default=0.0)
            if low < high:
                # Few digits: the last ones of a framework's answers may differ from run to run.
                ends = (float(f"{low:.3g}"), float(f"{high:.3g}"))
                found[place] = dataclasses.replace(found[place], value_range=ends)
        return found

    def hold(self, name: str, piece: Piece, run: Run, precision: str | None = None) -> Certificate:
        """Compare what computes a piece with the framework.

        Args:
            name: how comparisons call it, and its kind.
            piece: the piece.
            run: from the piece's inputs to its outputs, by name.
            precision: what it computes in, where that is less than its outputs' dtype.
        """
        ends = tuple((b, spec.name) for b, spec in zip(piece.ends, piece.outputs, strict=True))
        candidate = Candidate(f"{piece.role} in {name}", piece.starts, ends, run, precision, target=name)
        return Certificate(name, self._samples[1], self._judge.compare([candidate]))

    def _images(self) -> tuple[Comparison, ...]:
        """What graphs make of images, against the same in NumPy."""
        if self.made.dressed is None:
            return ()
        batches = [self.made.dressed.prepared(feeds) for feeds in self._samples[0]]
        return tuple(
            compare(
                "preprocess",
                name,
                len(got),
                got,
                wanted,
                spread=spread_of([batch[name][1] for batch in batches]),
                precision="image",
            )
            for prepared in batches
            for name, (got, wanted) in prepared.items()
        )

    def _values(
        self, kind: str, workshop: Workshop, folder: Path, home: Path | None
    ) -> tuple[Comparison, ...]:
        judged = [self._candidate(kind, piece, workshop, folder, home) for piece in self.made.pieces]
        pairs = [(judged[0], judged[1])] if self.request.split else []
        found = self._judge.compare(judged, pairs)
        if any(candidate.precision is not None for candidate in judged):
            return found  # ranges that were measured on usual inputs promise nothing of others
        found += compare_variants(self._answering, self._wanted, self._variants, judged, pairs, self._moved)
        return found + (self._largest(judged, pairs) if self.request.largest_batch and kind == "onnx" else ())

    def _largest(
        self, judged: Sequence[Candidate], pairs: Sequence[tuple[Candidate, Candidate]]
    ) -> tuple[Comparison, ...]:
        """As many samples at once as the pieces take on this machine.

        Raises:
            UsageError: the batch is fixed, samples depend on one another, or they are the user's own.
        """
        free = all(spec.shape and isinstance(spec.shape[0], str) for spec in self.made.inputs)
        if self.request.samples is not None or not free:
            raise UsageError(
                "the largest batch is found with seeded samples, of a model that takes any batch"
            )

        def feeds(rows: int) -> dict[str, Any]:
            seeds = range(self.request.seed, self.request.seed + -(-rows // max(BATCHES)))
            (whole,) = _joined([draw(self.made.inputs, self.made.tables, seed)[-1] for seed in seeds])
            return {name: array[:rows] for name, array in whole.items()}

        expect_independent(self._answering, feeds(max(BATCHES)), self._wanted)
        parts = InParts(self._answering)

        def run(rows: int) -> int:
            (batch,) = Judge(parts, self._wanted, [feeds(rows)]).feeds(judged[0].starts)
            return sum(np.asarray(array).nbytes for array in judged[0].run(batch).values())

        rows = rows_that_fit(run, on_cpu=self.provider == "CPUExecutionProvider")
        return Judge(parts, self._wanted, [feeds(rows)]).compare(judged, pairs)

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
        name = piece.role if kind == "onnx" else f"{piece.role}{TARGETS[kind].SUFFIX}"
        asked = self.request.precision
        precision = getattr(TARGETS[kind], "PRECISION", None) if asked is None else asked.computes_in
        run = self._loaded(kind, piece, workshop, folder, home)
        lowered = self.made.lowered.get(piece.role)
        # After a rewrite a piece may have no boundaries to end at: its shapes are compared alone.
        ends = tuple((b, spec.name) for b, spec in zip(piece.ends, piece.outputs, strict=False))
        return Candidate(
            name,
            piece.starts,
            ends,
            run if lowered is None else lowered.in_floats(run),
            precision,
            target=kind,
            min_snr=self.request.min_snr,
            classes=self._classes(piece),
        )

    def _loaded(self, kind: str, piece: Piece, workshop: Workshop, folder: Path, home: Path | None) -> Run:
        """A written artifact, loaded again."""
        if kind == "onnx":
            path = folder / f"{piece.role}{TARGETS[kind].SUFFIX}"
            return self._session(piece.role, path, home).run
        return workshop.reload(kind, piece, folder)

    def _session(self, role: str, path: Path, home: Path | None) -> Session:
        """A written ONNX file; what refers to data of its final folder is loaded as if it stood there.

        Raises:
            ValidationError: it does not load, or nothing that weighs runs where it was to run.
        """
        asked = self.request.precision
        model = path if home is None else path.read_bytes()
        session = Session(
            model,
            self.provider,
            folder=home,
            custom_ops=self.request.custom_ops,
            blocked=asked is None or asked.kind != "fp16",
        )
        if self.provider != "CPUExecutionProvider" and role not in self._placed:
            placed = explained(session.placement, model, home, self.request.custom_ops)
            self._placed[role] = placed
            if placed.problem is not None:
                raise ValidationError(f"{role}: {placed.problem}", hint=_reasons(placed))
        return session

    def _classes(self, piece: Piece) -> frozenset[str]:
        """The outputs of a piece that are the model's own: of (samples, classes) they are a classifier's."""
        own = {b.value for b in self._answering.outputs}
        pairs = zip(piece.ends, piece.outputs, strict=False)
        return frozenset(spec.name for boundary, spec in pairs if boundary.value in own)


def _levels(spec: TensorSpec) -> TensorSpec:
    """An input that takes the levels of quantized values."""
    return dataclasses.replace(spec, value_range=(0.0, 255.0) if spec.dtype == "uint8" else (-128.0, 127.0))


def _reasons(placed: Placement) -> str:
    """Why nodes are not where they were asked for, in a line."""
    each = [f"{g.count} {g.operator}: {g.reason}" for g in placed.groups[:3]]
    return f"{'; '.join(each)}; --device cpu validates on the CPU"


def _begins(batch: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether a batch begins with the one sample of another one."""
    return all(len(x) == 1 and np.array_equal(x, batch[name][:1]) for name, x in first.items())


def _joined(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Batches as one."""
    return [{name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}]


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


def _advice(document: Document, certificate: Certificate) -> str:
    """What may help."""
    if any("constant" in (c.problem or "") for c in certificate.failures()):
        return "samples that differ more: --samples FILE, or another --seed"
    kinds = [facts["precision"] for facts in document.precision]
    default = "--samples FILE validates on inputs of your own, --no-cache exports anew"
    return _FINER.get(kinds[0], "a lower --min-snr, or --keep-float LAYER") if kinds else default


def failure(document: Document, certificate: Certificate) -> ValidationError:
    """The error that a failed validation ends with."""
    return ValidationError(
        f"{len(certificate.failures())} of {len(certificate.comparisons)} comparisons failed; "
        f"{first_failure(certificate)}",
        hint=f"nothing was written; {_advice(document, certificate)}",
        report=document,
    )
