"""`converter profile` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from converter.cli import app
from converter.profiling import Latency, Pair, Row, Setting, compared, profile, roofs
from converter.report import roofline
from fixtures.onnx_text import saved

TEXT = """g (float[n, 3, side, side] x) => (float[n, c, h, w] y)
    { a = Conv<pads=[1, 1, 1, 1]>(x, k) b = Relu(a) y = Conv<pads=[1, 1, 1, 1]>(b, l) }"""
QUICK = ("--runs", "2", "--warmup", "1", "--shape", "x=1x3x16x16")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"k": (8, 3, 3, 3), "l": (4, 8, 3, 3)}
    return saved(
        TEXT, tmp_path, weights={k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    )


def typed(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


def test_table(net: Path) -> None:
    done = typed(net, *QUICK)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("a + b ") for line in lines)
    assert any(line.startswith("b ") and line.endswith("in a") for line in lines)
    assert "2 runs without profiler after 1 to warm up" in done.stdout
    assert "n = 1, side = 16" in done.stdout


def test_json(net: Path) -> None:
    made = json.loads(typed(net, "--json", *QUICK).stdout)
    rows = {row["name"]: row for row in made["rows"]}
    assert made["macs"] == 256 * 9 * (8 * 3 + 4 * 8)
    assert rows["a"]["fused"] == ["b"]
    assert rows["b"]["within"] == ["a"]
    assert rows["b"]["latency_ms"] is None
    assert rows["y"]["latency_ms"].keys() == {"median", "p95", "mean"}
    assert made["setting"]["runs"] == 2
    assert "roofs" not in made


@pytest.mark.parametrize("front", [True, False])
def test_two_files(front: bool, net: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    half = onnx.load(net)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for info in (*half.graph.input, *half.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(half, other)
    files = ("--compare", net, other) if front else (net, "--compare", other)
    made = json.loads(typed(*files, "--json", *QUICK).stdout)
    rows = {row["name"]: row for row in made["rows"]}
    assert rows["a"]["weight_ratio"] == rows["y"]["weight_ratio"] == 0.5
    assert made["second"]["weight_bytes"] * 2 == made["first"]["weight_bytes"]
    times = [rows["a"][side]["latency_ms"]["median"] for side in ("first", "second")]
    assert rows["a"]["time_ratio"] == pytest.approx(times[1] / times[0])
    assert typed(*files, *QUICK).exit_code == 0


def row(name: str, milliseconds: float | None = 1.0, weights: int = 8) -> Row:
    latency = None if milliseconds is None else Latency(milliseconds, milliseconds, milliseconds)
    return Row(name, "Conv", (1,), 2, weights, 4, 100, 1.0, (), (), (), latency, 0.5, 1.0)


def test_rows_of_both_are_merged_by_name(net: Path) -> None:
    import dataclasses

    base = profile(net, Setting("CPUExecutionProvider", 1, 0), {"x": (1, 3, 8, 8)})
    first = dataclasses.replace(base, rows=(row("a", 2.0), row("b"), row("d"), row("(runtime)")))
    second = dataclasses.replace(base, rows=(row("a", 1.0, 2), row("b", None), row("c"), row("d"), row("e")))
    pairs = compared(first, second)
    assert [pair.name for pair in pairs] == ["a", "b", "c", "d", "e", "(runtime)"]
    assert (pairs[0].time_ratio, pairs[0].weight_ratio, pairs[0].moved_ratio) == (0.5, 0.25, 1.0)
    assert pairs[1].time_ratio is None  # in another's kernel: no time of its own, and no ratio of nothing
    assert pairs[2] == Pair("c", None, row("c"))
    assert pairs[2].weight_ratio is None


WRONG = {
    "no file": (["missing.onnx"], 3, "cannot be opened"),
    "no model": (["text.onnx"], 3, "not a readable ONNX file"),
    "empty": (["empty.onnx"], 3, "is empty"),
    "a folder": (["folder.onnx"], 3, "is a folder"),
    "ORT format": (["net.ort"], 3, "profile the .onnx file"),
    "Keras": (["net.keras"], 3, "takes ONNX files"),
    "no such device": (["net.onnx", "--device", "tpu"], 2, "expected auto, cpu or cuda"),
    "no such input": (["net.onnx", "--shape", "z=1x3x8x8"], 2, "no input is called 'z'"),
    "another rank": (["net.onnx", "--shape", "x=1x3"], 2, "which 1x3 is not"),
    "another size": (["net.onnx", "--shape", "x=1x4x8x8"], 2, "which 1x4x8x8 is not"),
    "no sizes": (["net.onnx", "--shape", "x=big"], 2, "expected NAME=1x3x224x224"),
    "no runs": (["net.onnx", "--runs", "0"], 2, ""),
    "no such rows": (["net.onnx", "--by", "block"], 2, ""),
    "no such picture": (["net.onnx", "--plot", "x.foo"], 2, "expected a picture"),
    "no such folder": (["net.onnx", "--plot", "nowhere/x.svg"], 2, "there is no folder"),
    "two files": (["net.onnx", "net.onnx"], 2, "2 files"),
    "one file": (["net.onnx", "--compare"], 2, "1 files with --compare"),
    "unknown operator": (["unknown.onnx"], 5, "--custom-ops LIB"),
    "does not run": (["fails.onnx"], 5, "fails inside the graph"),
    "data lost": (["lost.onnx"], 3, "cannot be opened"),
    "sequence": (["sequence.onnx"], 2, "declares no sizes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("not a model")
    for name in ("empty.onnx", "net.ort", "net.keras"):
        (tmp_path / name).touch()
    (tmp_path / "folder.onnx").mkdir()
    texts = {
        "unknown": "g (float[1, 4] x) => (float[1, 4] y) { y = mine.Foo(x) }",
        "fails": "g (float[1, 4] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }",
        "sequence": "g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }",
    }
    for name, text in texts.items():
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18, "mine": 1]> {text}')
        (tmp_path / f"{name}.onnx").write_bytes(proto.SerializeToString())
    onnx.save(onnx.load(net), "lost.onnx", save_as_external_data=True, location="data", size_threshold=0)
    (tmp_path / "data").unlink()
    arguments, code, words = WRONG[case]
    done = typed(*arguments)
    assert done.exit_code == code, done.output
    assert words in done.output
    assert "Traceback" not in done.output


def test_cuda_that_is_not_there(net: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    done = typed(net, "--device", "cuda")
    assert done.exit_code == 5
    assert "converter[gpu]" in done.output


def test_roofs_are_measured_once() -> None:
    found = roofs("CPUExecutionProvider", 1)
    assert found.flops > 1e8
    assert found.bandwidth > 1e8
    assert roofs("CPUExecutionProvider", 1) is found


@pytest.mark.parametrize("count", [1, 2, 40])
def test_names_in_the_plot_do_not_overlap(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.text import Text

    weights = {f"w{i}": np.ones((8, 8, 3, 3), np.float32) for i in range(count)}
    values = ["x", *(f"block_{i}_convolution" for i in range(count - 1)), "y"]
    nodes = " ".join(f"{values[i + 1]} = Conv<pads=[1, 1, 1, 1]>({values[i]}, w{i})" for i in range(count))
    text = f"g (float[1, 8, 12, 12] x) => (float[1, 8, 12, 12] y) {{ {nodes} }}"
    made = profile(saved(text, tmp_path, weights=weights), Setting("CPUExecutionProvider", 2, 1))
    figures = []
    save = roofline.save
    monkeypatch.setattr(roofline, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    roofline.plot_roofline(tmp_path / "plot.svg", [made], roofs("CPUExecutionProvider", 1))
    figure = figures[0]
    figure.canvas.draw()
    texts = figure.axes[0].texts
    boxes = [
        Text.get_window_extent(text, figure.canvas.get_renderer())
        for text in texts
        if not text.get_rotation()
    ]
    names = {text.get_text() for text in texts} & set(values)
    assert len(names) == min(count, 10)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    written = (tmp_path / "plot.svg").read_text()
    assert all(name in written for name in names)
    axes = figure.axes[0].get_window_extent()
    assert all(axes.x0 <= box.x0 and box.x1 <= axes.x1 for box in boxes)


def test_a_plot_from_the_command_line(net: Path, tmp_path: Path) -> None:
    done = typed(net, *QUICK, "--plot", tmp_path / "plot.png", "--json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert json.loads(done.stdout)["roofs"].keys() == {"flops_per_second", "bytes_per_second"}
