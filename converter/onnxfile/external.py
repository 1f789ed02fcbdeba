"""External data of ONNX files: regular files inside the model's folder, read within their bounds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from converter.errors import SourceError

__all__ = ["ExternalData", "Span"]


class Span:
    """A range of bytes of an open file.

    Attributes:
        handle: the file's descriptor.
        offset: where the range begins.
        length: how many bytes it has.
    """

    __slots__ = ("handle", "length", "offset")

    def __init__(self, handle: int, offset: int, length: int) -> None:
        self.handle, self.offset, self.length = handle, offset, length

    def read(self) -> bytes:
        """The bytes.

        Raises:
            SourceError: the file has become shorter since.
        """
        parts, done = [], 0
        while done < self.length:
            part = os.pread(self.handle, self.length - done, self.offset + done)
            if not part:
                raise SourceError("a file of weights has become shorter while it was read")
            parts.append(part)
            done += len(part)
        return b"".join(parts)


class ExternalData:
    """The data files beside one model, each opened once."""

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        self._folder = folder
        self._trust = trust
        self._open: dict[str, tuple[int, int]] = {}

    def span(self, name: str, entries: Mapping[str, str], nbytes: int) -> Span:
        """Where the tensor's bytes are.

        Args:
            name: the tensor's name, for messages.
            entries: its `external_data`: location, offset, length.
            nbytes: bytes that its shape and dtype ask for.

        Raises:
            SourceError: the place is outside of the model's folder, no regular file, or not of that size.
        """
        location = entries.get("location", "")
        offset = _number(name, entries, "offset", 0)
        length = _number(name, entries, "length", nbytes)
        handle, size = self._file(name, location)
        if length != nbytes:
            raise SourceError(f"{name}: its external data has {length} bytes, its shape asks for {nbytes}")
        if offset + length > size:
            raise SourceError(
                f"{name}: its external data reaches to byte {offset + length} of {location}, which has {size}"
            )
        return Span(handle, offset, length)

    @property
    def opened(self) -> tuple[Path, ...]:
        """The data files that were opened so far."""
        return tuple(self._folder / location for location in self._open)

    def path(self, location: str) -> Path:
        """The path of a data file that `span` has accepted."""
        return self._folder / location

    def _file(self, name: str, location: str) -> tuple[int, int]:
        if location not in self._open:
            self._open[location] = self._opened(name, location)
        return self._open[location]

    def _opened(self, name: str, location: str) -> tuple[int, int]:
        parts = PurePosixPath(location).parts
        if not parts or location.startswith("/") or ".." in parts or "\\" in location or "\0" in location:
            raise SourceError(f"{name}: its external data lies outside of the model's folder: {location!r}")
        handle = -1
        try:
            folder, parts = self._without_links(name, location)
            # Folder by folder, following no link: nothing can be swapped between looking and opening.
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            for index, part in enumerate(parts):
                last = index == len(parts) - 1
                flags = os.O_RDONLY | os.O_NOFOLLOW | (os.O_NONBLOCK if last else os.O_DIRECTORY)
                inner = os.open(part, flags, dir_fd=handle)
                os.close(handle)
                handle = inner
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise SourceError(f"{name}: its external data {location!r} is no regular file")
        except OSError as error:
            _close(handle)
            reason = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise SourceError(f"{name}: its external data {location!r} cannot be opened: {reason}") from error
        except SourceError:
            _close(handle)
            raise
        return handle, found.st_size

    def _without_links(self, name: str, location: str) -> tuple[Path, tuple[str, ...]]:
        """The folder to start from and the way from there, after links inside the folder."""
        folder = self._folder.resolve()
        real = (folder / location).resolve()
        if real.is_relative_to(folder):
            return folder, real.relative_to(folder).parts
        if self._trust:
            return real.parent, (real.name,)
        raise SourceError(
            f"{name}: its external data {location!r} is a link out of the model's folder, to {real}",
            hint="--trust follows it",
        )

    def close(self) -> None:
        """Close every file."""
        for handle, _ in self._open.values():
            os.close(handle)
        self._open.clear()

    def __del__(self) -> None:
        self.close()


def _close(handle: int) -> None:
    if handle >= 0:
        os.close(handle)


def _number(name: str, entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise SourceError(f"{name}: the {key} of its external data is {text!r}, which is no size")
    return int(text)
