"""Layers whose names begin alike: the blocks of models whose layers all lie side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable

from converter.model import is_glob

__all__ = ["groups"]

# Where the name of a block may end: behind an underscore, or behind a number (`block2` of `block2b_add`).
_END = re.compile(r"(?<=_)|(?<=\d)(?=\D)", re.ASCII)


def groups(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Globs, in the words of `converter.surgery.select_layers` → the names that each matches, two or more.

    Args:
        names: of layers, without numbers of calls. Of nested ones only the last part is looked at.
    """
    found: dict[str, dict[str, None]] = {}
    for name in names:
        parent, tail = re.fullmatch(r"(.*[/.])?(.*)", name, re.DOTALL).groups("")  # type: ignore[union-attr]
        for end in (match.start() for match in _END.finditer(tail)):
            prefix = parent + tail[:end]
            if not is_glob(prefix):
                rest = "*" if prefix.endswith("_") else "[!0-9]*"
                found.setdefault(prefix + rest, {})[name] = None
    return {glob: tuple(matched) for glob, matched in found.items() if len(matched) > 1}
