"""Files and folders for a while: they go with the process that made them or, if it was killed, with the next.

Whoever makes one holds a lock on it (flock(2), which the kernel takes away when a process dies, whatever it
died of). So the next process can tell what a dead one has left from what a living one still uses, in other
containers on the same disk, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from converter.errors import TargetError

__all__ = ["PART", "Scratch", "replacing", "sweep", "uninterrupted", "unwritable"]

_PREFIX = "converter-scratch-"
# What files are called that are not yet whole.
PART = ".converter-part-"
# Seconds after which nobody uses what is left, on file systems without locks.
_STALE = 24 * 3600
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def unwritable(folder: Path, error: OSError, choice: str = "choose another --output") -> TargetError:
    """The error that a run ends with which could not write to a folder.

    Args:
        folder: where.
        error: what the system said.
        choice: how to write elsewhere, for the hint.
    """
    hint = None
    if error.errno in _FULL:
        hint = f"free some space, or {choice}"
    elif error.errno in _REFUSED | {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}:
        hint = choice
    return TargetError(f"cannot write to {folder}: {error.strerror or error}", hint=hint)


class Scratch:
    """A folder that is removed when it is closed, when nobody refers to it any more, or at exit.

    What killed processes have left of its kind beside it is removed when it is made.

    Args:
        parent: where to make it; the system's folder for temporary files by default.
        prefix: what its name begins with.
        finish: called with what a killed process has left, before it is removed.
        choice: how to have it elsewhere, for the hint of errors.

    Raises:
        TargetError: it cannot be made; and, of a `with` block, a disk that was full.

    Attributes:
        path: the folder.
    """

    def __init__(
        self,
        parent: Path | None = None,
        prefix: str = _PREFIX,
        finish: Callable[[Path], object] | None = None,
        choice: str = "name another folder for temporary files: TMPDIR=FOLDER",
    ) -> None:
        self._choice = choice
        self._parent = parent or Path(tempfile.gettempdir())
        try:
            sweep(self._parent, f"{prefix}*", finish)
            with uninterrupted():
                self._handle, self.path = _claimed(lambda: _folder(self._parent, prefix))
                self._finalizer = weakref.finalize(self, _remove_own, self.path, self._handle, os.getpid())
        except OSError as error:
            raise unwritable(self._parent, error, self._choice) from error

    def close(self) -> None:
        """Remove the folder."""
        with uninterrupted():
            self._finalizer()

    def leave(self) -> None:
        """Leave the folder to the next process that makes one of its kind."""
        if self._finalizer.detach():
            os.close(self._handle)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, OSError) and error.errno in _FULL:
            raise unwritable(self._parent, error, self._choice) from error


def sweep(folder: Path, pattern: str, finish: Callable[[Path], object] | None = None) -> None:
    """Remove the files and folders of a pattern whose owners are dead; what is another user's stays.

    Args:
        folder: where to look.
        pattern: as `Path.glob` takes it.
        finish: called with each before it is removed; what it raises is raised, and that one stays.
    """
    with contextlib.suppress(PermissionError):  # a folder that may be written to, but not listed
        for path in folder.glob(pattern):
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:  # a link, another user's, or gone
                continue
            try:
                if os.fstat(handle).st_uid == os.getuid() and _abandoned(handle):
                    if finish is not None:
                        finish(path)
                    _remove(path)
            finally:
                os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends, whole and on the disk, or else not at all.

    What is no regular file (a device, a pipe) is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    sweep(path.parent, f"{PART}*")
    made: list[Path] = []

    def make() -> tuple[int, Path]:
        handle, name = tempfile.mkstemp(prefix=PART, dir=path.parent)
        made[:] = [Path(name)]
        return handle, made[0]

    try:
        with uninterrupted():
            handle, part = _claimed(make)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            part.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
            with uninterrupted():
                part.replace(path)
                made.clear()
    finally:
        for left in made:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends: it lasts moments, and half of it would leave a mess."""
    if threading.current_thread() is not threading.main_thread():  # which alone sees signals
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN, signal.SIG_DFL):  # of an embedding program, or held back already
        yield
        return
    held: list[Any] = []
    signal.signal(signal.SIGINT, lambda *seen: held.append(seen))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def _claimed(make: Callable[[], tuple[int, Path]]) -> tuple[int, Path]:
    """A file or folder, made and locked: one that was swept in the moment between is made anew."""
    while True:
        handle, path = make()
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, path
        os.close(handle)


def _folder(parent: Path, prefix: str) -> tuple[int, Path]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # another process has swept it already
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY), path


def _abandoned(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return time.time() - os.fstat(handle).st_mtime > _STALE
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # gone, or on a disk that can be read alone
            path.unlink()


def _remove_own(path: Path, handle: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from it
        _remove(path)
    os.close(handle)


def _umask() -> int:
    """The mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
