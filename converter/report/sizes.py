"""Bytes and counts for people."""

from __future__ import annotations

__all__ = ["count", "counted", "size_of"]


def size_of(count: int) -> str:
    """Bytes for people: `98.8 kB`."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def count(number: int) -> str:
    """A large number for people: `4.09 G`."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {letter}"
    return str(number)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: `1 output`, `1,448 outputs`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
