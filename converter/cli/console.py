"""The console that commands print to: names from files cannot steer the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["Screen", "harmless"]

# Control characters, and those that turn the direction of writing or show nothing.
_STEERING = frozenset(("Cc", "Cf", "Co", "Cs", "Zl", "Zp"))


def harmless(text: str) -> str:
    """The text with what would steer a terminal written as Python escapes it; line ends stay."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        c
        if c == "\n" or unicodedata.category(c) not in _STEERING
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


class Screen(Console):
    """A rich console on which layer names, paths and messages are shown and never obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich makes of something to print; colours are styles of segments, not part of their text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)
