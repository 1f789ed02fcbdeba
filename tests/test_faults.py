"""Bad days: whatever happens to a run, artifacts are the old ones or the new, and nothing else is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converter.errors import TargetError
from converter.scratch import Scratch, replacing
from converter.sources.cache import Store
from converter.targets import staged, switch
from fixtures.faults import days
from fixtures.faults.trials import NEW, OLD, Trial
from fixtures.faults.zygote import Zygote
from tests.conftest import ROOT

PUT = """
import os, sys
from fixtures.faults.zygote import Steps
from converter.sources.cache import Store
Steps(os.open(os.devnull, os.O_WRONLY), kill=int(sys.argv[1]))
Store().put("0" * 64, {"opset": 18}, b"graph" * 10000)
"""


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    made = Trial("onnx", tmp_path_factory.mktemp("onnx"))
    yield made
    made.close()


def test_killed_at_every_step(trial: Trial) -> None:
    between = [set(trial.kill(step).values()) for step in trial.places]
    assert between[0] == {OLD}
    assert between[-1] == {NEW}
    assert {OLD, NEW} in between  # or the steps that matter were not met


def test_interrupted_at_every_step(trial: Trial) -> None:
    assert [trial.interrupt(step) for step in trial.places].count(False) > 5


def test_interrupted_at_any_time(trial: Trial) -> None:
    assert 130 in [days.interrupt_at_any_time(trial, n * 0.02) for n in range(12)]


def test_a_full_disk_at_every_step(trial: Trial) -> None:
    assert {trial.fill(step) for step in trial.places} == {0, 6}


def test_a_disk_of_any_size(trial: Trial) -> None:
    try:
        assert {days.fill_disk(trial, size) for size in days.disk_sizes(trial, 12)} == {0, 6}
    except PermissionError as error:
        pytest.skip(f"nothing can be mounted here: {error}")


def test_files_of_a_limited_size(trial: Trial) -> None:
    trial.reset(keep_cache=False)
    assert trial.run(NEW, file_size=10_000) == 6
    assert "File too large" in trial.log()
    trial.expect_untouched()


@pytest.mark.parametrize(("name", "code"), [("out", 6), ("cache", 0), ("tmp", 0)])
def test_a_read_only_folder(trial: Trial, name: str, code: int) -> None:
    try:
        assert days.read_only(trial, name) == code
    except PermissionError as error:
        pytest.skip(f"nothing can be mounted here: {error}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(
    not all(path.stat().st_mode & 0o001 for path in Path(sys.base_prefix).parents),
    reason="others may not run this Python",
)
def test_a_folder_of_somebody_else(trial: Trial) -> None:
    trial.reset(keep_cache=False)
    for path in (*trial.folder.parents, trial.folder, trial.place):
        if path.is_relative_to("/tmp/pytest-of-root"):
            path.chmod(0o755)
    for path in (trial.place / "log", trial.place / "steps", trial.place / "pid"):
        path.touch()
        path.chmod(0o666)
    code = trial.run(NEW, user=65534)
    assert code == 6, trial.log()
    assert "Permission denied" in trial.log()
    assert "hint: choose another --output" in trial.log()
    trial.expect_untouched()


@pytest.mark.parametrize("way", ["file", "below a file", "broken link", "folder in the place of a file"])
def test_something_in_the_way(trial: Trial, way: str) -> None:
    trial.reset(keep_cache=False)
    place = trial.place / "elsewhere"
    if way == "broken link":
        place.symlink_to("nowhere")
    elif way == "folder in the place of a file":
        (place / "trunk.onnx").mkdir(parents=True)
    else:
        place.write_text("mine")
    out = "elsewhere/below" if way == "below a file" else "elsewhere"
    assert trial.zygote.run(trial.command(NEW, out), trial.place) == 6
    assert "error: cannot write" in trial.log()
    assert "hint: choose another --output" in trial.log()
    if place.is_dir():
        assert [path.name for path in place.iterdir()] == ["trunk.onnx"]
    else:
        assert place.is_symlink() or place.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("chattr") is None, reason="only root can fix a file")
def test_what_cannot_be_replaced_takes_back_what_was(trial: Trial) -> None:
    trial.reset(keep_cache=False)
    fixed = trial.out / "trunk.onnx.data"  # which is not the first to be replaced
    if subprocess.run(["chattr", "+i", fixed], capture_output=True, check=False).returncode:
        pytest.skip("this file system fixes no files")
    try:
        assert trial.run(NEW) == 6
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True)
    assert "Operation not permitted" in trial.log()
    trial.expect_untouched()


def test_two_runs_at_once(trial: Trial) -> None:
    with Zygote(*trial.case.packages) as other:
        assert {days.two_at_once(trial, other, seed) for seed in range(16)} == {OLD, NEW}


@pytest.mark.parametrize("what", list(days.CHANGES))
def test_a_source_that_changes(trial: Trial, what: str) -> None:
    steps = trial.places[::3]
    assert {days.change(trial, what, step) for step in steps} == {0, 3}


def test_a_source_that_changes_before_it_is_validated(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "options", ())
    written = next(n for n, note in enumerate(trial.steps, 1) if "open" in note and "head.onnx" in note)
    assert {days.change(trial, what, written) for what in ("written over", "replaced")} == {3}


def test_a_cache_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERTER_CACHE_DIR", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for step in range(1, 100):
        command = [sys.executable, "-B", "-c", PUT, str(step)]
        code = subprocess.run(command, env=environment, capture_output=True, check=False).returncode
        for entry in Store().find("0" * 64):
            assert entry.graph == b"graph" * 10000
        left = [path for path in tmp_path.iterdir() if path.suffix != ".export"]
        assert not left
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 3
    assert len(Store().entries()) == 1


def test_a_cache_on_a_full_disk_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CONVERTER_CACHE_DIR", str(tmp_path))
    try:
        with days.mounted(tmp_path, "-t", "tmpfs", "-o", "size=16k", "none"):
            Store().put("0" * 64, {"opset": 18}, bytes(1 << 20))
            assert list(tmp_path.iterdir()) == []
    except PermissionError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    assert "the export was not cached" in caplog.text


def test_a_device_is_written_to_and_not_replaced() -> None:
    with replacing(Path(os.devnull)) as file:
        file.write(b"x")
    assert Path(os.devnull).is_char_device()


def test_a_file_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.svg").write_text("old")
    (tmp_path / "link.svg").symlink_to("real.svg")
    with replacing(tmp_path / "link.svg") as file:
        file.write(b"new")
    assert (tmp_path / "link.svg").is_symlink()
    assert (tmp_path / "real.svg").read_text() == "new"


def test_a_scratch_folder_goes_with_the_error(tmp_path: Path) -> None:
    def write() -> None:
        with Scratch(tmp_path) as folder:
            (folder / "half").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(TargetError, match="No space left") as caught:
        write()
    assert "TMPDIR" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("trunk.onnx", "trunk.onnx.data"), ("trunk.xml", "trunk.bin")])
def test_without_an_exchange_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(switch, "exchange", lambda one, other: False)
    for text in ("old", "new"):
        with staged(tmp_path) as scratch:
            for name in (*names, "report.json"):
                (scratch / name).write_text(text)
            (scratch / "trunk.savedmodel").mkdir()
            (scratch / "trunk.savedmodel" / text).write_text(text)
    assert {(tmp_path / name).read_text() for name in names} == {"new"}
    assert [path.name for path in (tmp_path / "trunk.savedmodel").iterdir()] == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "report.json", "trunk.savedmodel"}


def test_the_numbers_differ() -> None:
    from fixtures.faults.models import computed

    x = np.ones((1, 8), np.float32)
    assert not np.allclose(computed("model", OLD, x), computed("model", NEW, x), atol=0.1)
