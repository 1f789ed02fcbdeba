"""`converter rank`, as a user runs it: what it prints, and that its advice can be followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import converter
from fixtures.onnx_text import saved

BLOCK = """
    [b{i}__up__MatMul] u{i} = MatMul(x{i}, up{i})
    [b{i}__act__Relu] r{i} = Relu(u{i})
    [b{i}__down__MatMul] d{i} = MatMul(r{i}, down{i})
    [b{i}__add__Add] x{j} = Add(x{i}, d{i})
"""
BODY = "".join(BLOCK.format(i=i, j=i + 1) for i in range(3))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {f"up{i}": rng.normal(size=(6, 9)).astype("f4") for i in range(3)}
    weights |= {f"down{i}": rng.normal(size=(9, 6)).astype("f4") * 10.0**-i for i in range(3)}
    text = f"net (float[n, 6] x0) => (float[n, 6] y) {{ {BODY} [last] y = Neg(x3) }}"
    path = saved(text, tmp_path, weights={k: v.astype("f4") for k, v in weights.items()})
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = node.name.replace("__", "/")  # the scopes that exporters write
    onnx.save(model, path)
    return path


def test_rank_and_follow_its_advice(net: Path, tmp_path: Path, converter_command: Any) -> None:
    x = np.random.default_rng(1).normal(size=(40, 6)).astype("f4")
    np.savez(tmp_path / "samples.npz", x0=x)
    plot = ["--plot", tmp_path / "rank.svg"]
    done = converter_command("rank", net, "--samples", tmp_path / "samples.npz", *plot)
    assert done.returncode == 0, done.stderr
    assert "3 blocks on 40 samples" in done.stdout
    assert "least influence first: b2, b1, b0" in done.stdout
    assert (tmp_path / "rank.svg").read_text().lstrip().startswith("<?xml")
    done = converter_command("rank", net, "--samples", tmp_path / "samples.npz", "--json", "--layers", "b*")
    blocks = {block["name"]: block for block in json.loads(done.stdout)["blocks"]}
    first = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(net).graph.initializer}
    after = x + np.maximum(x @ first["up0"], 0) @ first["down0"]
    cosine = (x * after).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(after, axis=1)
    assert blocks["b0"]["change"] == pytest.approx(1 - cosine.mean(), abs=1e-4)
    ranking = converter.load(net).rank(samples=tmp_path / "samples.npz", layers="b*")
    assert [block.change for block in ranking.blocks] == [blocks[f"b{i}"]["change"] for i in range(3)]
    done = converter_command("convert", net, "--drop", "b2", "--output", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["edits"]["weights"]["removed"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--samples", "none.npz"], 2, "not a readable"),
        (["--layers", "nowhere"], 4, "nowhere"),
        (["--device", "tpu"], 2, "expected auto, cpu or cuda"),
    ],
)
def test_what_cannot_be_ranked(
    arguments: list[str], code: int, words: str, net: Path, converter_command: Any
) -> None:
    done = converter_command("rank", net, *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert json.dumps(done.stdout) == '""'
