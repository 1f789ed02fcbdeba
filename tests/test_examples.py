"""The examples, each run as a reader would run it: the script, then the commands that it says do the same."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def commands(example: str) -> list[str]:
    """The commands in a script's docstring, each on one line."""
    text = (FOLDER / f"{example}.py").read_text().split('"""')[1]
    return re.findall(r"^    (converter .*)$", re.sub(r"\s*\\\n\s*", " ", text), re.MULTILINE)


def run(folder: Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_script_and_its_commands(example: str, tmp_path: Path) -> None:
    """With seeded weights, which are there at once; `build/` lies where the commands look for it."""
    run(tmp_path, FOLDER / f"{example}.py", Path("build") / example, "random")
    shorter = commands(example)
    assert shorter
    for command in shorter:
        words = shlex.split(command.replace("--weights auto", "--weights random"))
        words = [str(ROOT / word) if word.startswith("docs/") else word for word in words]
        run(tmp_path, "-m", "converter", *words[1:], "--output", tmp_path / "again")


def test_the_table_has_every_example_and_its_command() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\.py\]\((\w+)\.py\) \|.*\| `(.*)` \|$", (FOLDER / "README.md").read_text(), re.M
    )
    assert sorted(name for name, _, _ in rows) == EXAMPLES
    for name, link, command in rows:
        assert name == link
        assert command in commands(name)
