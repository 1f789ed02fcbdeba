"""The ranking as people and programs read it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import struct
from pathlib import Path

import pytest
from rich.console import Console

from converter.errors import UsageError
from converter.model import SourceInfo
from converter.ranking import Influence, Ranking
from converter.report.rank import plot_rank, rank_as_json, rank_table

INFO = SourceInfo("keras", "net", "my models/net.keras", "file", True)
NAN = "without it the model puts out NaN or infinity"


def block(name: str, depth: float, error: float | None, **more: object) -> Influence:
    made = Influence(name, tuple(name.split(" + ")), "group", depth, 1234567, 0.25, error, 0.5)
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


BLOCKS = (
    block("conv1_*", 0.0, 0.3),
    block("conv2_* + add_2", 0.2, 0.125),
    block("conv3_*", 0.4, None, agreement=None, problem=NAN),
    block("conv4_*", 0.6, 0.125, change=0.0625),
    block("conv5_*", 0.8, math.inf),
)
RANKING = Ranking(INFO, 40, ("probabilities",), BLOCKS, ("the output k was left out",))


def printed(ranking: Ranking) -> list[str]:
    stream = io.StringIO()
    rank_table(Console(file=stream, width=300), ranking)
    return stream.getvalue().splitlines()


def test_table() -> None:
    lines = printed(RANKING)
    assert lines[0] == "5 blocks on 40 samples, each left out alone"
    assert lines[1].split() == "block kind parameters change output error top-1 kept".split()
    assert lines[2].split() == ["conv1_*", "group", "1,234,567", "0.25", "0.3", "50%"]
    assert lines[4].split() == ["conv3_*", "group", "1,234,567", "0.25", "-", "-"]
    assert [line.split()[0] for line in lines[2:7]] == [block.drop[0] for block in BLOCKS]
    assert lines[7] == f"conv3_*: {NAN}"
    assert lines[8] == "the output k was left out"
    # By error, then by change; what cannot be compared is not suggested.
    assert lines[9] == "least influence first: conv4_*, conv2_* + add_2, conv1_*"
    assert lines[10] == "converter convert 'my models/net.keras' --drop 'conv4_*'"
    assert len(lines) == 11


def test_table_of_other_models() -> None:
    info = dataclasses.replace(INFO, trained=False, weights="random(seed=0)")
    some = tuple(dataclasses.replace(b, agreement=None) for b in BLOCKS[1:2])
    lines = printed(Ranking(info, 1, ("y",), some))
    assert "top-1" not in "".join(lines)
    assert lines[-2] == "converter convert 'my models/net.keras' --drop 'conv2_*' --drop add_2"
    assert lines[-1] == "UNTRAINED: the weights are random(seed=0), and so is the ranking"
    lines = printed(Ranking(INFO, 1, ("y",), BLOCKS[2:3]))
    assert lines[-1] == f"conv3_*: {NAN}"


def test_json() -> None:
    found = json.loads(json.dumps(rank_as_json(RANKING), allow_nan=False))
    assert found["source"]["locator"] == INFO.locator
    assert (found["samples"], found["outputs"]) == (40, ["probabilities"])
    assert found["least_influence_first"] == ["conv4_*", "conv2_* + add_2", "conv1_*", "conv5_*"]
    assert found["notes"] == ["the output k was left out"]
    assert found["blocks"][1] == {
        "name": "conv2_* + add_2",
        "drop": ["conv2_*", "add_2"],
        "kind": "group",
        "depth": 0.2,
        "parameters": 1234567,
        "change": 0.25,
        "output_error": 0.125,
        "agreement": 0.5,
        "problem": None,
    }
    assert found["blocks"][2]["problem"] == NAN
    assert found["blocks"][4]["output_error"] == "inf"


def test_plot(tmp_path: Path) -> None:
    path = tmp_path / "rank.svg"
    plot_rank(path, "net on 40 samples", RANKING)
    picture = path.read_text()
    words = re.findall(r"<!-- (.*?) -->", picture)
    places = re.findall(r"<!-- (conv\d_.*?) -->\s*<g [^>]*translate\([\d.]+ ([\d.]+)\)", picture)
    heights = [float(height) for name, height in places if name in {block.name for block in BLOCKS}]
    assert [name for name, _ in places] == [block.name for block in BLOCKS]
    assert heights == sorted(heights)  # from top to bottom
    assert NAN in words
    assert "least influence first (in bold): conv4_*, conv2_* + add_2, conv1_*" in words
    assert "dc:date" not in picture


def test_plot_grows_with_the_blocks_and_shortens_names(tmp_path: Path) -> None:
    heights = []
    for count in (5, 50):
        blocks = tuple(block(f"{'very_' * 20}long_{n}", n / count, 10.0 ** (n % 7 - 5)) for n in range(count))
        path = tmp_path / f"{count}.png"
        plot_rank(path, "net", Ranking(INFO, 1, ("y",), blocks))
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        heights.append(struct.unpack(">I", content[20:24])[0])
        plot_rank(path.with_suffix(".svg"), "net", Ranking(INFO, 1, ("y",), blocks))
        picture = path.with_suffix(".svg").read_text()
        assert "very_very_very_very_v…very_very_very_long_4" in picture
        assert "$\\mathdefault{10^{-5}}$" in picture  # a logarithmic axis
    assert heights[1] > 3 * heights[0]


def test_a_picture_of_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--plot .*rank\.pict: "):
        plot_rank(tmp_path / "rank.pict", "net", RANKING)
    with pytest.raises(UsageError, match="--plot"):
        plot_rank(tmp_path / "missing" / "rank.svg", "net", RANKING)
