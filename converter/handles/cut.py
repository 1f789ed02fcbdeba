"""A cut of a model: its pieces, their proof, their artifacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from converter import pipeline
from converter.editing import Edited
from converter.errors import UsageError, ValidationError
from converter.handles.names import Names, names_of, silent
from converter.making import Workshop
from converter.model import Piece, Source
from converter.proving import Proof, first_failure
from converter.report import Document, Timings
from converter.request import Request
from converter.scratch import Scratch
from converter.validation import Certificate

__all__ = ["Cut"]


class Cut:
    """One or two finished pieces of a model, in memory."""

    def __init__(self, source: Source, request: Request, edited: Edited | None = None) -> None:
        self._source = source
        self._request = request
        self._edited = edited
        self._timings = Timings()
        self._made = pipeline.cut_out(source, request, silent, self._timings)

    @property
    def frontier(self) -> tuple[str, ...]:
        """Names of the tensors that cross the cut; empty for a trunk alone."""
        return self._made.crossing

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces: one, or a trunk and its head."""
        return self._made.pieces

    def piece(self, role: str) -> Piece:
        """The piece called `trunk`, `head`, `segment` or `model`."""
        for piece in self.pieces:
            if piece.role == role:
                return piece
        raise KeyError(f"no piece {role!r}, only {[piece.role for piece in self.pieces]}")

    def validate(self, *, samples: str | Path | None = None, device: str = "auto") -> Certificate:
        """Compare the pieces with the framework in ONNX Runtime; `passed` says how it came out.

        Raises:
            ValidationError: a piece does not load or run at all.
        """
        with Scratch() as folder:
            try:
                # A folder of its own: who writes to one locks it, and this one is locked by its owner.
                document = self._deliver(folder / "pieces", samples=samples, device=device)
            except ValidationError as error:
                if error.report is None:
                    raise
                document = error.report
        assert isinstance(document.proof, Certificate)
        return document.proof

    def save(
        self,
        folder: str | Path,
        *,
        targets: Names = ("onnx",),
        samples: str | Path | None = None,
        device: str = "auto",
        validate: bool = True,
        external_data: str = "auto",
        link: bool = False,
        layout: str = "source",
        largest_batch: bool = False,
        drift: bool = False,
        noise_floor: bool = False,
    ) -> Document:
        """Validate the pieces and write them, with a report, to a folder.

        Args:
            folder: where to write.
            targets: kinds of artifacts.
            samples: `.npz` with inputs to validate on; seeded random ones where None.
            device: where ONNX Runtime validates: `auto`, `cpu` or `cuda`.
            validate: False writes without proof.
            external_data: weights of `.onnx` files in a file beside: `auto`, `always` or `never`.
            link: refer to the external data of an ONNX source; `folder` must be its folder or one above.
            layout: of models rebuilt in another framework: `source`, or `native` as that framework's layers
                take and put out tensors.
            largest_batch: prove ONNX files on as many samples at once as fit into memory, too.
            drift: compare every layer of the whole model besides, for the report.
            noise_floor: with `drift`: against the framework in float64 as well.

        Raises:
            ValidationError: a piece does not compute what the framework computes; nothing is written.
            TargetError: an artifact cannot be made; the others are written, and the error's `report` says so.
        """
        return self._deliver(
            Path(folder),
            targets=names_of(targets),
            samples=samples,
            device=device,
            validate=validate,
            external_data=external_data,
            link=link,
            layout=layout,
            largest_batch=largest_batch,
            drift=drift,
            noise_floor=noise_floor,
        )

    def native(self, framework: str, role: str = "", *, layout: str = "source", validate: bool = True) -> Any:
        """A piece as a trainable model of a framework: a `torch.nn.Module` or a `keras.Model`.

        Of a model of another framework, or of ONNX, it is built anew from the graph, of the framework's own
        layers under the source's names; so are PyTorch's pieces of PyTorch models.

        Args:
            framework: `torch` or `keras`.
            role: which piece, where there are two.
            layout: `source`, or `native` as the framework's layers take and put out tensors.
            validate: compare it with the source framework first.

        Raises:
            TargetError: an operator has no counterpart there.
            ValidationError: it does not compute what the source computes.
        """
        if framework not in ("torch", "keras"):
            raise UsageError(f"framework {framework!r}: expected torch or keras")
        piece = self.piece(role) if role else self.pieces[0]
        request = dataclasses.replace(self._request, layout=layout)
        proof = Proof(self._source, self._made, request, None, self._edited)
        workshop = Workshop(self._source, self._made, request, Path(), proof.calibration)
        model, run = workshop.native(framework, piece)
        certificate = proof.hold(framework, piece, run) if validate else None
        if certificate is not None and not certificate.passed:
            raise ValidationError(first_failure(certificate))
        return model

    def _deliver(self, folder: Path, *, samples: str | Path | None, **options: Any) -> Document:
        changed = dict(options, samples=None if samples is None else Path(samples))
        request = dataclasses.replace(self._request, **changed)
        return pipeline.deliver(
            self._source, self._made, request, folder, silent, self._timings, self._edited
        )

    def __repr__(self) -> str:
        return f"<{'; '.join(map(str, self.pieces))}>"
