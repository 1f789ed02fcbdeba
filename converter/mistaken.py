"""What a download leaves in a model's place: a Git LFS pointer, a web page, nothing."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from converter.errors import SourceError

__all__ = ["expect_downloaded"]

_SNIFFED = 512
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER = b"version https://git-lfs.github.com/spec/"


def expect_downloaded(path: Path) -> None:
    """Refuse a file that stands for a model without being one; what cannot be read is left to its reader.

    Raises:
        SourceError: a Git LFS pointer, a web page, or nothing at all.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            start = file.read(_SNIFFED)
    except (OSError, ValueError):
        return
    if not start:
        raise SourceError(f"{path} is empty")
    if start.startswith(_POINTER):
        size = re.search(rb"^size (\d{1,20})$", start, re.MULTILINE)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise SourceError(
            f"{path} is a Git LFS pointer, not the file{of} that it stands for",
            hint="git lfs pull, in the repository that it comes from",
        )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise SourceError(
            f"{path} is a web page: the download has saved a page, not the model",
            hint="look at it in a browser: it may ask for a login, or say that the model is elsewhere",
        )
