"""A folder of exported graphs: bounded in size, safe beside other processes, and distrustful of its files.

A file is a line of magic, a line with the SHA-256 of what follows, a line of JSON, and an ONNX model without
the source's weights. Its name begins with the digest of what the export depends on. Files are written whole
or not at all; one that is damaged is removed and made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converter.errors import UsageError
from converter.scratch import PART, replacing, sweep
from converter.supervision import temporary

__all__ = ["Entry", "Store"]

_MAGIC = b"converter export 1\n"
_SUFFIX = ".export"
_KEY = 32  # hexadecimal digits of the digest in a file's name
_MEGABYTES = 1024


def _default() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "converter"
    except RuntimeError:  # nobody's home
        return Path(temporary.shared()) / "converter-cache"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One stored export.

    Attributes:
        path: its file.
        header: what was exported, as JSON has it.
        graph: the ONNX model's bytes.
    """

    path: Path
    header: Mapping[str, Any]
    graph: bytes


class Store:
    """The folder `CONVERTER_CACHE_DIR`, by default `converter` in the user's cache folder.

    `CONVERTER_CACHE_MB` bounds its size (1024 by default); what was used longest ago goes first.
    """

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("CONVERTER_CACHE_DIR") or _default())
        limit = os.environ.get("CONVERTER_CACHE_MB") or str(_MEGABYTES)
        if not limit.isdigit():
            raise UsageError(f"CONVERTER_CACHE_MB={limit}: expected a whole number of megabytes")
        self.limit = int(limit) << 20

    def find(self, key: str) -> Iterator[Entry]:
        """The entries of a key, those used last first; damaged ones, and half of what a killed process was
        writing, are removed on the way."""
        sweep(self.folder, f"{PART}*")
        for path in self._files(f"{key[:_KEY]}-*"):
            entry = self._read(path)
            if entry is not None:
                yield entry

    def entries(self) -> list[Entry]:
        """All entries, those used last first."""
        return [entry for path in self._files("*") if (entry := self._read(path)) is not None]

    def touch(self, entry: Entry) -> None:
        """Note that an entry was used."""
        with contextlib.suppress(OSError):  # another process may have removed it, or the folder is read-only
            os.utime(entry.path)

    def put(self, key: str, header: Mapping[str, Any], graph: bytes) -> None:
        """Store an export; a folder that cannot be written to is said in the log and costs nothing else."""
        body = json.dumps(header, sort_keys=True).encode() + b"\n" + graph
        digest = hashlib.sha256(body).hexdigest()
        path = self.folder / f"{key[:_KEY]}-{digest[:16]}{_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(_MAGIC + digest.encode() + b"\n" + body)
            self._shrink(path)
        except OSError as error:
            logging.getLogger("converter").warning("the export was not cached: %s", error)

    def clear(self) -> int:
        """Remove every entry; the number of them."""
        files = self._files("*")
        for path in files:
            path.unlink(missing_ok=True)
        sweep(self.folder, f"{PART}*")
        return len(files)

    def _files(self, pattern: str) -> list[Path]:
        used = []
        for path in self.folder.glob(f"{pattern}{_SUFFIX}"):
            with contextlib.suppress(OSError):  # removed by another process
                used.append((-path.stat().st_mtime, path))
        return [path for _, path in sorted(used)]

    def _read(self, path: Path) -> Entry | None:
        log = logging.getLogger("converter")
        try:
            data = _content(path)
        except OSError as error:
            if error.errno != errno.ENOENT:  # else another process has removed it
                log.warning("%s is set aside: %s", path, error.strerror)
            return None
        start = len(_MAGIC)
        digest, body = data[start : start + 64], data[start + 65 :]
        header, _, graph = body.partition(b"\n")
        whole = data.startswith(_MAGIC) and hashlib.sha256(body).hexdigest().encode() == digest
        fields = _fields(header) if whole else None
        if fields is None:
            log.warning("%s is set aside: it is damaged, and exported anew", path)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return Entry(path, fields, graph)

    def _shrink(self, keep: Path) -> None:
        """Remove what was used longest ago until the rest is within the limit."""
        total = 0
        for path in self._files("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
                if total > self.limit and path != keep:
                    path.unlink()


def _content(path: Path) -> bytes:
    """The bytes of a regular file that is no link; a pipe would block.

    Raises:
        OSError: it is not that, or not there.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        return file.read()


def _fields(header: bytes) -> dict[str, Any] | None:
    """The header, if it is a JSON object."""
    try:
        found = json.loads(header)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
