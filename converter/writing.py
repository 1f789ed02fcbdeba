"""Writing every artifact of every piece into a scratch folder: made, run once for its record, sealed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import TargetError, ValidationError
from converter.making import Workshop
from converter.model import Piece
from converter.proving import Proof
from converter.recording import Record, seal
from converter.request import EXTERNAL_DATA
from converter.sources import digest_of
from converter.targets import TARGETS

__all__ = ["INGREDIENTS", "Written", "without", "write"]

# Where files lie for a while that artifacts are made of.
INGREDIENTS = ".ingredients"


@dataclasses.dataclass
class Written:
    """What lies in the scratch folder.

    Attributes:
        files: a dict a file: kind, piece, path, bytes, sha256.
        failures: kind of artifact → why it could not be made.
        records: role of a piece → what the first artifact of it that runs answers on seeded samples.
    """

    files: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failures: dict[str, TargetError] = dataclasses.field(default_factory=dict)
    records: dict[str, Record | None] = dataclasses.field(default_factory=dict)

    @property
    def samples(self) -> dict[str, Any]:
        """The records there are, as JSON-ready values."""
        return {role: record.as_dict() for role, record in self.records.items() if record is not None}


def write(
    proof: Proof, workshop: Workshop, facts: Mapping[str, dict[str, str]], folder: Path, home: Path | None
) -> Written:
    """Write every artifact that can be made.

    Args:
        proof: what artifacts are held to, and recorded with.
        workshop: makes them.
        facts: metadata for the ONNX file of each piece, by its role.
        folder: where to.
        home: the folder that they will end in, where an ONNX file refers to external data that lie there.

    Raises:
        ValidationError: an ONNX file does not load or run.
    """
    written = Written()
    for kind in sorted(dict.fromkeys(workshop.request.targets), key=list(TARGETS).index):
        before = set(folder.rglob("*"))
        own: list[dict[str, Any]] = []
        try:
            for piece in workshop.made.pieces:
                own += _artifact(
                    proof, workshop, kind, piece, facts[piece.role], folder, home, written.records
                )
        except (TargetError, ValidationError) as error:
            if kind == "onnx" and isinstance(error, ValidationError):
                raise
            written.failures[kind] = TargetError(error.message, hint=error.hint)
            for path in set(folder.rglob("*")) - before:
                if path.is_file() and INGREDIENTS not in path.parts:
                    _remove(path, folder)
        else:
            written.files += own
    return written


def _artifact(
    proof: Proof,
    workshop: Workshop,
    kind: str,
    piece: Piece,
    facts: Mapping[str, str],
    folder: Path,
    home: Path | None,
    records: dict[str, Record | None],
) -> list[dict[str, Any]]:
    """The files of one artifact; what it answers goes to `records`, where the piece has none yet."""
    request = workshop.request
    if kind == "onnx":
        path = folder / f"{piece.role}{TARGETS[kind].SUFFIX}"
        beside = EXTERNAL_DATA[request.external_data]
        files = TARGETS[kind].write(piece, path, facts, beside=beside, home=home)
    else:
        files = workshop.write(kind, piece, folder)
    digests: dict[Path, str] = {}
    own: Record | None = None
    rounded = hasattr(TARGETS[kind], "PRECISION")  # what rounds more than the others do answers otherwise
    if request.validate:  # an unproven file needs no digest: a large one's costs more than the cut
        if rounded or piece.role not in records:
            own = proof.record(kind, piece, workshop, folder, home)
        if not rounded:
            own = records.setdefault(piece.role, own)
        if kind == "onnx":
            digests[files[0]] = seal(files[0], piece.role, own, files[1:])
        digests |= {f: digest_of(f) for f in files if f not in digests}
    turned = workshop.made.turned(piece) | ({} if kind == "onnx" else workshop.turned(kind, piece))
    return [
        {
            "kind": kind,
            "piece": piece.role,
            "path": str(file.relative_to(folder)),
            "bytes": file.stat().st_size,
            **({"sha256": digests[file]} if file in digests else {}),
            **({"turned": dict(turned)} if turned else {}),
            **({"samples": own.as_dict()} if rounded and own is not None and file == files[0] else {}),
        }
        for file in files
    ]


def without(files: Sequence[dict[str, Any]], kinds: Collection[str], folder: Path) -> list[dict[str, Any]]:
    """The files of other kinds than these, which are removed."""
    kept = [file for file in files if file["kind"] not in kinds]
    paths = {file["path"] for file in kept}
    for file in files:
        if file["path"] not in paths:
            _remove(folder / file["path"], folder)
    return kept


def _remove(path: Path, folder: Path) -> None:
    """Remove a file; of an artifact that is a folder the whole of it."""
    own = folder / path.relative_to(folder).parts[0]
    if own.is_dir():
        shutil.rmtree(own)
    else:
        own.unlink(missing_ok=True)
