"""Temporary files of a supervised run, in one folder that its parent removes however it ends."""

from __future__ import annotations

import os
import tempfile

from converter.scratch import Scratch
from converter.supervision import channel

__all__ = ["claim", "shared"]

_shared: str | None = None
_own: Scratch | None = None


def claim() -> None:
    """Have this process and those that it starts put temporary files into a folder of the run's own.

    Without a parent that would remove it, everything stays as it is.
    """
    global _shared, _own
    if channel.supervised() and _shared is None:
        _shared = tempfile.gettempdir()
        # Where a kill takes the parent along as well, the next run removes it.
        _own = Scratch(prefix="converter-run-")
        tempfile.tempdir = os.environ["TMPDIR"] = str(_own.path)
        channel.scratch(tempfile.tempdir)


def shared() -> str:
    """The folder for temporary files that outlive the run."""
    return _shared or tempfile.gettempdir()
