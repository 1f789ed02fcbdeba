"""What is said of a run's memory before it is taken, held against the frameworks' own numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h

import converter
from converter import preflight
from converter.errors import SourceError
from converter.preflight import Demand, Work, check, demand_of, estimate, rows_of
from converter.sources import Opening, resolve
from converter.supervision import memory

Command = Callable[..., subprocess.CompletedProcess[str]]
GIGABYTE = 10**9
WIDTH = 8192


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many bytes the machine has left."""

    def to(size: int) -> None:
        monkeypatch.setattr(memory, "available", lambda: size)
        monkeypatch.setattr(memory, "margin", lambda: 0)

    return to


@pytest.fixture
def large_onnx(tmp_path: Path) -> Path:
    """A model of 8 GB of weights, which are holes in the file beside it."""
    nodes, weights, value, size = [], [], "x", WIDTH * WIDTH * 4
    for number in range(30):
        weight = T(name=f"w{number}", dims=[WIDTH, WIDTH], data_type=1, data_location=1)
        place = {"location": "large.data", "offset": number * size, "length": size}
        for key, text in place.items():
            weight.external_data.add(key=key, value=str(text))
        weights.append(weight)
        nodes.append(h.make_node("MatMul", [value, f"w{number}"], [f"h{number}"], name=f"h{number}"))
        value = f"h{number}"
    ends = [[h.make_tensor_value_info(name, T.FLOAT, ["batch", WIDTH])] for name in ("x", value)]
    path = tmp_path / "large.onnx"
    graph = h.make_graph(nodes, "large", *ends, weights)
    onnx.save(h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 18)]), path)
    with (tmp_path / "large.data").open("wb") as data:
        data.truncate(30 * size)
        for place in range(0, 30 * size, 1 << 24):  # files that are nearly all holes are refused
            data.seek(place)
            data.write(b"\1" * 300_000)
    return path


# ---------------------------------------------------------------- refusals


def test_an_onnx_file_that_does_not_fit_is_refused_before_it_is_loaded(
    converter_command: Command, large_onnx: Path, tmp_path: Path
) -> None:
    done = converter_command("convert", large_onnx, "--output", "out", "--memory-limit", "2GB")
    assert done.returncode == 3
    assert (
        "would take about 16.3 GB (8.1 GB of weights) of memory, and --memory-limit is 2.0 GB" in done.stderr
    )
    assert "hint: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cut_of_it_that_copies_files_fits(
    converter_command: Command, large_onnx: Path, tmp_path: Path
) -> None:
    options = ["--to", "h0", "--output", "out", "--no-validate", "--memory-limit", "300MB"]
    done = converter_command("convert", large_onnx, *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "trunk.onnx").exists()


def test_a_model_of_pytorch_that_does_not_fit_is_refused_before_its_export(
    converter_command: Command, tmp_path: Path
) -> None:
    code = "import torch\ndef make(): return torch.nn.Linear(10_000, 10_000)\n"
    (tmp_path / "made.py").write_text(code, encoding="utf-8")
    arguments = ["made.py:make", "--example", "1x10000", "--output", "out", "--no-cache"]
    done = converter_command("convert", *arguments, "--memory-limit", "1000MB")
    assert done.returncode == 3
    assert "(400 MB of weights) of memory, and --memory-limit is 1.0 GB: refused" in done.stderr
    assert "export" not in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["large.pth", "large.keras", "large.safetensors", "large.h5"])
def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    converter_command: Command, tmp_path: Path, name: str
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(60 * GIGABYTE)
    done = converter_command("layers", name, "--memory-limit", "8GB")
    assert done.returncode == 3
    assert "the weights alone would take 60.0 GB of memory, and --memory-limit is 8.0 GB" in done.stderr


def test_python_is_refused_what_the_machine_has_not_left(tmp_path: Path, left: Callable[[int], None]) -> None:
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(3 * GIGABYTE)
    left(2 * GIGABYTE)
    with pytest.raises(SourceError, match=r"the weights alone would take 3\.0 GB of memory, and \d"):
        converter.load(tmp_path / "large.pth")


def test_refused_is_what_does_not_fit_and_told_what_may_not(left: Callable[[int], None]) -> None:
    demand = Demand("torch", GIGABYTE, GIGABYTE, 0)
    held = memory.resident([os.getpid()])
    more = estimate(demand, held) - held
    left(more + GIGABYTE // 2)
    assert check(demand) == ""
    left(more * 3 // 4)
    assert "it may not be enough" in check(demand)
    left(more // 3)
    with pytest.raises(SourceError, match="refused before it begins"):
        check(demand)


def test_where_nothing_is_known_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: None)
    assert check(Demand("torch", 2**50, 2**50, 2**50)) == ""


# ---------------------------------------------------------------- what is known of a cut

WORK = Work(3, ("onnx",), True)


def test_weights_of_a_trunk_are_those_of_pytorch_up_to_it() -> None:
    from converter.sources.torch import backend

    source = resolve("torchvision:resnet18", Opening("random", cache=False))
    source.expect(["layer2"])
    end = next(layer for layer in source.layers if layer.name == "layer2").boundaries
    demand = demand_of(source, (), end, WORK)
    state = backend.torchvision().models.resnet18().state_dict()
    parts = ("conv1.", "bn1.", "layer1.", "layer2.")
    needed = sum(t.nbytes for name, t in state.items() if name.startswith(parts))
    assert demand.all_weights == sum(t.nbytes for t in state.values())
    assert demand.weights == pytest.approx(needed, rel=0.02)  # statistics of BatchNorm are no parameters
    assert demand.tensor == 3 * 64 * 112 * 112 * 4  # what conv1 puts out


def test_weights_of_a_trunk_are_those_of_keras_up_to_it(structure: Callable[[str], Any]) -> None:
    model = structure("residual")
    source = resolve(model, Opening())
    source.expect([model.layers[-2].name])
    layer = next(la for la in source.layers if la.name == model.layers[-2].name)
    demand = demand_of(source, (), layer.boundaries, WORK)
    last = model.layers[-1].count_params()
    assert last
    assert demand.all_weights == 4 * model.count_params()
    assert demand.weights == 4 * (model.count_params() - last)


def test_a_head_needs_all_weights(structure: Callable[[str], Any]) -> None:
    model = structure("residual")
    source = resolve(model, Opening())
    source.expect([model.layers[-2].name], trunk=False)
    layer = next(la for la in source.layers if la.name == model.layers[-2].name)
    demand = demand_of(source, layer.boundaries, source.outputs, WORK)
    assert demand.weights == 4 * model.count_params()


def test_samples_are_counted_without_being_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((17, 3)), y=np.zeros((17, 4)))
    assert rows_of(tmp_path / "x.npz", 1) == 17
    assert rows_of(None, 2) == 6
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "images" / f"{number}.png").touch()
    assert rows_of(tmp_path / "images", 1) == 5
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    assert rows_of(tmp_path / "broken.npz", 1) == 3


# ---------------------------------------------------------------- what the machine has


def test_resident_memory_is_what_was_allocated() -> None:
    code = (
        "import os\n"
        "from converter.supervision.memory import resident\n"
        "before = resident([os.getpid()])\n"
        "held = b'x' * 200_000_000\n"
        "print(resident([os.getpid()]) - before)"
    )
    root = Path(preflight.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert 199e6 < int(done.stdout) < 205e6


@pytest.mark.parametrize("second", [True, False])
def test_control_groups_bound_what_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    line = "0::/outer/inner\n" if second else "4:memory:/outer/inner\n"
    outer = tmp_path / ("outer" if second else "memory/outer")
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (outer / "inner").mkdir(parents=True)
    (outer / "inner" / names[0]).write_text("max\n" if second else f"{2**63 - 4096}\n")
    (outer / "inner" / names[1]).write_text("5000000\n")
    (outer / names[0]).write_text("100000000\n")
    (outer / names[1]).write_text("40000000\n")
    prefix = "" if second else "total_"
    (outer / "memory.stat").write_text(
        f"anon 1\n{prefix}inactive_file 7000000\n{prefix}active_file 3000000\n"
    )
    read = memory._read
    monkeypatch.setattr(memory, "_GROUPS", str(tmp_path))
    monkeypatch.setattr(memory, "_read", lambda p: line.encode() if p == "/proc/self/cgroup" else read(p))
    assert memory.available() == 100_000_000 - 40_000_000 + 10_000_000
    assert memory.margin() == 64 * 2**20  # a twentieth would be less


def test_the_machine_bounds_what_is_available() -> None:
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(info["MemTotal"].split()[0]) * 1024
    found = memory.available()
    assert found is not None
    assert 0 < found <= total + int(info["SwapFree"].split()[0]) * 1024
    assert 64 * 2**20 <= memory.margin() <= 512 * 2**20
