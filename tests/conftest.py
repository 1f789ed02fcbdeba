"""Shared fixtures: models are built once a process, commands run as a user runs them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor fill the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVERTER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@functools.cache
def _structure(name: str) -> Any:
    import random

    from converter.sources.keras.applications import fresh_names
    from fixtures.keras_models import STRUCTURES, randomized

    random.seed(0)
    with fresh_names():
        return randomized(STRUCTURES[name]())


@pytest.fixture(scope="session")
def structure() -> Callable[[str], Any]:
    """A model of fixtures/keras_models.py by name, built once."""
    return _structure


@pytest.fixture
def converter_command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, from an empty folder."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "converter", *map(str, arguments)],
            cwd=options.pop("cwd", tmp_path),
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            **options,
        )

    return run
