"""External data of ONNX files: regular files inside the model's folder, read within their bounds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import onnx

from converter.errors import SourceError
from converter.onnxfile.disk import State, changed, state_of
from converter.onnxfile.index import attached
from converter.onnxfile.tensors import nbytes_of

__all__ = ["ExternalData", "Span", "bring_in", "refuse_holes"]


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
                raise SourceError("a file of weights was changed while it was read: it has become shorter")
            parts.append(part)
            done += len(part)
        return b"".join(parts)


class ExternalData:
    """The data files beside one model, each opened once."""

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        self._folder = folder
        self._trust = trust
        self._open: dict[str, tuple[int, State]] = {}

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
        handle, (_, _, size, _) = self._file(name, location)
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

    def _file(self, name: str, location: str) -> tuple[int, State]:
        if location not in self._open:
            self._open[location] = self._opened(name, location)
        return self._open[location]

    def _opened(self, name: str, location: str) -> tuple[int, State]:
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
            self._refuse_aliases(name, location, found)
            refuse_holes(f"{name}: its external data {location!r}", handle, found)
        except OSError as error:
            _close(handle)
            reason = "is a link" if error.errno == errno.ELOOP else error.strerror
            raise SourceError(f"{name}: its external data {location!r} cannot be opened: {reason}") from error
        except SourceError:
            _close(handle)
            raise
        return handle, state_of(found)

    def _refuse_aliases(self, name: str, location: str, found: os.stat_result) -> None:
        """A hard link brings a file from anywhere into the folder, and no path tells."""
        if found.st_nlink > 1 and not self._trust:
            raise SourceError(
                f"{name}: the file of its external data {location!r} has further names (hard links), "
                "which may lie outside of the model's folder",
                hint="--trust reads it all the same, and so does a copy of the file",
            )

    def _without_links(self, name: str, location: str) -> tuple[Path, tuple[str, ...]]:
        """The folder to start from and the way from there, after links inside the folder."""
        folder = self._folder.resolve()
        try:
            real = (folder / location).resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise SourceError(f"{name}: its external data {location!r} cannot be opened: {error}") from error
        if real.is_relative_to(folder):
            return folder, real.relative_to(folder).parts
        if self._trust:
            return real.parent, (real.name,)
        raise SourceError(
            f"{name}: its external data {location!r} is a link out of the model's folder, to {real}",
            hint="--trust follows it",
        )

    def expect_unchanged(self) -> None:
        """Make sure that the files are what they were when they were opened.

        Raises:
            SourceError: one is not.
        """
        for location, (handle, state) in self._open.items():
            if changed(self.path(location), handle, state):
                raise SourceError(
                    f"{self.path(location)} was changed while it was read",
                    hint="run again when it is written",
                )

    def close(self) -> None:
        """Close every file."""
        for handle, _ in self._open.values():
            os.close(handle)
        self._open.clear()

    def __del__(self) -> None:
        self.close()


def bring_in(external: ExternalData, node: onnx.NodeProto) -> None:
    """Put external data of the tensors among a node's attributes, and in its inner graphs, into it.

    Raises:
        SourceError: as of `ExternalData.span`.
    """
    for tensor in [tensor for tensor in attached(node) if tensor.data_location]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = tensor.name or node.name or node.op_type
        tensor.raw_data = external.span(name, entries, nbytes_of(tensor.dims, tensor.data_type)).read()
        tensor.ClearField("data_location")
        del tensor.external_data[:]


# A file may be this many times as long as what the disk holds of it, plus a floor.
_EXPANSION, _FLOOR = 64, 64 << 20


def refuse_holes(what: str, handle: int, found: os.stat_result) -> None:
    """Refuse a file that is nearly all holes: some KB on disk can be terabytes to whoever reads them.

    Raises:
        SourceError: it is one.
    """
    limit = found.st_blocks * 512 * _EXPANSION + _FLOOR
    if found.st_size <= limit:
        return
    held, position = 0, 0
    try:
        while position < found.st_size and held * _EXPANSION + _FLOOR < found.st_size:
            begin = os.lseek(handle, position, os.SEEK_DATA)
            position = os.lseek(handle, begin, os.SEEK_HOLE)
            held += position - begin
    except OSError as error:
        if (
            error.errno != errno.ENXIO
        ):  # no data from here on; file systems without holes say that all is data
            raise
    if held * _EXPANSION + _FLOOR < found.st_size:
        raise SourceError(
            f"{what} is {found.st_size:,} bytes long, of which {held:,} are there: the rest is holes"
        )


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
