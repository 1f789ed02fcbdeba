"""Every model that the onnx package brings, cut at every tensor between its inputs and outputs."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.onnx_corpus import (
    Case,
    Outcome,
    cases,
    cut_in_two,
    examine,
    intermediate,
    light_case,
    light_models,
    run,
)

SHARES = 4


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.result != "right"]


@functools.cache
def _node_cases() -> list[Case]:
    return [case for case in cases("node") if intermediate(case.model)]


@pytest.mark.parametrize("share", range(SHARES))
def test_node_cases(share: int, tmp_path: Path) -> None:
    found = [
        o for case in _node_cases()[share::SHARES] for o in examine(case, cut_in_two, tmp_path, joined=True)
    ]
    assert len(found) > 1800
    assert failures(found) == []


@pytest.mark.parametrize("group", ["simple", "pytorch-operator", "pytorch-converted"])
def test_small_models(group: str, tmp_path: Path) -> None:
    found = [o for case in cases(group) for o in examine(case, cut_in_two, tmp_path, joined=True)]
    assert len(found) >= {"simple": 3, "pytorch-operator": 2, "pytorch-converted": 3}[group]
    assert failures(found) == []


@pytest.mark.parametrize("name", light_models())
def test_light_models(name: str, tmp_path: Path) -> None:
    case = light_case(name)
    linked = functools.partial(cut_in_two, link=True)
    path = tmp_path / "probe.onnx"
    onnx.save(case.model, path, save_as_external_data=True, location="probe", size_threshold=1024)
    (answer,) = run(path, case.feeds).values()
    assert np.std(answer) > 1e-3 * np.abs(answer).max()  # a model that always says the same proves nothing
    # A prime, so that all kinds of layers are met: the benchmark goes through all of them.
    found = examine(case, linked, tmp_path, joined=True, step=37)
    assert found
    assert failures(found) == []


def test_the_harness_sees_wrong_cuts(tmp_path: Path) -> None:
    def shifted(path: Path, tensor: str, folder: Path) -> tuple[Path, Path, dict[str, str]]:
        trunk, head, links = cut_in_two(path, tensor, folder)
        model = onnx.load(head)
        model.graph.output[0].name += "/shifted"
        one = onnx.numpy_helper.from_array(np.float32(1), "one")
        model.graph.initializer.append(one)
        out = model.graph.output[0].name
        model.graph.node.append(onnx.helper.make_node("Add", [out.removesuffix("/shifted"), "one"], [out]))
        onnx.save(model, head)
        return trunk, head, links

    case = next(case for case in _node_cases() if case.name == "test_gelu_default_1_expanded")
    wrong = Counter(outcome.result for outcome in examine(case, shifted, tmp_path))
    assert list(wrong) == ["head∘trunk is not the whole"]
