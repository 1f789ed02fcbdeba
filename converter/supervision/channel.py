"""What a supervised run says to the process that watches it; without one, words go nowhere.

A message is a word, a space, a text and a NUL, so that paths of any kind pass.
"""

from __future__ import annotations

import contextlib
import os

__all__ = [
    "Word",
    "connect",
    "delivered",
    "held",
    "keep",
    "made",
    "say",
    "scratch",
    "stage",
    "stage_now",
    "supervised",
]


class Word:
    """The words of the messages."""

    STAGE = b"stage"  # the run is in this stage from now on
    MEMORY = b"memory"  # bytes that it may take
    TIMEOUT = b"timeout"  # seconds that it may take
    SCRATCH = b"scratch"  # a folder of its own, of no use once it is gone
    KEEP = b"keep"  # a folder of its own that is of use to the next run
    MADE = b"made"  # a folder that it made, of no use while empty
    STOPPED = b"stopped"  # a signal asked it to end, and it cleans up
    DONE = b"done"  # it came to its end, with this exit code


_words: int | None = None
_held: int | None = None
_stage = ""


def connect(words: int, held: int) -> None:
    """Take part in a supervised run.

    Args:
        words: descriptor to write messages to.
        held: descriptor of a file for what is held back from stderr; the parent quotes it after a crash.
    """
    global _words, _held
    _words, _held = words, held


def supervised() -> bool:
    """Whether anybody listens."""
    return _words is not None


def held() -> int | None:
    """The file for what is held back from stderr, where the parent can read it; None where nobody watches."""
    return _held


def say(word: bytes, text: str | float = "") -> None:
    """Send a message."""
    if _words is not None:
        with contextlib.suppress(OSError):  # a parent that is gone takes its child along
            os.write(_words, b"%b %b\0" % (word, os.fsencode(str(text))))


def stage(name: str) -> None:
    """Say which stage begins: a crash is told as a failure of it."""
    global _stage
    _stage = name
    say(Word.STAGE, name)


def stage_now() -> str:
    """The stage that began last; empty before the first."""
    return _stage


def delivered() -> None:
    """Say that everything is in place: the run can no longer take too long."""
    say(Word.TIMEOUT, "inf")


def scratch(folder: str | os.PathLike[str]) -> None:
    """Name a folder that the parent removes with all that is in it if the run cannot."""
    say(Word.SCRATCH, os.path.abspath(folder))  # noqa: PTH100  # the parent imports no pathlib


def keep(folder: str | os.PathLike[str]) -> None:
    """Have the parent leave a folder that was named by `scratch`: the next run goes on from there."""
    say(Word.KEEP, os.path.abspath(folder))  # noqa: PTH100


def made(folder: str | os.PathLike[str]) -> None:
    """Name a folder that the parent removes if the run is killed and it is empty; the outermost first."""
    say(Word.MADE, os.path.abspath(folder))  # noqa: PTH100
