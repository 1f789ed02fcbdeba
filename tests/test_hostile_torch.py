"""Hostile files that PyTorch would open: refused with their reasons, and live."""

from __future__ import annotations

import pytest

from fixtures.hostile import CASES, Results
from tests.test_hostile import has_effect, selected

NAMES = [name for name, case in CASES.items() if case.framework == "torch"]
MOST_MB = 3000


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("hostile"), selected(request, "test_is_refused"))


@pytest.mark.parametrize("name", NAMES)
def test_is_refused(name: str, results: Results) -> None:
    result = results[name]
    assert not result.problems, f"{result.problems}\n{result.output[-1500:]}"
    assert result.peak_mb < MOST_MB


@pytest.fixture(scope="module")
def naive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("naive"), selected(request, "test_is_live"), naive=True)


@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].naive])
def test_is_live(name: str, naive: Results) -> None:
    assert has_effect(naive[name]), naive[name]
