"""Where the time of kernels goes: to the layers of the file, whatever ONNX Runtime made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.model import LAYER
from converter.profiling import RUNTIME, Profile, Row, Setting, profile
from converter.runtime import ProfiledSession
from fixtures.onnx_text import model, saved

Make = Callable[..., Profile]
CPU = Setting("CPUExecutionProvider", runs=4, warmup=2)
RESIDUAL = """g (float[1, 16, 20, 20] x) => (float[1, 16, 20, 20] y)
    { c = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(c) d = Conv<pads=[1, 1, 1, 1]>(r, v)
      s = Add(r, d) y = Relu(s) }"""
WEIGHTS = {"w": (16, 16, 3, 3), "v": (16, 16, 3, 3)}


def rows_of(made: Profile) -> dict[str, Row]:
    return {row.name: row for row in made.rows}


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """The events of each profile, as ONNX Runtime writes them."""
    kept: list[list[dict[str, Any]]] = []
    finish = ProfiledSession.finish

    def keep(self: ProfiledSession) -> Any:
        kernels = finish(self)
        (path,) = self.optimized.parent.glob("profile*.json")
        kept.append(json.loads(path.read_text()))
        return kernels

    monkeypatch.setattr(ProfiledSession, "finish", keep)
    return kept


def milliseconds(events: list[dict[str, Any]], warmup: int) -> list[float]:
    """The sum of the kernels of each run after the warm-up."""
    sums = [0.0]
    for event in events:
        if event["name"] == "model_run":
            sums.append(0.0)
        elif event["name"].endswith("_kernel_time"):
            sums[-1] += event["dur"] / 1e3
    return sums[warmup:-1]


def test_no_time_is_lost(profiled: Make, raw: Any) -> None:
    made = profiled(RESIDUAL, WEIGHTS, setting=CPU)
    runs = milliseconds(raw[0], CPU.warmup)
    assert len(runs) == CPU.runs
    rows = [row.latency for row in made.rows if row.latency is not None]
    assert sum(latency.mean for latency in rows) == pytest.approx(np.mean(runs))
    assert made.kernel_latency.median == pytest.approx(np.median(runs))
    assert made.kernel_latency.p95 == pytest.approx(np.percentile(runs, 95))
    assert sum(row.share for row in made.rows) == pytest.approx(1)


def test_what_is_fused_is_said(profiled: Make) -> None:
    rows = rows_of(profiled(RESIDUAL, WEIGHTS))
    assert rows["c"].fused == ("r",)
    assert (rows["r"].within, rows["r"].latency, rows["r"].kernels) == (("c",), None, ())
    # ONNX Runtime adds and clamps inside the second convolution; its kernel is named before either.
    if rows["s"].latency is None:
        assert rows["d"].fused == ("s", "y")
        assert rows["s"].within == rows["y"].within == ("d",)
        # r, which both the convolution and the sum read, and y; what stays inside does not count.
        assert rows["d"].moved_bytes == 4 * (2 * 16 * 400 + 16 * 16 * 9)
    assert rows["d"].kernels == ("Conv",)


def test_changes_of_layout_have_a_row_of_their_own(profiled: Make) -> None:
    made = profiled(RESIDUAL, WEIGHTS)
    kernels = {kernel for row in made.rows if row.name != RUNTIME for kernel in row.kernels}
    assert not {kernel for kernel in kernels if kernel.startswith("Reorder")}
    if RUNTIME in rows_of(made):  # of processors for which ONNX Runtime has blocked layouts
        assert made.rows[-1].name == RUNTIME
        assert set(made.rows[-1].kernels) <= {"ReorderInput", "ReorderOutput"}


def test_batch_normalisation_goes_into_its_convolution(profiled: Make) -> None:
    rows = rows_of(
        profiled(
            """g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y)
            { c = Conv(x, w) n = BatchNormalization(c, a, b, m, v) y = Relu(n) }""",
            {"w": (4, 3, 3, 3), **{k: np.ones(4, np.float32) for k in "abmv"}},
        )
    )
    assert rows["c"].fused == ("n", "y")
    assert rows["n"].within == rows["y"].within == ("c",)
    assert rows["n"].parameters == 16


def test_what_never_runs_is_said(profiled: Make) -> None:
    rows = rows_of(profiled("g (float[1, 4] x) => (float[1, 4] y) { i = Identity(x) y = Relu(i) }"))
    assert rows["i"].within == ("y",)
    assert rows["y"].fused == ()  # passing on is no work


def test_rows_stand_in_the_order_in_which_they_run(profiled: Make) -> None:
    # Constants that files declare first say nothing about the place of the row that reads them.
    made = profiled("""g (float[1, 4] x) => (float[1, 4] y)
        { s = Constant<value_ints=[1, 4]>() k = ConstantOfShape(s) a = Tanh(x) y = Add(a, k) }""")
    assert [row.name for row in made.rows] == ["a", "y"]


def test_bodies_count_in_the_node_around_them(profiled: Make) -> None:
    made = profiled(
        """g (float[6, 4] x, float[4] s) => (float[4] t, float[6, 4] y)
        { t, y = Scan<num_scan_inputs=1, body = b (float[4] h, float[4] e) => (float[4] n, float[4] o)
            { p = MatMul(h, w) n = Add(p, e) o = Identity(n) }>(s, x) }""",
        {"w": (4, 4)},
    )
    assert [row.name for row in made.rows] == ["t"]
    assert made.rows[0].kernels == ("Scan",)
    assert made.rows[0].share == 1


def test_local_functions_are_taken_apart_and_put_together(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "mine": 1]>
        g (float[1, 4] x) => (float[1, 4] y) { a = Relu(x) b = mine.f(a) y = Neg(b) }
        <domain: "mine", opset_import: ["": 18]> f (p) => (q) { r = Exp(p) s = Tanh(r) q = Sigmoid(s) }"""
    )
    onnx.save(proto, tmp_path / "net.onnx")
    rows = rows_of(profile(tmp_path / "net.onnx", CPU))
    assert rows["b"].kernels == ("Exp", "Tanh", "Sigmoid")
    assert rows["a"].kernels == ("Relu",)


def named(folder: Path, names: dict[str, str], layers: dict[str, str] | None = None) -> Path:
    """The residual network with names of nodes and layers by the tensors they put out."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    proto = model(RESIDUAL, weights=weights)
    for node in proto.graph.node:
        node.name = names.get(node.output[0], "")
        if layers is not None:
            node.metadata_props.add(key=LAYER, value=layers[node.output[0]])
    path = folder / "named.onnx"
    onnx.save(proto, path)
    return path


def test_rows_are_layers_or_nodes(tmp_path: Path) -> None:
    layers = {"c": "block.conv1", "r": "block.relu", "d": "block.conv2", "s": "block", "y": "block.relu"}
    path = named(tmp_path, {value: f"node_{value}" for value in "crdsy"}, layers)
    made = profile(path, CPU)
    assert [row.name for row in made.rows if row.name != RUNTIME] == [
        "block.conv1",
        "block.relu",
        "block.conv2",
        "block",
    ]
    assert rows_of(made)["block.conv1"].fused == ("block.relu",)
    by_node = profile(path, CPU, by="node")
    assert [row.name for row in by_node.rows if row.name != RUNTIME] == [f"node_{v}" for v in "crdsy"]


def test_nodes_of_one_name_or_none(tmp_path: Path) -> None:
    rows = rows_of(profile(named(tmp_path, {"c": "conv", "d": "conv", "r": "Relu_2"}), CPU, by="node"))
    assert {"conv@0", "conv@1", "Relu_2", "s", "y"} <= rows.keys()
    assert rows["conv@0"].fused[0] == "Relu_2"
    assert rows["conv@0"].latency is not None
    assert rows["conv@1"].latency is not None


def test_names_that_look_like_kernels_do_not_mislead(tmp_path: Path) -> None:
    # `d_nchwc` is what ONNX Runtime would call the other convolution.
    rows = rows_of(profile(named(tmp_path, {"c": "d_nchwc", "d": "c_nchwc", "r": "_kernel_time"}), CPU))
    assert rows["d_nchwc"].fused == ("_kernel_time",)
    assert rows["c_nchwc"].kernels == ("Conv",)


def test_quantised_layers_keep_their_names(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    layers = {"c": "conv1", "r": "relu1", "d": "conv2", "s": "add", "y": "relu2"}
    path = named(tmp_path, {value: f"{layers[value]}/{value}" for value in layers}, layers)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": np.random.default_rng(0).standard_normal((1, 16, 20, 20), np.float32)}])

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(path, tmp_path / "int8.onnx", Reader())
    made = profile(tmp_path / "int8.onnx", CPU)
    rows = rows_of(made)
    assert rows.keys() - {RUNTIME} <= set(layers.values())
    assert all(rows[name].kernels[-2].endswith("Conv") for name in ("conv1", "conv2"))


def test_a_symbolic_size_is_assumed_and_said(profiled: Make) -> None:
    text = "g (float[batch, 3, side, side] x) => (float[batch, 3, side, side] y) { y = Relu(x) }"
    made = profiled(text)
    assert made.assumed == {"batch": 1, "side": 224}
    assert made.inputs[0].shape == (1, 3, 224, 224)
    assert profiled(text, sizes={"x": (2, 3, 8, 8)}).inputs[0].shape == (2, 3, 8, 8)


def test_indices_stay_within_their_table(profiled: Make) -> None:
    made = profiled("g (int64[n, length] i) => (float[n, length, 2] y) { y = Gather(w, i) }", {"w": (3, 2)})
    assert made.rows[0].output == (1, 128, 2)  # index 3 and above would have failed


def test_large_weights_stay_out_of_the_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(
        "g (float[1, 1000] x) => (float[1, 1000] y) { y = MatMul(x, w) }",
        tmp_path,
        weights={"w": np.ones((1000, 1000), np.float32)},
    )
    sizes = []
    finish = ProfiledSession.finish

    def keep(self: ProfiledSession) -> Any:
        sizes.append(sum(file.lstat().st_size for file in self.optimized.parent.iterdir()))
        return finish(self)

    monkeypatch.setattr(ProfiledSession, "finish", keep)
    profile(path, CPU)
    assert sizes[0] < 100_000
