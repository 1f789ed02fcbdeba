"""`converter drift`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.onnx_text import saved

TEXT = """net (float[n, 6] x) => (float[n, 3] y) {
    [dense] a = MatMul(x, w)
    [relu] b = Relu(a)
    [scores] y = MatMul(b, v)
}"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 8)).astype("f4"), "v": rng.normal(size=(8, 3)).astype("f4")}
    return saved(TEXT, tmp_path, weights=weights)


def test_a_file_that_does_not_drift(net: Path, tmp_path: Path, converter_command: Any) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(7, 6)).astype("f4"))
    arguments = ("drift", net, "--samples", tmp_path / "x.npz")
    done = converter_command(*arguments, "--plot", tmp_path / "drift.svg")
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime without its optimisations: 3 boundaries, 7 samples" in done.stdout
    assert "no layer departs" in done.stdout
    assert (tmp_path / "drift.svg").read_text().lstrip().startswith("<?xml")
    found = json.loads(converter_command(*arguments, "--json").stdout)
    assert [layer["name"] for layer in found["layers"]] == ["dense", "relu", "scores"]
    assert found["layers"][1]["inputs"] == ["dense"]
    assert found["passed"] is True


MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(4, 64), torch.nn.Linear(64, 3)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))

def make():
    return Net()
"""


def test_a_module_and_its_exit_codes(tmp_path: Path, converter_command: Any) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    source = ("drift", "net.py:make", "--weights", "random", "--example", "1x4")
    done = converter_command(*source, "--noise-floor")
    assert done.returncode == 0, done.stderr
    assert "against PyTorch" in done.stdout
    assert "framework's" in done.stdout
    done = converter_command(*source, "--tolerance", "1e-12", "--top", "1")
    assert done.returncode == 5, done.stdout
    assert "first to depart: " in done.stdout
    assert "the 1 with the largest errors" in done.stdout
    done = converter_command(*source, "--tolerance", "1e-12", "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", "none.npz"], "not a readable"),
        (["--device", "tpu"], "expected auto, cpu or cuda"),
        (["--tolerance", "-1"], "expected a number of 0 or more"),
        (["--tolerance", "inf"], "expected a number of 0 or more"),
        (["--tolerance", "1", "--noise-floor"], "exclude each other"),
        (["--noise-floor"], "cannot be run in float64"),
        (["--plot", "drift.nothing"], "expected a picture"),
        (["--plot", "nowhere/drift.svg"], "no folder"),
        (["--top", "-1"], "--top"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str, net: Path, converter_command: Any) -> None:
    done = converter_command("drift", net, *arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_same_in_python(tmp_path: Path) -> None:
    import torch

    import converter

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    found = converter.load(net, example=torch.zeros(1, 4)).drift(noise_floor=True, finished=True)
    assert found.passed
    assert [row.name for row in found.rows if row.name in "012"] == ["0", "1", "2"]
    with pytest.raises(converter.UsageError, match="exclude each other"):
        converter.load(net, example=torch.zeros(1, 4)).drift(noise_floor=True, tolerance=1.0)
