"""Files that stay as they are while they are read."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from converter.errors import SourceError
from converter.onnxfile.disk import State, state_of

__all__ = ["steady"]


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

    try:
        yield
    except Exception:
        expect()  # or else that is what went wrong
        raise
    expect()


def _state(path: Path) -> State | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # no such file, or no name of one
        return None
    return state_of(status) if stat.S_ISREG(status.st_mode) else None
