"""The words of preprocessing and postprocessing, read from a text, which is

words     = word { "," word }
word      = name [ "(" argument { "," argument } ")" ]
name      = letters, digits, and of presets `:`, `_`, `-` and `.`
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable

from converter.errors import UsageError

__all__ = ["Word", "number", "numbers", "split_words"]

_WORD = re.compile(r"\s*([A-Za-z][\w:.-]*)\s*(?:\(([^()]*)\))?\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST = 2000  # of a text; nobody writes more
_SMALLEST = 1e-18


@dataclasses.dataclass(frozen=True)
class Word:
    """One word of a text, and where it stands, for messages.

    Attributes:
        name: the word.
        arguments: what stands in its parentheses; None where it has none.
        place: its first character, counted from 1.
        text: all words.
        kind: what the text is called (`preprocess`).
    """

    name: str
    arguments: tuple[str, ...] | None
    place: int
    text: str
    kind: str

    def __str__(self) -> str:
        return self.name if self.arguments is None else f"{self.name}({','.join(self.arguments)})"

    def refused(self, why: str, hint: str) -> UsageError:
        """The error that says what is wrong with this word."""
        return UsageError(f"{self.kind} {self.text!r}: {self} at character {self.place}: {why}", hint=hint)

    def unknown(self, names: Iterable[str], hint: str) -> UsageError:
        """The error for a word that is none of these names; the nearest are listed."""
        folded = self.name.casefold().replace("_", "")
        near = difflib.get_close_matches(folded, list(names), n=4, cutoff=0.5)
        return self.refused("no such word", f"the nearest are {', '.join(near)}" if near else hint)


def split_words(kind: str, text: str, hint: str) -> list[Word]:
    """The words of a text.

    Args:
        kind: what the text is called in messages.
        text: the words.
        hint: what words there are.

    Raises:
        UsageError: the text is none of words and commas; says at which character.
    """
    if len(text) > _LONGEST:
        raise UsageError(f"{kind}: a text of {len(text)} characters, at most {_LONGEST} are read", hint=hint)
    words: list[Word] = []
    place = 0
    while True:
        found = _WORD.match(text, place)
        if found is None:
            raise _unexpected(kind, text, place, "a word", hint)
        arguments = None if found[2] is None else tuple(part.strip() for part in found[2].split(","))
        words.append(Word(found[1], arguments, found.start(1) + 1, text, kind))
        place = found.end()
        if place == len(text):
            return words
        if text[place] != ",":
            raise _unexpected(kind, text, place, "a comma", hint)
        place += 1


def _unexpected(kind: str, text: str, place: int, wanted: str, hint: str) -> UsageError:
    got = repr(text[place:][:20]) if text[place:].strip() else "the end"
    return UsageError(f"{kind} {text!r}: expected {wanted} at character {place + 1}, got {got}", hint=hint)


def number(text: str) -> tuple[float, float] | None:
    """The number that a text is, as numerator and denominator (`1/255`); None where float32 has none."""
    parts = text.split("/")
    if len(parts) > 2 or not all(_NUMBER.fullmatch(part.strip()) for part in parts):
        return None
    top, bottom = (*(float(part) for part in parts), 1.0)[:2]
    if not bottom or not all(_usual(value) for value in (top, bottom, top / bottom)):
        return None
    return top, bottom


def _usual(value: float) -> bool:
    """Whether float32 holds a number, and products of it with pixels."""
    return value == 0 or _SMALLEST <= abs(value) <= 1 / _SMALLEST


def numbers(text: str) -> tuple[float, ...] | None:
    """The numbers between bars (`0.485|0.456|0.406`); None where some are none."""
    found = [number(part) for part in text.split("|")]
    values = tuple(top / bottom for top, bottom in filter(None, found))
    return values if len(values) == len(found) else None
