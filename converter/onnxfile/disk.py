"""The bytes of a file, read as they are asked for, and whether the file is still the one that was opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import overload

from converter.errors import SourceError

__all__ = ["FileBytes", "State", "changed", "state_of"]

_WINDOW = 1 << 15

# What differs when a file is written to, or when another has its name: device, inode, size, time of change.
State = tuple[int, int, int, int]


def state_of(status: os.stat_result) -> State:
    """What tells one state of a file from another, at the cost of no more than a look at it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed(path: Path, handle: int, state: State) -> bool:
    """Whether a file has been written to since, or its name has gone to another one.

    Args:
        path: its name.
        handle: its descriptor.
        state: what it was.
    """
    try:
        return state_of(os.fstat(handle)) != state or state_of(path.stat()) != state
    except OSError:
        return True


class FileBytes:
    """A file as a sequence of bytes.

    It is not mapped into memory: a map of a file that somebody makes shorter kills the process (SIGBUS).

    Attributes:
        path: the file.
        handle: its descriptor.
        state: what it was when it was opened.

    Raises:
        SourceError: it is no regular file, empty, or not there; when read: it has become shorter.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(f"{path} cannot be opened: {error.strerror}") from error
        found = os.fstat(self.handle)
        self.state = state_of(found)
        self._size = found.st_size
        self._start, self._window = 0, b""
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            os.close(self.handle)
            raise SourceError(f"{path} is {'empty' if stat.S_ISREG(found.st_mode) else 'no regular file'}")

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int, /) -> int: ...

    @overload
    def __getitem__(self, index: slice, /) -> bytes: ...

    def __getitem__(self, index: int | slice, /) -> int | bytes:
        if isinstance(index, int):
            place = index - self._start
            if 0 <= place < len(self._window):
                return self._window[place]
            self._start, self._window = index, self._read(index, min(index + _WINDOW, self._size))
            return self._window[0]
        start, stop, _ = index.indices(self._size)
        begin, end = start - self._start, stop - self._start
        return self._window[begin:end] if begin >= 0 and end <= len(self._window) else self._read(start, stop)

    def _read(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop:
            part = os.pread(self.handle, stop - start, start)
            if not part:
                raise SourceError(f"{self.path} was changed while it was read: it has become shorter")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def expect_unchanged(self) -> None:
        """Make sure that the file is what it was when it was opened.

        Raises:
            SourceError: it is not.
        """
        if changed(self.path, self.handle, self.state):
            raise SourceError(
                f"{self.path} was changed while it was read", hint="run again when it is written"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self.handle)
