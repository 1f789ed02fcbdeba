"""Runs that crash, hang, eat memory or are told to stop, in real processes as a user starts them."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli import app
from converter.errors import UsageError
from converter.supervision.limits import bytes_of, seconds_of

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and orphans are told by Linux's /proc"
)

FACTORIES = """
import ctypes, os, signal, subprocess, sys, time
import numpy

libc = ctypes.CDLL(None)
EATER = "import time\\nheld = []\\nwhile True:\\n  held.append(b'x' * 20_000_000)\\n  time.sleep(.01)"

def segfaults(): ctypes.string_at(0)
def deep_down(depth=150):
    return deep_down(depth - 1) if depth else ctypes.string_at(0)
def aborts(): os.abort()
def exits(): raise SystemExit(0)
def leaves(): os._exit(7)
def leaves_well(): os._exit(0)
def killed(): os.kill(os.getpid(), 9)
def hangs():
    open("pid", "w").write(str(os.getpid()))
    open("ready", "w").close()
    time.sleep(600)
def hangs_in_c():
    signal.signal(signal.SIGINT, lambda *_: None)  # the signal may come before C does
    mutex = ctypes.create_string_buffer(256)  # zeros: PTHREAD_MUTEX_INITIALIZER
    lock = ctypes.PyDLL(None).pthread_mutex_lock  # with the lock of the interpreter held
    lock(mutex)
    open("ready", "w").close()
    lock(mutex)
def eats():
    held = []
    while True:
        held.append(b"x" * 20_000_000)
        time.sleep(.01)
def grandchild_eats():
    open("ready", "w").close()
    subprocess.Popen([sys.executable, "-c", EATER]).wait()
def maps():
    with open("large", "wb") as file:
        file.truncate(2_000_000_000)
    large = numpy.memmap("large", mode="r")
    large[::4096].sum()
    raise ValueError("mapped all of it")
def shares():  # pages that a fork shares with its parent are there once
    held = b"x" * 300_000_000
    for _ in range(4):
        if not os.fork():
            time.sleep(3)
            os._exit(0)
    time.sleep(2)
    raise ValueError("forked")
def speaks_then_aborts():
    libc.dprintf(2, b"words of C\\n")
    os.abort()
def held_back_then_crashes():
    from converter.quiet import quiet
    with quiet():
        libc.dprintf(2, b"thrown away\\n")
    with quiet(), quiet():
        libc.dprintf(2, b"held words of C\\n")
        ctypes.string_at(0)
def floods():
    from converter.quiet import quiet
    with quiet():
        os.write(2, b"held " * 1_000_000)
    for _ in range(100):
        os.write(2, b"y" * 50_000)
    raise ValueError("flooded")
def in_turns():
    for turn in range(3):
        print("out", turn, flush=True)
        print("err", turn, file=sys.stderr, flush=True)
    raise ValueError("done")
def tells_terminal():
    raise ValueError(f"terminal {sys.stderr.isatty()} {os.isatty(2)}")
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """The command that converts what a factory makes."""
    (tmp_path / "made.py").write_text(FACTORIES, encoding="utf-8")

    def arguments(factory: str, *options: str) -> list[str]:
        source = [f"made.py:{factory}", "--example", "1x4", "--output", "out"]
        return [sys.executable, "-m", "converter", "convert", *source, *options]

    return arguments


def environment(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "COLUMNS": "200"}


@pytest.fixture
def run(tmp_path: Path, command: Callable[..., list[str]]) -> Run:
    def start(factory: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(factory, *options),
            cwd=tmp_path,
            env=environment(tmp_path),
            timeout=300,
            check=False,
            **({"capture_output": True, "text": True} | more),
        )

    return start


@pytest.fixture
def started(tmp_path: Path, command: Callable[..., list[str]]) -> Iterator[Callable[..., Any]]:
    """Start a run in a process group of its own, and wait until its factory says that it is there."""
    running: list[subprocess.Popen[str]] = []

    def start(factory: str, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(factory, *options),
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Who runs the tests in the background ignores Ctrl-C, and so would whatever they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        running.append(process)
        wait_for(lambda: (tmp_path / "ready").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def alive(process: int) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[3]) == leader and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def left_over(folder: Path) -> list[str]:
    """What a run has left behind."""
    known = {"made.py", "tmp", "ready", "pid", "large", "__pycache__"}
    return [p.name for p in (*folder.iterdir(), *(folder / "tmp").iterdir()) if p.name not in known]


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("factory", "what"),
    [
        ("segfaults", "SIGSEGV (segmentation fault)"),
        ("aborts", "SIGABRT (aborted)"),
        ("leaves", "exit code 7"),
        ("leaves_well", "exit code 0"),
        ("exits", "SystemExit: 0"),
        ("killed", "was killed (SIGKILL)"),
    ],
)
def test_a_crash_is_an_error_of_the_source(run: Run, tmp_path: Path, factory: str, what: str) -> None:
    done = run(factory)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert not left_over(tmp_path)


def test_a_crash_says_where_python_was(run: Run) -> None:
    text = run("segfaults").stderr
    first, second = re.findall(r'\| File "([^"]+)", line \d+ in (\w+)', text)[:2]
    assert first[1] == "string_at"
    assert (Path(second[0]).name, second[1]) == ("made.py", "segfaults")


def test_where_python_was_is_found_below_many_callers(run: Run) -> None:
    done = run("deep_down")
    lines = done.stderr.splitlines()
    place = next(n for n, line in enumerate(lines) if "Python was at" in line)
    assert "in string_at" in lines[place + 1]
    assert "in deep_down" in lines[place + 2]


def test_what_c_wrote_before_a_crash_is_seen(run: Run) -> None:
    before, _, after = run("speaks_then_aborts").stderr.partition("error: ")
    assert before == "words of C\n"
    assert "SIGABRT" in after


def test_what_was_held_back_is_quoted_after_a_crash(run: Run) -> None:
    text = run("held_back_then_crashes").stderr
    assert "last lines of its log:\n  | held words of C\n" in text
    assert "thrown away" not in text


def test_json_stays_empty_after_a_crash(run: Run) -> None:
    done = run("segfaults", "--json")
    assert (done.returncode, done.stdout) == (3, "")
    assert "SIGSEGV" in done.stderr


NETWORK = """
import ctypes, glob, os, time
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.last = torch.nn.Linear(4, 4)

    def forward(self, x):
        if glob.glob("out/.converter-staging-*"):
            open("ready", "w").close()
            {deed}
        return self.last(torch.relu(self.first(x)))

def make():
    return Net()
"""


def test_a_crash_while_validating_is_a_failed_validation(run: Run, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(NETWORK.format(deed="ctypes.string_at(0)"), encoding="utf-8")
    done = run("make", "--weights", "random", "--no-cache")
    assert done.returncode == 5, done.stderr
    assert "crashed during validate: SIGSEGV" in done.stderr
    assert (tmp_path / "ready").exists()
    assert not left_over(tmp_path)  # neither the staging folder nor the output folder that was made for it


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("factory", ["eats", "grandchild_eats"])
def test_memory_is_limited(run: Run, factory: str, tmp_path: Path) -> None:
    done = run(factory, "--memory-limit", "800MB")
    assert done.returncode == 3
    found = re.search(
        r"took (\d+\.?\d*) (MB|GB) of memory during open, over --memory-limit 800 MB", done.stderr
    )
    assert found, done.stderr
    assert 800 <= float(found[1]) * (1000 if found[2] == "GB" else 1) < 4000
    assert "hint: " in done.stderr
    assert not left_over(tmp_path)


@pytest.mark.parametrize(("factory", "end"), [("maps", "mapped all of it"), ("shares", "forked")])
def test_mapped_files_and_shared_pages_do_not_count(run: Run, factory: str, end: str) -> None:
    done = run(factory, "--memory-limit", "800MB")
    assert f"ValueError: {end}" in done.stderr


def test_time_is_limited_even_where_c_holds_the_interpreter(run: Run, tmp_path: Path) -> None:
    done = run("hangs_in_c", "--timeout", "8s")
    assert done.returncode == 3
    assert "more than --timeout 8 s: it was ended during open" in done.stderr
    assert re.search(r'\| File "[^"]+made.py", line \d+ in hangs_in_c', done.stderr)
    assert not left_over(tmp_path)


HANGS_AT_EXIT = """
import atexit, sys, time
from converter.supervision import limits
from converter.supervision.supervisor import supervise
def work():
    limits.keep(None, "2s")
    atexit.register(time.sleep, 600)
    return 0
sys.exit(supervise(work).code)
"""


def test_what_is_done_is_done_even_where_it_does_not_end() -> None:
    command = [sys.executable, "-c", HANGS_AT_EXIT]
    assert subprocess.run(command, cwd=ROOT, timeout=240, check=False).returncode == 0


@pytest.mark.parametrize("option", [("--memory-limit", "8XB"), ("--timeout", "0"), ("--timeout", "nan")])
def test_limits_that_are_none_are_refused(run: Run, option: tuple[str, str]) -> None:
    done = run("exits", *option)
    assert done.returncode == 2
    assert f"{option[1]!r}: expected" in done.stderr


def test_limits_are_refused_where_nobody_keeps_them() -> None:
    result = CliRunner().invoke(app, ["layers", "none.onnx", "--memory-limit", "8GB"])
    assert result.exit_code == 2
    assert "this run has none" in result.stderr


@pytest.mark.parametrize("name", ["convert", "fit", "layers", "plan", "rank", "drift", "profile", "compare"])
def test_every_command_that_opens_a_source_has_limits(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"], terminal_width=200)
    assert "--memory-limit" in result.output
    assert "--timeout" in result.output


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("800mb", 8 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("4096000", 4096000),
        ("2 g", 2 * 10**9),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("2h", 7200)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "inf", "0", "0.1", "8 GB 2", "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        bytes_of(text)


# ---------------------------------------------------------------- output


def test_order_of_stdout_and_stderr_is_kept(run: Run) -> None:
    done = run("in_turns", capture_output=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("out", "err "))]
    assert lines == [f"{name} {turn}" for turn in range(3) for name in ("out", "err")]


def test_a_flood_on_stderr_stops_nothing(run: Run) -> None:
    done = run("floods")
    assert done.returncode == 3
    assert done.stderr.count("y") >= 5_000_000
    assert "held" not in done.stderr
    assert done.stderr.rstrip().endswith("ValueError: flooded")


def test_a_terminal_stays_a_terminal(run: Run) -> None:
    parent, child = pty.openpty()
    done = run("tells_terminal", capture_output=False, stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    text = b""
    with contextlib.suppress(OSError):  # Linux's way to say that a terminal has ended
        while part := os.read(parent, 4096):
            text += part
    os.close(parent)
    assert done.returncode == 3
    assert b"terminal True True" in text
    assert b"\x1b[31m" in text


def test_usage_errors_and_help_are_as_ever(run: Run) -> None:
    assert run("exits", "--no-such-option").returncode == 2
    assert run("exits", "--help").returncode == 0


def test_the_parent_loads_little() -> None:
    code = (
        "import sys, os\n"
        "import converter.cli\n"
        "from converter.supervision import supervise\n"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "converter" in loaded
    others = loaded - sys.stdlib_module_names - {"converter", "__main__", "encodings"}
    assert not others
    assert not loaded & {"asyncio", "subprocess", "multiprocessing", "tempfile", "inspect", "json", "logging"}


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whom", ["parent", "group"])
def test_a_signal_stops_the_run_with_one_line(
    started: Callable[..., Any], tmp_path: Path, number: signal.Signals, whom: str
) -> None:
    process = started("hangs")
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    assert errors == f"stopped by {number.name}\n"
    assert not alive(int((tmp_path / "pid").read_text()))
    assert not left_over(tmp_path)


def test_a_signal_while_validating_leaves_nothing(started: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(NETWORK.format(deed="time.sleep(600)"), encoding="utf-8")
    process = started("make", "--weights", "random", "--no-cache")
    assert list(tmp_path.glob("out/.converter-staging-*"))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (130, "stopped by SIGINT\n")
    assert not left_over(tmp_path)


def test_a_second_signal_ends_what_does_not_listen(started: Callable[..., Any], tmp_path: Path) -> None:
    process = started("hangs_in_c")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (130, "stopped by SIGINT\n")
    assert not session(process.pid)
    assert not left_over(tmp_path)


def test_a_killed_parent_leaves_no_child(started: Callable[..., Any], tmp_path: Path) -> None:
    process = started("hangs")
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    process.kill()
    process.wait()
    wait_for(lambda: not alive(child))


def test_what_a_run_has_started_ends_with_it(started: Callable[..., Any]) -> None:
    process = started("grandchild_eats", "--memory-limit", "700MB")
    process.communicate(timeout=240)
    assert process.returncode == 3
    assert not session(process.pid)
