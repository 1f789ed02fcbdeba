"""What is printed and drawn of a drift, of figures given by hand."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from converter.drifting import ACCUMULATED, AGREES, INHERITED, OWN, Drift, Row
from converter.errors import UsageError
from converter.model import SourceInfo
from converter.report.drift import drift_as_json, drift_table, plot_drift


def row(depth: int, name: str, verdict: str = AGREES, **changes: Any) -> Row:
    figures: dict[str, Any] = {
        "max_abs": 1e-6,
        "error": 1e-6,
        "cosine": 1.0,
        "snr_db": 120.0,
        "own_error": 0.0,
        "limit": 2**-14,
        "own_limit": 2**-14,
    }
    return Row(name, "Dense", depth, "float32", (), verdict=verdict, **{**figures, **changes})


def drift_of(*rows: Row, noise_floor: bool = False, trained: bool = True) -> Drift:
    source = SourceInfo("keras", "net", "keras:net", "random(seed=0)", trained)
    skipped = {"half": "ONNX Runtime has no arrays of bfloat16"}
    return Drift(source, "Keras", "CPUExecutionProvider", 3, None, noise_floor, rows, skipped, ("a note",))


DEPARTING = (
    row(0, "first"),
    row(1, "wrong", OWN, error=1e-2, own_error=1e-2),
    row(2, "after", INHERITED, error=2e-2, cause="wrong"),
    row(3, "broken", OWN, error=math.nan, own_error=math.nan, snr_db=math.nan, problem="NaN in other places"),
    row(4, "sum", ACCUMULATED, error=1e-3, cause="first"),
)


def printed(drift: Drift, rows: int = 0) -> str:
    out = io.StringIO()
    drift_table(Console(file=out, width=200), drift, rows)
    return out.getvalue()


def test_the_table_names_the_first_and_the_origins() -> None:
    text = printed(drift_of(*DEPARTING, trained=False))
    assert "CPUExecutionProvider against Keras: 5 boundaries, 3 samples" in text
    assert "first to depart: wrong (Dense), on its own: 1.0e-02 of scale" in text
    assert "depart on their own: wrong, broken" in text
    assert "add up or are amplified: sum" in text
    assert "carry the error of layers before them: 1" in text
    assert re.search(r"after +Dense .*inherited, from wrong", text)
    assert "broken: NaN in other places" in text
    assert "not compared, ONNX Runtime has no arrays of bfloat16: half" in text
    assert "a note" in text
    assert "UNTRAINED" in text


def test_the_worst_rows_are_those_without_figures_and_those_with_the_largest() -> None:
    drift = drift_of(*DEPARTING)
    assert [each.name for each in drift.worst(2)] == ["after", "broken"]
    assert [each.name for each in drift.worst(0)] == ["first", "wrong", "after", "broken", "sum"]
    assert "first   " not in printed(drift, 2)
    assert "the 2 with the largest errors" in printed(drift, 2)


def test_nothing_departs() -> None:
    text = printed(drift_of(row(0, "one"), row(1, "two", error=3e-6)))
    assert "no layer departs: the largest error is 3.0e-06 of scale" in text
    assert "UNTRAINED" not in text


def test_with_a_noise_floor_there_are_two_distances() -> None:
    text = printed(drift_of(row(0, "one", ort_distance=3e-7, framework_distance=2e-7), noise_floor=True))
    assert "from float64" in text
    assert re.search(r"one .*3\.0e-07 +2\.0e-07", text)


def test_json_can_be_read_by_anyone() -> None:
    text = json.dumps(drift_as_json(drift_of(*DEPARTING)), allow_nan=False)
    found = json.loads(text)
    assert found["passed"] is False
    assert found["first"] == "wrong"
    assert found["origins"] == ["wrong", "broken", "sum"]
    assert [layer["verdict"] for layer in found["layers"]] == [r.verdict for r in DEPARTING]
    assert found["layers"][3]["error"] is None
    assert drift_as_json(drift_of(row(0, "same", snr_db=math.inf)))["layers"][0]["snr_db"] == "inf"


@pytest.mark.parametrize("noise_floor", [False, True])
def test_the_plot_of_many_layers(tmp_path: Path, noise_floor: bool) -> None:
    rows = [
        row(n, f"block_{n}_conv", ort_distance=1e-7 * (n + 1), framework_distance=1e-7) for n in range(150)
    ]
    rows[70] = row(70, "bad", OWN, error=1e-2, own_error=1e-2, ort_distance=1e-2, framework_distance=1e-7)
    rows[71] = row(71, "later", INHERITED, error=math.inf, cause="bad")
    path = tmp_path / "drift.svg"
    plot_drift(path, drift_of(*rows, noise_floor=noise_floor))
    text = path.read_text()
    assert "<!-- block_0_conv -->" in text  # matplotlib writes each text as a comment
    assert "<!-- bad -->" in text
    assert "first to depart: bad" in text
    labels = re.findall(r"<!-- block_\d+_conv -->", text)
    assert 25 <= len(labels) <= 50
    assert ("distance from float64" in text) == noise_floor


def test_plots_of_nothing_but_zeros_and_of_one_layer(tmp_path: Path) -> None:
    zero = row(0, "same", error=0.0, limit=0.0)
    plot_drift(tmp_path / "zero.png", drift_of(zero))
    plot_drift(tmp_path / "nan.png", drift_of(row(0, "x", OWN, error=math.nan, own_error=math.nan)))
    assert (tmp_path / "zero.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="plot"):
        plot_drift(tmp_path / "x.nothing", drift_of(zero))
