"""Scratch folders that several processes make and sweep in one place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from converter.scratch import Scratch

ROOT = Path(__file__).resolve().parent.parent
MANY = """
import sys
from pathlib import Path
from converter.scratch import Scratch
for _ in range(300):
    with Scratch(Path(sys.argv[1])) as folder:
        (folder / "file").write_text("here")
        assert (folder / "file").read_text() == "here"
"""


def test_a_folder_that_is_swept_before_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    swept: list[str] = []

    def open_late(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_DIRECTORY and not swept:
            swept.append(str(path))
            Path(path).rmdir()
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_late)
    with Scratch(tmp_path) as folder:
        assert folder.is_dir()
    assert len(swept) == 1
    assert list(tmp_path.iterdir()) == []


def test_processes_at_once_take_nothing_from_one_another(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert list(tmp_path.iterdir()) == []
