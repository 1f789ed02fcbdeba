"""From old artifacts to new ones: steps of one rename each, after each of which every artifact is whole.

The steps are written down (`.journal`, in the staged folder) before the first is taken, when everything that
is new is on the disk. A process that is killed between two steps leaves them to the next run, which takes the
rest. What is replaced changes places with what replaces it, so a step that fails lets those before be taken
back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from converter.errors import TargetError
from converter.targets.exchange import exchange

__all__ = ["finish", "flush", "switch", "unfinished"]

_JOURNAL = ".journal"
_LAST = "report.json"
# Artifacts of several files: how the one that is opened ends, and how those end that it reads. Where it has
# their names in it, it can be made to read them under other names; where they follow from its own, not.
_NAMED = {".onnx": (".onnx.data",), ".py": (".safetensors", ".torch.safetensors")}
_IMPLIED = {".xml": (".bin",), ".ckpt.index": (".ckpt.data-00000-of-00001",)}
# Up to this size a file gets its second name as a copy, above it as a hard link: those onnx.load refuses.
_COPIED = 64 << 20


@dataclasses.dataclass(frozen=True)
class _Step:
    """One rename.

    Attributes:
        staged: a name in the staged folder; the new file is there before, an old one afterwards.
        name: the name in the folder of the artifacts.
        inode: of what has the name afterwards; None where nothing is to have it.
    """

    staged: str
    name: str
    inode: int | None

    def done(self, scratch: Path, folder: Path) -> bool:
        found = _inode(folder / self.name)
        if self.inode is None:
            return found is None and _inode(scratch / self.staged) is not None
        return found == self.inode

    def take(self, scratch: Path, folder: Path) -> bool:
        """Take the step; False where it cannot be taken back."""
        new, place = scratch / self.staged, folder / self.name
        if self.inode is None:
            place.rename(new)
        elif _inode(place) is None:
            new.rename(place)
        elif not exchange(new, place):
            if new.is_dir():
                place.rename(scratch / f".old-{self.staged}")
                new.rename(place)
            else:
                new.replace(place)
            return False
        return True

    def take_back(self, scratch: Path, folder: Path) -> None:
        """Undo the step."""
        new, place = scratch / self.staged, folder / self.name
        if _inode(new) is None:
            place.rename(new)
        elif _inode(place) is None:
            new.rename(place)
        else:
            exchange(new, place)


def switch(scratch: Path, folder: Path) -> None:
    """Move everything in a staged folder into the folder around it, `report.json` last.

    Args:
        scratch: a folder of whole artifacts, inside `folder`.
        folder: where they are to be; nobody else may change it meanwhile.

    Raises:
        OSError: a step cannot be taken. Everything is as it was before.
        TargetError: likewise, but what was done could not be undone: the next run goes on with it.
    """
    names = sorted((path.name for path in scratch.iterdir()), key=lambda name: (name == _LAST, name))
    mains = [name for name in names if not any(main in names for main in _mains(name))]
    steps = [step for name in mains for step in _steps(name, names, scratch, folder)]
    flush(scratch)
    _note(scratch, steps)
    done: list[_Step] = []
    reversible = True
    try:
        for step in steps:
            reversible = step.take(scratch, folder) and reversible
            done.append(step)
        _sync(folder)
    except OSError as error:
        if not reversible:
            raise _stuck(folder, error) from error
        try:
            for step in reversed(done):
                step.take_back(scratch, folder)
        except OSError:
            raise _stuck(folder, error) from error
        (scratch / _JOURNAL).unlink()
        raise
    (scratch / _JOURNAL).unlink()


def flush(scratch: Path) -> None:
    """Put everything that is in a folder on the disk."""
    for path in sorted(scratch.rglob("*"), reverse=True):
        _sync(path)


def unfinished(scratch: Path) -> bool:
    """Whether there are steps to take that were begun with."""
    return (scratch / _JOURNAL).exists()


def finish(scratch: Path, folder: Path) -> None:
    """Take the steps that a killed run has left undone, where it had come to taking them at all.

    Raises:
        TargetError: a step cannot be taken now, either.
    """
    with contextlib.suppress(FileNotFoundError):
        steps = [_Step(**step) for step in json.loads((scratch / _JOURNAL).read_bytes())]
        taken = max((n for n, step in enumerate(steps, 1) if step.done(scratch, folder)), default=0)
        try:
            for step in steps[taken:]:
                step.take(scratch, folder)
            _sync(folder)
        except OSError as error:
            raise _stuck(folder, error) from error
        (scratch / _JOURNAL).unlink()


def _steps(main: str, names: Sequence[str], scratch: Path, folder: Path) -> Iterator[_Step]:
    """The steps for one artifact."""
    _expect_alike(scratch / main, folder / main)
    data = [name for name in names if main in _mains(name)]
    for name in data:
        _expect_alike(scratch / name, folder / name)
    old = [name for name in data if _inode(folder / name) is not None]
    if not old or _inode(folder / main) is None:
        yield from (_put(scratch, name) for name in (*data, main))
    elif any(main.endswith(end) for end in _NAMED):
        yield from _under_other_names(main, data, scratch)
    else:
        yield _Step(f".taken-{main}", main, None)
        yield from (_put(scratch, name) for name in (*data, main))


def _under_other_names(main: str, data: Sequence[str], scratch: Path) -> Iterator[_Step]:
    """New data beside the old, read from there by a copy of the new file; then both under their own names."""
    text = (scratch / main).read_bytes()
    others = {
        name: f".{name[1:]}" for name in data
    }  # of the same length: in ONNX files, lengths stand before texts
    for name, other in others.items():
        text = text.replace(name.encode(), other.encode())
        if (scratch / name).stat().st_size > _COPIED:
            with contextlib.suppress(OSError):
                os.link(scratch / name, scratch / other)
        if not (scratch / other).exists():
            shutil.copyfile(scratch / name, scratch / other)
        yield _put(scratch, other)
    copy = f".copy-{main}"
    (scratch / copy).write_bytes(text)
    yield _Step(copy, main, _inode(scratch / copy))
    yield from (_put(scratch, name) for name in (*data, main))
    yield from (_Step(f".taken-{other}", other, None) for other in others.values())


def _put(scratch: Path, name: str) -> _Step:
    return _Step(name, name, _inode(scratch / name))


def _mains(name: str) -> list[str]:
    """The files that may read one of this name."""
    return [
        name.removesuffix(end) + main
        for main, ends in (_NAMED | _IMPLIED).items()
        for end in ends
        if name.endswith(end)
    ]


def _expect_alike(new: Path, old: Path) -> None:
    """Refuse to put a file in the place of a folder, which may have anything in it."""
    if old.is_dir() and not old.is_symlink() and not new.is_dir():
        raise TargetError(f"cannot write {old}: a folder is in its place", hint="choose another --output")


def _note(scratch: Path, steps: Sequence[_Step]) -> None:
    part = scratch / f"{_JOURNAL}.part"
    part.write_text(json.dumps([dataclasses.asdict(step) for step in steps]))
    _sync(part)
    part.replace(scratch / _JOURNAL)
    _sync(scratch)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if (
            error.errno != errno.EINVAL or not path.is_dir()
        ):  # some network file systems have that for files alone
            raise
    finally:
        os.close(handle)


def _stuck(folder: Path, error: OSError) -> TargetError:
    return TargetError(
        f"cannot put all artifacts into {folder}: {error.strerror or error}",
        hint="each is whole, the old one or the new; the next run that writes there puts in the rest first",
    )
