"""What PyTorch and Keras make, put in the place of older artifacts, with a fault at every step of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.faults.trials import NEW, OLD, TAKEN_AWAY, Trial


@pytest.fixture(scope="module", params=["torch", "keras"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    made = Trial(request.param, tmp_path_factory.mktemp(request.param), again=True)
    yield made
    made.close()


def test_killed_while_artifacts_are_moved(trial: Trial) -> None:
    moves = [n for n in trial.places if trial.steps[n - 1].startswith(("exchange", "os.rename"))]
    between = [trial.kill(step) for step in moves]
    assert set(between[0].values()) == {OLD}
    assert set().union(*(states.values() for states in between)) == {OLD, NEW, TAKEN_AWAY}
    # Of OpenVINO and of TensorFlow's checkpoints each has two files with names that follow from each other.
    away = {name for states in between for name, state in states.items() if state == TAKEN_AWAY}
    assert away <= {"trunk.xml", "head.xml", "trunk.ckpt.index", "head.ckpt.index"}


def test_a_disk_that_is_full_then(trial: Trial) -> None:
    assert {trial.fill(step) for step in trial.places[::8]} == {0, 6}
