"""Whole files or none, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converter.errors import TargetError
from converter.targets import staged

STEPS = """
import os, signal, sys
from pathlib import Path
from converter.targets import staged
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
steps = 0
def step(*args):
    global steps
    steps += 1
    if steps == stop:
        os.kill(os.getpid(), signal.SIGKILL)
from converter.targets import switch
exchange = switch.exchange
switch.exchange = lambda *a: (step(), exchange(*a))[1]
for name in ("open", "fsync", "mkdir", "rename", "replace", "link"):
    original = getattr(os, name)
    setattr(os, name, lambda *a, original=original, **k: (step(), original(*a, **k))[1])
replace = Path.replace
Path.replace = lambda self, other: (step(), replace(self, other))[1]
"""
KILLED = (
    STEPS
    + """
with staged(folder) as scratch:
    for name in ("trunk.onnx", "head.onnx", "report.json"):
        (scratch / name).write_text("new " * 1000)
        step()
print("finished", steps)
"""
)
WITH_DATA = (
    STEPS
    + """
switch._COPIED = int(sys.argv[3])
with staged(folder) as scratch:
    (scratch / "trunk.onnx").write_text("new, reads trunk.onnx.data")
    (scratch / "trunk.onnx.data").write_text("new data")
    step()
"""
)


def test_a_run_killed_at_any_step_leaves_old_or_new(tmp_path: Path) -> None:
    finished = False
    for stop in range(1, 60):
        folder = tmp_path / str(stop)
        folder.mkdir()
        for name in ("trunk.onnx", "head.onnx", "report.json"):
            (folder / name).write_text("old " * 1000)
        done = subprocess.run([sys.executable, "-c", KILLED, folder, str(stop)], capture_output=True)
        texts = {name: (folder / name).read_text() for name in ("trunk.onnx", "head.onnx", "report.json")}
        assert set(texts.values()) <= {"old " * 1000, "new " * 1000}
        if texts["report.json"].startswith("new"):
            assert all(text.startswith("new") for text in texts.values())
        with staged(folder):
            pass
        assert sorted(p.name for p in folder.iterdir()) == ["head.onnx", "report.json", "trunk.onnx"]
        if done.returncode == 0:
            finished = True
            break
        assert done.returncode == -signal.SIGKILL
    assert finished
    assert stop > 8


@pytest.mark.parametrize("copied", [1 << 20, 0], ids=["a copy", "a hard link"])
def test_a_file_and_its_data_are_never_of_two_runs(tmp_path: Path, copied: int) -> None:
    """Between two renames the data lie under two names: copies of small ones, hard links to large ones."""
    seen = set()
    for stop in range(1, 80):
        folder = tmp_path / str(stop)
        folder.mkdir()
        (folder / "trunk.onnx").write_text("old, reads trunk.onnx.data")
        (folder / "trunk.onnx.data").write_text("old data")
        arguments = [sys.executable, "-c", WITH_DATA, folder, str(stop), str(copied)]
        done = subprocess.run(arguments, capture_output=True, check=False)
        age, _, data = (folder / "trunk.onnx").read_text().partition(", reads ")
        assert (folder / data).read_text() == f"{age} data"
        seen.add((age, data))
        with staged(folder):
            pass
        assert sorted(path.name for path in folder.iterdir()) == ["trunk.onnx", "trunk.onnx.data"]
        assert (folder / "trunk.onnx.data").stat().st_nlink == 1  # onnx.load refuses others
        assert (folder / "trunk.onnx").read_text().endswith("reads trunk.onnx.data")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.returncode == 0
    assert {age for age, _ in seen} == {"old", "new"}
    assert len({data for _, data in seen}) == 2  # it was killed between two renames, too


def test_an_error_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="x"), staged(folder) as scratch:  # noqa: PT012
        (scratch / "trunk.onnx").write_text("half")
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with staged(tmp_path) as scratch:
        (scratch / "trunk.onnx").write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "trunk.onnx"]


def test_the_scratch_folder_of_a_living_process_is_not_touched(tmp_path: Path) -> None:
    living = (
        "import sys, pathlib; from converter.targets import staged\nwith staged(pathlib.Path(sys.argv[1])):"
    )
    code = f"{living} print('here', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"here\n"
    with staged(tmp_path) as scratch:
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) == 2
    other.kill()
    other.wait()
    assert {path.name for path in tmp_path.iterdir()} == names - {scratch.name}
    with staged(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(TargetError, match="cannot write to"), staged(tmp_path / "taken"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TargetError, match="cannot write to"), staged(tmp_path / "out"):
        pass
