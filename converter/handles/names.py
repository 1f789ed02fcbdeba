"""Names, and words by name, as Python gives them: one, or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["Names", "Words", "by_name", "names_of", "silent"]

Names = str | Sequence[str]
Words = str | Mapping[str, str]


def silent(stage: str, detail: str) -> None:
    pass


def by_name(words: Words) -> dict[str, str]:
    """Words by the name of what they are for; an empty name where there is but one."""
    if isinstance(words, str):
        return {"": words} if words else {}
    return dict(words)


def names_of(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
