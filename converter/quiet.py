"""What C++ libraries write to stderr, held back unless it explains an error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from converter.supervision import channel

__all__ = ["quiet"]

_SHOWN = 4000  # bytes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; show its end if the block raises.

    Where the run is supervised it is held where the parent finds it, to be quoted after a crash.
    """
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all (a daemon): nothing to hold back
        yield
        return
    with _file() as held:
        start = os.lseek(held, 0, os.SEEK_CUR)
        sys.stderr.flush()
        os.dup2(held, 2)
        shown = b""
        try:
            yield
        except Exception:
            size = os.fstat(held).st_size
            shown = os.pread(held, _SHOWN, max(start, size - _SHOWN))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.ftruncate(held, start)
            os.lseek(held, start, os.SEEK_SET)
            os.write(2, shown)


@contextlib.contextmanager
def _file() -> Iterator[int]:
    """A file to hold what is written; what a block inside another one holds is put behind the other's."""
    shared = channel.held()
    if shared is not None:
        yield shared
        return
    with tempfile.TemporaryFile() as own:
        yield own.fileno()
