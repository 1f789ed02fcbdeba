"""Writing whole artifacts or none: a hidden folder beside the targets, then one switch."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from converter.scratch import Scratch, uninterrupted, unwritable
from converter.supervision import channel
from converter.targets.switch import finish, flush, switch, unfinished

__all__ = ["expect_writable", "staged"]

_PREFIX = ".converter-staging-"


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` when the block ends without an error.

    Everything is flushed to the disk first, and moved by renames after each of which every artifact is
    whole, the old one or the new; `report.json` is last. Runs that write to one folder do so one after the
    other. What a killed run left there is completed, if it had got to the renames, or else removed.

    Raises:
        TargetError: the folder cannot be made or written, or the disk is full.
    """
    made: list[Path] = []
    scratch: Scratch | None = None
    try:
        try:
            made = _missing(folder)
            scratch = _scratch(folder)
            for path in reversed(made):
                channel.made(path)
            channel.scratch(scratch.path)
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            yield scratch.path
            channel.stage("deliver")
            flush(scratch.path)  # which may take long: others need not wait for it
            channel.keep(scratch.path)  # from here on the next run completes it
            with _turn(folder), uninterrupted():
                switch(scratch.path, folder)
                made = []
            channel.delivered()
        except OSError as error:
            raise unwritable(folder, error) from error
    finally:
        with uninterrupted():
            if scratch is not None:
                _close(scratch)
            if made:
                _unmake(made, folder)


def expect_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, before anything takes time.

    Raises:
        TargetError: a file is in its place or above it, or it may not be written.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if os.statvfs(there).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not os.access(there, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, error) from error


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist, innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    return missing


def _scratch(folder: Path) -> Scratch:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # Removed since, by a run that had made it and failed: made again.
        with contextlib.suppress(FileNotFoundError), _turn(folder):
            return Scratch(folder, _PREFIX, lambda left: finish(left, folder), "choose another --output")


def _close(scratch: Scratch) -> None:
    """Remove the scratch folder, unless what is in it is yet to be put in place."""
    if unfinished(scratch.path):
        scratch.leave()
    else:
        scratch.close()


def _unmake(made: list[Path], folder: Path) -> None:
    """Remove folders that nobody has written to since; who waits to do so makes them again."""
    with contextlib.suppress(OSError), _turn(folder):
        for path in made:
            path.rmdir()


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the folder, and keep others from it until the block ends."""
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(handle, folder)
            if os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    with contextlib.suppress(OSError):  # no locks on this file system
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.getLogger("converter").warning("another run is writing to %s: waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
