"""The parent: forks, watches, ends what goes too far, and says what became of it.

It imports nothing but the standard library, so that it stays small, and touches neither stdout nor stderr of
the child: order, colours and terminals are as without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from converter.errors import ConverterError
from converter.supervision import channel, fate, memory
from converter.supervision.channel import Word

__all__ = ["End", "supervise"]

_PERIOD = 0.05  # seconds between two looks at the child's memory
_GRACE = 10.0  # seconds for the child to clean up after a signal
_IMPATIENT = 0.5  # seconds after which a second signal is not the first one's echo
_DUMPED = 1.0  # seconds for the child to say where Python is
_URGENT = 0.1  # the same while it takes memory
_FAREWELL = 1.0  # seconds for all that the child has started to be gone
_QUOTED = 4000  # bytes of what was held back
# Of the stacks of all threads: of each the innermost hundred frames.
_STACKS = 1 << 17
_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class End(NamedTuple):
    """How a run ended.

    Attributes:
        code: the exit code, where it came to its end or was asked to stop.
        stopped: the name of the signal that asked it to.
        error: what happened, where it did not come to its end.
    """

    code: int = 0
    stopped: str = ""
    error: ConverterError | None = None


class _Stopped(KeyboardInterrupt):
    """A signal asks the child to end: raised, so that everything is cleaned up on the way out."""


def supervise(work: Callable[[], int]) -> End:
    """Do some work in a child process; what became of it. Returns in the child, too, with its own end.

    Without `os.fork` the work is done in this process, and `channel.supervised()` is false.

    Args:
        work: returns the exit code of the process.
    """
    if not hasattr(os, "fork"):
        return End(work())
    # Neither files nor pipes are closed: they end with the processes, which write to them to the last.
    held, dump = _scratch_file(), _scratch_file()
    words, child_words = os.pipe()
    wakeup, signalled = os.pipe()
    for descriptor in (wakeup, signalled):
        os.set_blocking(descriptor, False)
    _listen(signalled)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    parent, kills = os.getpid(), memory.oom_kills()
    child = os.fork()
    if child:
        os.close(child_words)
        return _Watch(child, words, wakeup, held, dump, kills).until_end()
    signal.set_wakeup_fd(-1)
    for descriptor in (words, wakeup, signalled):
        os.close(descriptor)
    _set_up(parent, child_words, held, dump)
    return End(_carry_out(work))


def _scratch_file() -> int:
    """A descriptor of an empty file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("converter")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _prctl(option: int, value: int) -> bool:
    """Linux's prctl(2); False elsewhere."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def _listen(descriptor: int) -> None:
    """Have signals wake the loop. Those that are ignored stay so, as under nohup."""
    signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    for number in (*_ENDING, signal.SIGCHLD):
        if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


# ---------------------------------------------------------------- in the child

_stopped_by = 0


def _set_up(parent: int, words: int, held: int, dump: int) -> None:
    _die_with(parent)
    channel.connect(words, held)
    import faulthandler

    faulthandler.enable(dump)
    faulthandler.register(signal.SIGUSR1, dump)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _carry_out(work: Callable[[], int]) -> int:
    """Do the work, and say that it was done: whoever ends the process in between is found out."""
    code = 1
    try:
        code = work()
    except _Stopped:
        pass
    finally:
        code = 128 + _stopped_by if _stopped_by else code
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, closed, or nobody reads on
                stream.flush()
        channel.say(Word.DONE, code)
    return code


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, or do it by a thread that notices."""
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        import threading

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:  # it was killed before that
        os._exit(1)


def _stop(number: int, _: Any) -> None:
    """Unwind, once: a second signal, often the first one's echo, does not break off the cleaning up."""
    global _stopped_by
    if _stopped_by:  # whoever had another handler has put this one back
        return
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)
    _stopped_by = number
    channel.say(Word.STOPPED, number)
    raise _Stopped


# ---------------------------------------------------------------- in the parent


class _Watch:
    """What the parent knows of its child."""

    def __init__(self, child: int, words: int, wakeup: int, held: int, dump: int, kills: int) -> None:
        self._child, self._words, self._wakeup = child, words, wakeup
        self._held, self._dump, self._kills = held, dump, kills
        self._start = time.monotonic()
        self._family = memory.Family()
        self._measures = memory.can_measure()
        self._margin = memory.margin()
        self._status: int | None = None  # of the child, once it is gone
        self._sources = [words, wakeup]
        self._unread = b""
        self._stage = ""
        self._limit: int | None = None
        self._timeout: float | None = None
        self._folders: list[tuple[bytes, str]] = []
        self._done: int | None = None
        self._stopped = 0
        self._asked: tuple[float, int] | None = None  # when this process was asked to stop first, and how

    def until_end(self) -> End:
        """Watch until the child is gone, and clean up after it."""
        error = None
        while self._status is None:
            if self._wakeup in select.select(self._sources, [], [], _PERIOD)[0]:
                self._pass_on(number for number in os.read(self._wakeup, 512) if number in _ENDING)
            self._listen()
            if self._asked and time.monotonic() - self._asked[0] > _GRACE:
                self._kill()
            if error is None and (error := self._excess()) is not None:
                self._kill()
            self._reap()
        self._listen()
        end = self._end(self._status, error)
        if self._done is None or end.error is not None:
            self._kill()  # what the child has started
        self._clean()
        return end

    def _listen(self) -> None:
        """Take in the child's messages."""
        while self._words in select.select(self._sources, [], [], 0)[0]:
            some = os.read(self._words, 1 << 16)
            if not some:
                self._sources = [self._wakeup]
            *messages, self._unread = (self._unread + some).split(b"\0")
            for message in messages:
                word, _, text = message.partition(b" ")
                self._take(word, os.fsdecode(text))

    def _take(self, word: bytes, text: str) -> None:
        if word == Word.STAGE:
            self._stage = text
        elif word == Word.MEMORY:
            self._limit = int(text)
        elif word == Word.TIMEOUT:
            self._timeout = float(text)
        elif word in (Word.SCRATCH, Word.MADE):
            self._folders.append((word, text))
        elif word == Word.KEEP:
            self._folders = [pair for pair in self._folders if pair != (Word.SCRATCH, text)]
        elif word == Word.STOPPED:
            self._stopped = int(text)
        elif word == Word.DONE:
            self._done = int(text)

    def _pass_on(self, numbers: Iterator[int]) -> None:
        """Ask the child to stop; kill it when this process is asked again."""
        now = time.monotonic()
        for number in numbers:
            if self._asked is None:
                self._asked = now, number
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, number)
            elif now - self._asked[0] > _IMPATIENT:
                self._kill()

    def _excess(self) -> ConverterError | None:
        """What the child has too much of: time or memory."""
        late = self._timeout is not None and time.monotonic() - self._start > self._timeout
        if self._done is not None:  # it only has to go yet
            if late:
                self._kill()
            return None
        if late and self._timeout is not None:
            return fate.over_time(self._stage, self._timeout, self._whereabouts(_DUMPED))
        if not self._measures:
            return None
        size = self._family.memory(sys.maxsize if self._limit is None else self._limit)
        if self._limit is not None and size > self._limit:
            return fate.over_limit(self._stage, size, self._limit, self._whereabouts(_URGENT))
        # Only a run that holds much itself gives way: the others are not its fault.
        if size > self._margin:
            left = memory.available()
            if left is not None and left < self._margin:
                return fate.out_of_memory(self._stage, size, left, self._whereabouts(_URGENT))
        return None

    def _whereabouts(self, patience: float) -> str:
        """Where Python is in the child: faulthandler writes it down even where C code does not return."""
        end = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGUSR1)
        before, text = "", ""
        while (not text or text != before) and time.monotonic() < end:  # it is written line by line
            time.sleep(0.01)
            before, text = text, _tail(self._dump, _STACKS)
        return text

    def _kill(self) -> None:
        """Kill the child and what it has started."""
        if self._status is None:
            os.kill(self._child, signal.SIGKILL)
        end = time.monotonic() + _FAREWELL
        while self._measures and (members := self._family.members()) and time.monotonic() < end:
            for process in members:  # again and again: one may start another while it is killed
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.002)
            self._reap()

    def _reap(self) -> None:
        """Let processes go that are gone: the child, and those that the kernel handed over."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._child:
                    self._status = found[1]

    def _end(self, status: int, error: ConverterError | None) -> End:
        code = os.waitstatus_to_exitcode(status)
        if error is None:
            stopped = self._stopped or (self._asked[1] if self._asked and self._done is None else 0)
            if stopped:
                return End(128 + stopped, stopped=signal.Signals(stopped).name)
            if self._done is not None:  # libraries that crash while they are unloaded harm nobody
                return End(code if code >= 0 else self._done)
            error = self._failure(code)
        return End(error.exit_code, error=error)

    def _failure(self, code: int) -> ConverterError:
        held = _tail(self._held)
        if code >= 0:
            return fate.exited(self._stage, code, held)
        if -code == signal.SIGKILL:
            return fate.vanished(self._stage, held, kernel=memory.oom_kills() > self._kills)
        return fate.crashed(self._stage, -code, held, _tail(self._dump, _STACKS))

    def _clean(self) -> None:
        """Remove the folders that the child named; those that lie in others were named later."""
        for word, folder in reversed(self._folders):
            if word == Word.SCRATCH and os.path.isdir(folder):  # noqa: PTH112
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
            elif word == Word.MADE:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # noqa: PTH106


def _tail(file: int, most: int = _QUOTED) -> str:
    """The end of what is in a file."""
    size = os.fstat(file).st_size
    return os.pread(file, most, max(size - most, 0)).decode(errors="replace")
