"""What C++ libraries write to stderr, held back unless it explains an error."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; show its end if the block raises."""
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all (a daemon): nothing to hold back
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read()[-4000:])
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
