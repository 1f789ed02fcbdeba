"""Files that stay as they are while they are read."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from converter.errors import SourceError
from converter.onnxfile.disk import State, state_of

__all__ = ["steady", "unchanging"]


@contextlib.contextmanager
def steady(paths: Sequence[Path]) -> Iterator[None]:
    """Make sure that files are the same when the block ends as when it began; others are passed by.

    Raises:
        SourceError: one was written to, or another put in its place.
    """
    before = {path: _state(path) for path in paths}

    def expect() -> None:
        for path, state in before.items():
            if state is not None and _state(path) != state:
                raise SourceError(
                    f"{path} was changed while it was read", hint="run again when it is written"
                )

    with unchanging(expect):
        yield


@contextlib.contextmanager
def unchanging(expect: Callable[[], None]) -> Iterator[None]:
    """Ask whether all is as it was when the block ends, and when it fails: a change is what went wrong then.

    Args:
        expect: raises where something was changed.
    """
    try:
        yield
    except Exception:
        expect()
        raise
    expect()


def _state(path: Path) -> State | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # no such file, or no name of one
        return None
    return state_of(status) if stat.S_ISREG(status.st_mode) else None
