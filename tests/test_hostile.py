"""Hostile files without a framework: refused with their reasons, and live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.hostile import CASES, Place, Result, Results
from fixtures.hostile.__main__ import table

ROOT = Path(__file__).resolve().parent.parent
PLAIN = [name for name, case in CASES.items() if not case.framework]
# Megabytes: ONNX Runtime; images and archives up to their floors.
MOST_MB = 1500
# ONNX Runtime's profiler keeps a million events of 2 KB each, and has no setting for less.
PROFILED_MB = 3000


def selected(request: pytest.FixtureRequest, test: str) -> list[str]:
    """The cases that this run has selected for a test of this file, in its order."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    return [i.callspec.params["name"] for i in items if i.originalname == test and i.path == request.path]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("hostile"), selected(request, "test_is_refused"))


@pytest.mark.parametrize("name", PLAIN)
def test_is_refused(name: str, results: Results) -> None:
    result = results[name]
    assert not result.problems, f"{result.problems}\n{result.output[-1500:]}"
    assert result.peak_mb < (PROFILED_MB if "profiled" in name else MOST_MB)


@pytest.fixture(scope="module")
def naive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("naive"), selected(request, "test_is_live"), naive=True)


def has_effect(result: Result) -> bool:
    """Whether a naive loader came to the harm that the case is there for."""
    words = result.output.casefold()
    memory = ("memoryerror", "bad_alloc", "allocate", "bad allocation")
    return {
        "canary": result.canary,
        "secret": result.leaked,
        "hangs": result.code is None,
        "memory": result.code != 0 and (result.code is None or any(word in words for word in memory)),
    }[CASES[result.name].effect or ""]


@pytest.mark.parametrize("name", [name for name in PLAIN if CASES[name].naive])
def test_is_live(name: str, naive: Results) -> None:
    assert has_effect(naive[name]), naive[name]


def test_there_are_many_of_each_kind() -> None:
    assert len(CASES) > 300
    assert sum(case.effect is not None for case in CASES.values()) > 30
    assert {case.framework for case in CASES.values()} == {"", "keras", "torch"}
    for case in CASES.values():
        assert all(case.says)
        assert (case.naive is None) == (case.effect is None)


@pytest.mark.parametrize("name", ["external-parent", "onnx-pipe", "onnx-function-bomb", "samples-objects"])
def test_a_process_of_its_own_refuses_it_too(
    name: str, converter_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    case, place = CASES[name], Place(tmp_path / name)
    place.make()
    case.build(place)
    done = converter_command(*case.command, cwd=place.inside, timeout=300)
    printed = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == case.code, printed
    assert all(words in printed for words in case.says)
    assert "Traceback" not in printed
    assert not place.canary.exists()


def test_the_check_counts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fixtures.hostile", "--check", str(tmp_path), "onnx-empty", "path-long"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["files"], counts["refused"], counts["canaries"]) == (2, 2, 0)


def test_the_list_is_that_of_the_guide() -> None:
    text = (ROOT / "docs" / "hostile.md").read_text(encoding="utf-8")
    assert text.endswith(f"\n{table()}\n"), "python -m fixtures.hostile --list writes it"


@pytest.mark.parametrize("command", ["layers", "plan", "convert", "rank", "drift", "profile"])
def test_names_cannot_steer_the_terminal(
    command: str, converter_command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    from onnx import helper

    from fixtures.hostile.making import model, save

    name = "\x1b[31mred[bold]x[/bold]\x1b]0;title\x07\u202eevil"
    nodes = [
        helper.make_node("Add", ["x", "w"], [f"{name}t"], name),
        helper.make_node("Neg", [f"{name}t"], ["y"], "[/nothing]"),
    ]
    save(model(nodes), tmp_path)
    done = converter_command(command, "model.onnx", timeout=300)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)
    if command in ("layers", "drift"):
        assert "[/nothing]" in printed


def test_names_show_what_they_are() -> None:
    from converter.cli.console import harmless

    assert harmless("conv/größe ∘ ×\n") == "conv/größe ∘ ×\n"
    assert harmless("a\x1b[2Jb\u202ec\r") == "a\\x1b[2Jb\\u202ec\\r"
