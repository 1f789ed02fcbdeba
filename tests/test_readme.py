"""The README's commands, run as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a reader has: the files that git tracks, in a folder of their own, and the environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(tmp_path / name, (1, 1))  # older than .venv: make must not install it anew
    return tmp_path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
    )


def test_every_shell_command(checkout: Path) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert "make test" in commands  # this very run; once is enough
    assert len(commands) >= 7
    for command in commands:
        if command == "make test":
            continue
        done = shell(command, checkout)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    assert (checkout / "build/vgg16-block5_pool/trunk.onnx").stat().st_size > 50_000_000
    assert (checkout / "build/mobilenetv2-block_8_expand/head.keras").exists()


def test_the_python_block(checkout: Path) -> None:
    (block,) = blocks("python")
    (checkout / "example.py").write_text(block)
    done = shell("python example.py", checkout)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^passed: \d+ comparisons, largest scaled error \S+ True$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith("passed")


@pytest.mark.parametrize("guide", ["pytorch.md", "onnx.md"])
def test_the_guides(guide: str, checkout: Path) -> None:
    page = (ROOT / "docs" / guide).read_text()
    for block in blocks("sh", page):
        done = shell(block, checkout)
        assert done.returncode == 0, (block, done.stdout[-2000:], done.stderr[-2000:])
    # The wheels of torch and torchvision that stand here may be of different builds.
    mended = "from converter.sources.torch import backend\n\nbackend.torchvision()\n"
    (checkout / "guide.py").write_text(mended + "\n".join(blocks("python", page)))
    done = shell("python guide.py", checkout)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_code_map_names_what_there_is() -> None:
    for name in re.findall(r"^  (\w+(?:\.py|/)) ", README, re.MULTILINE):
        assert (ROOT / "converter" / name).exists(), name
    for name in re.findall(r"\]\((\S+?)\)", README):
        assert (ROOT / name).exists(), name


def test_make_alone_and_without_a_model_says_how(checkout: Path) -> None:
    done = shell("make", checkout)
    assert done.returncode == 0
    assert "make convert MODEL=vgg16 CUT=block5_pool" in done.stdout
    done = shell("make convert", checkout)
    assert done.returncode == 2
    assert "make convert MODEL=vgg16" in done.stdout
    done = shell("make convert MODEL=vgg16 KEEP=tail", checkout)
    assert done.returncode == 2
    assert "expected trunk, head or both" in done.stdout
