"""Writing whole artifacts or none: a hidden folder beside the targets, then atomic renames."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from converter.errors import TargetError

__all__ = ["staged"]

_PREFIX = ".converter-staging-"


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` when the block ends without an error.

    Each file is flushed to the disk and renamed in one step, `report.json` last, so that a run that is
    killed leaves each old file or the new one. What earlier killed runs left behind is removed.

    Raises:
        TargetError: the folder cannot be made or written, or the disk is full.
    """
    made: list[Path] = []
    scratch = folder / f"{_PREFIX}{os.getpid()}"
    try:
        made = _make(folder)
        _remove_abandoned(folder)
        scratch.mkdir()
    except OSError as error:
        _unmake(made)
        raise _refusal(folder, error) from error
    try:
        yield scratch
        _commit(scratch, folder)
    except OSError as error:
        _discard(scratch, made)
        raise _refusal(folder, error) from error
    except BaseException:
        _discard(scratch, made)
        raise
    _discard(scratch, [])


def _make(folder: Path) -> list[Path]:
    """Make the folder and its parents; the ones that were made, innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _commit(scratch: Path, folder: Path) -> None:
    files = sorted(
        (path for path in scratch.rglob("*") if path.is_file()),
        key=lambda path: (path.name == "report.json", path),
    )
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in scratch.iterdir():
        old = folder / path.name
        if path.is_dir() and old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)  # an artifact that is a folder has none of the old one's files
    for path in files:
        target = folder / path.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(scratch: Path, made: list[Path]) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    _unmake(made)


def _unmake(made: list[Path]) -> None:
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX)
        if not (owner.isdigit() and _alive(int(owner))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False  # a scratch folder of ours would not exist yet: it is a dead namesake's
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _refusal(folder: Path, error: OSError) -> TargetError:
    hint = "free some space, or choose another --output" if error.errno == errno.ENOSPC else None
    return TargetError(f"cannot write to {folder}: {error.strerror or error}", hint=hint)
