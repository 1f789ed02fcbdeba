"""Options of the form NAME=VALUE."""

from __future__ import annotations

import re
from collections.abc import Iterable

from converter.errors import UsageError

__all__ = ["names_of", "sizes_of", "words_of"]


def sizes_of(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` → sizes by name.

    Raises:
        UsageError: another form, or a name given twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9][0-9]{0,9}(x[1-9][0-9]{0,9})*", numbers):
            raise UsageError(f"shape {text!r}: expected NAME=1x3x224x224")
        if name in found:
            raise UsageError(f"shape: {name} is given twice")
        found[name] = tuple(map(int, numbers.split("x")))
    return found


def words_of(texts: Iterable[str]) -> dict[str, str]:
    """`NAME=words` → words by name; plain words by an empty name.

    Raises:
        UsageError: a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        named = re.fullmatch(r"([^=(),]+)=(.+)", text, re.DOTALL)
        name, words = (named[1].strip(), named[2]) if named else ("", text)
        if name in found:
            raise UsageError(f"{name or 'the input'} is given twice: {found[name]!r} and {words!r}")
        found[name] = words
    return found


def names_of(texts: Iterable[str]) -> dict[str, str]:
    """`OLD=NEW` → new names by old.

    Raises:
        UsageError: another form, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        old, _, new = text.partition("=")
        if not (old.strip() and new.strip()):
            raise UsageError(f"rename {text!r}: expected OLD=NEW")
        if old in found:
            raise UsageError(f"{old!r} is renamed twice: to {found[old]!r} and to {new!r}")
        found[old] = new
    return found
