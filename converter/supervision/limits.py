"""Limits as users write them: `8GB`, `1.5GiB`, `90`, `10m`."""

from __future__ import annotations

import math
import re

from converter.errors import UsageError
from converter.supervision import channel, memory
from converter.supervision.channel import Word

__all__ = ["bytes_of", "in_bytes", "in_seconds", "keep", "memory_limit", "seconds_of"]

_SIZES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _product(text: str, units: dict[str, float]) -> float | None:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text, re.ASCII)
    unit = None if found is None else units.get(found[2].lower())
    value = None if found is None or unit is None else float(found[1]) * unit
    return value if value is not None and 0 < value < math.inf else None


def bytes_of(text: str) -> int:
    """The number of bytes of `8GB` (10^9 each), `1.5GiB` (2^30), `800MB`, or a plain number of bytes.

    Raises:
        UsageError: it is none, or less than any run takes: a number without its unit.
    """
    value = _product(text, {unit: float(size) for unit, size in _SIZES.items()})
    if value is None or value < _LEAST:
        raise UsageError(f"memory limit {text!r}: expected 1MB or more, such as 8GB, 800MB or 1.5GiB")
    return int(value)


def seconds_of(text: str) -> float:
    """The seconds of `90`, `90s`, `10m`, `2h`.

    Raises:
        UsageError: it is none, or not above 0.
    """
    value = _product(text, _TIMES)
    if value is None:
        raise UsageError(f"timeout {text!r}: expected a time above 0, such as 90 (seconds), 10m or 2h")
    return value


def in_bytes(size: float) -> str:
    """A size to read: `812 MB`, `3.4 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 999.5e6 else f"{size / 1e6:.0f} MB"


def in_seconds(seconds: float) -> str:
    """A time to read: `0.5 s`, `90 s`."""
    return f"{seconds:g} s"


_LEAST = 10**6
_memory_limit: int | None = None


def keep(memory_text: str | None, timeout_text: str | None) -> None:
    """Have the process that watches this one hold it to limits, None for none of its own.

    Raises:
        UsageError: a limit cannot be read, or nobody is there who could keep it.
    """
    global _memory_limit
    size = None if memory_text is None else bytes_of(memory_text)
    seconds = None if timeout_text is None else seconds_of(timeout_text)
    if (size, seconds) != (None, None) and not channel.supervised():
        raise UsageError(
            "--memory-limit and --timeout are kept by a parent process, and this run has none",
            hint="they are for the `converter` command on Linux and macOS",
        )
    if size is not None and not memory.can_measure():
        raise UsageError("--memory-limit needs /proc, which says how much memory a process holds")
    _memory_limit = size
    if size is not None:
        channel.say(Word.MEMORY, size)
    if seconds is not None:
        channel.say(Word.TIMEOUT, seconds)


def memory_limit() -> int | None:
    """The bytes that the user allows; None where that is left to the machine."""
    return _memory_limit
