"""What became of a run that did not come to its end, as the error of the stage it was in."""

from __future__ import annotations

import re
import signal

from converter.errors import ConverterError, SourceError, TargetError, ValidationError
from converter.supervision.limits import in_bytes, in_seconds

__all__ = [
    "SMALLER",
    "crashed",
    "error_of",
    "exited",
    "out_of_memory",
    "over_limit",
    "over_time",
    "vanished",
]

_LINES = 12  # of the log
_FRAMES = 6
# Stage → the kind of error that ends a run there; all others are the source's.
_ERRORS: dict[str, type[ConverterError]] = {
    "precision": TargetError,
    "write": TargetError,
    "deliver": TargetError,
    "validate": ValidationError,
    "measure": ValidationError,
}
SMALLER = (
    "an earlier cut (--to) needs less, and so does an ONNX file as the source, whose weights stay on the disk"
)


def error_of(stage: str, message: str, hint: str | None = None) -> ConverterError:
    """The error of a stage."""
    return _ERRORS.get(stage, SourceError)(message, hint=hint)


def _during(stage: str) -> str:
    return f" during {stage}" if stage else ""


def _quoted(title: str, lines: list[str]) -> str:
    return (
        "".join(f"\n{line}" for line in [f"  {title}", *(f"  | {line}" for line in lines)]) if lines else ""
    )


def _log(held: str) -> str:
    lines = [line.rstrip() for line in held.splitlines() if line.strip()]
    return _quoted("last lines of its log:", lines[-_LINES:])


def _place(dump: str) -> str:
    """Where Python was, of what `faulthandler` wrote: the thread that crashed, else the main one.

    The main thread is the one that is written last, as it is the oldest.
    """
    threads = re.findall(r"^(Current thread|Thread)[^\n]*\n((?:  File [^\n]*\n?)*)", dump, re.MULTILINE)
    known = [(title, frames) for title, frames in threads if frames]
    chosen = [frames for title, frames in known if title.startswith("Current")] or [f for _, f in known[-1:]]
    frames = [line.strip() for line in chosen[0].splitlines()] if chosen else []
    more = [f"and {len(frames) - _FRAMES} callers more"] if len(frames) > _FRAMES else []
    return _quoted("Python was at, innermost first:", frames[:_FRAMES] + more)


def crashed(stage: str, number: int, held: str, dump: str) -> ConverterError:
    """A signal ended it that nobody sent on purpose."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = signal.strsignal(number)
    what = f"{name} ({meaning.lower()})" if meaning else name
    return error_of(
        stage,
        f"the process crashed{_during(stage)}: {what}{_log(held)}{_place(dump)}",
        "nothing was written; a library that this run uses has crashed: its own words may be above, and "
        "another version of it may not",
    )


def exited(stage: str, code: int, held: str) -> ConverterError:
    """Code of the model or of a library ended the process."""
    return error_of(
        stage,
        f"the process was ended from inside{_during(stage)}, with exit code {code}{_log(held)}",
        "nothing was written; something that was imported or run calls exit",
    )


def vanished(stage: str, held: str, *, kernel: bool) -> ConverterError:
    """SIGKILL, which this process did not send."""
    if kernel:
        what = "the kernel killed the process for want of memory"
    else:
        what = "the process was killed (SIGKILL), by the kernel for want of memory or by someone"
    return error_of(
        stage,
        f"{what}{_during(stage)}{_log(held)}",
        f"nothing was written; {SMALLER}; --memory-limit ends a run sooner",
    )


def over_limit(stage: str, size: int, limit: int, dump: str) -> ConverterError:
    """It took more memory than it was allowed."""
    return error_of(
        stage,
        f"the run took {in_bytes(size)} of memory{_during(stage)}, over --memory-limit {in_bytes(limit)}: "
        f"it was ended{_place(dump)}",
        f"a higher --memory-limit; {SMALLER}",
    )


def out_of_memory(stage: str, size: int, left: int, dump: str) -> ConverterError:
    """The machine would have run out of memory."""
    return error_of(
        stage,
        f"this machine runs out of memory{_during(stage)}: {in_bytes(max(left, 0))} are left, and this run "
        f"holds {in_bytes(size)}: it was ended before the kernel would end some process{_place(dump)}",
        f"nothing was written; {SMALLER}; other programs may give memory back",
    )


def over_time(stage: str, limit: float, dump: str) -> ConverterError:
    """It took longer than it was allowed."""
    return error_of(
        stage,
        f"the run took more than --timeout {in_seconds(limit)}: it was ended{_during(stage)}{_place(dump)}",
        "a longer --timeout",
    )
