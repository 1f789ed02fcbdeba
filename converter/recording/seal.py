"""The end of an ONNX file: the record of its answers, and the digest of all that comes before it.

A file in protobuf's format may end in further fields of its message, so both are appended as entries of
ModelProto.metadata_props (field 14 of onnx.proto), after weights that may be gigabytes. Readers of ONNX see
three entries of metadata more. The last one is the SHA-256 of every byte ahead of it; the one ahead of that
has the digests of the files of external data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from converter.errors import SourceError
from converter.onnxfile import OnnxFile
from converter.onnxfile.wire import fields
from converter.recording.record import Record
from converter.sources import digest_of

__all__ = ["Seal", "parsed", "read_seal", "seal"]

_METADATA = 14
_CHUNK = 1 << 22
# What is appended, under `converter.ROLE.` so that a trunk and its head can be composed.
_SAMPLES, _DATA, _DIGEST = "samples", "data", "sha256"


@dataclasses.dataclass(frozen=True)
class Seal:
    """What a file says of itself.

    Attributes:
        role: `trunk`, `head`, `segment` or `model`.
        facts: everything of its metadata that this package has put there, by its key.
        record: its answers on seeded samples; None where there are none.
        problems: what is not as it was sealed: bytes of the file, or of its external data.
        files: the files that the digests are of.
    """

    role: str
    facts: Mapping[str, str]
    record: Record | None
    problems: tuple[str, ...]
    files: tuple[str, ...]


def seal(path: Path, role: str, record: Record | None, data: Sequence[Path]) -> str:
    """Append the record and the digests to a file, once.

    Args:
        path: an ONNX file that was just written.
        role: the piece's.
        record: what it answers on seeded samples.
        data: the files of its external data, beside it.

    Returns:
        The SHA-256 of the whole file as it is then.
    """
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256")
        parts = []
        if record is not None:
            parts.append(_entry(role, _SAMPLES, json.dumps(record.as_dict(), ensure_ascii=False)))
        if data:
            digests = {beside.name: digest_of(beside) for beside in data}
            parts.append(_entry(role, _DATA, json.dumps(digests, ensure_ascii=False)))
        body = b"".join(parts)
        digest.update(body)
        last = _entry(role, _DIGEST, digest.hexdigest())
        file.write(body + last)
        digest.update(last)
    return digest.hexdigest()


def read_seal(path: Path) -> Seal | None:
    """What a file says of itself, held against its bytes; None where it was never sealed.

    Raises:
        SourceError: no readable ONNX file, or notes that make no sense.
    """
    file = OnnxFile(path)
    own = {e.key: e.value for e in file.header.metadata_props if e.key.startswith("converter.")}
    sealed = [key.split(".") for key in own if key.endswith(f".{_DIGEST}") and key.count(".") == 2]
    if not sealed:
        records = [key.split(".")[1] for key in own if key.endswith(f".{_SAMPLES}") and key.count(".") == 2]
        if len(records) != 1:
            return None
        noted = Record.from_dict(parsed(own[f"converter.{records[0]}.{_SAMPLES}"]))
        return Seal(records[0], own, noted, (f"{path.name} has lost its seal",), (path.name,))
    role = sealed[-1][1]
    if len(sealed) > 1:
        roles = ", ".join(parts[1] for parts in sealed)
        problem = f"it was composed of sealed pieces ({roles}), whose digests are theirs alone"
        return Seal(role, own, None, (problem,), (path.name,))
    end = 0
    for field in fields(file.data, 0, file.size):
        end = field.begin
    problems, names = [], [path.name]
    last = _entry(role, _DIGEST, own[f"converter.{role}.{_DIGEST}"])
    if bytes(file.data[end : file.size]) != last:
        problems.append(f"{path.name} was written anew by something else after it was sealed")
    elif _digest_ahead(path, end) != own[f"converter.{role}.{_DIGEST}"]:
        problems.append(f"{path.name} has other bytes than it was sealed with")
    for name, wanted in parsed(own.get(f"converter.{role}.{_DATA}", "{}")).items():
        names.append(str(name))
        problems += _beside(path, str(name), str(wanted))
    record = own.get(f"converter.{role}.{_SAMPLES}")
    made = None if record is None else Record.from_dict(parsed(record))
    return Seal(role, own, made, tuple(problems), tuple(names))


def _entry(role: str, key: str, text: str) -> bytes:
    model = onnx.ModelProto()
    model.metadata_props.add(key=f"converter.{role}.{key}", value=text)
    return bytes(model.SerializeToString(deterministic=True))


def parsed(text: str) -> dict[str, Any]:
    """The object that a note holds as JSON.

    Raises:
        SourceError: it holds something else.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"the certificate cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"the certificate cannot be read: a {type(found).__name__} for an object")
    return found


def _beside(path: Path, name: str, wanted: str) -> list[str]:
    """What is wrong with a file of external data."""
    if Path(name).name != name:
        return [f"external data {name!r} would lie outside of the folder"]
    beside = path.with_name(name)
    if beside.is_symlink() or not beside.is_file():
        return [f"{name}, which has its weights, is not there"]
    return [] if digest_of(beside) == wanted else [f"{name} has other bytes than it was sealed with"]


def _digest_ahead(path: Path, end: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while end > 0 and (chunk := file.read(min(_CHUNK, end))):
            digest.update(chunk)
            end -= len(chunk)
    return digest.hexdigest()
