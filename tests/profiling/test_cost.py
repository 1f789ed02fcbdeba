"""What a profile says of the graph alone, against figures derived by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.profiling import Profile, Row, Setting, profile
from fixtures.onnx_text import saved

Make = Callable[..., Profile]
CPU = Setting("CPUExecutionProvider", runs=3, warmup=1)


def rows_of(made: Profile) -> dict[str, Row]:
    return {row.name: row for row in made.rows}


CONV = "y = Conv<pads=[1, 1, 1, 1]>(x, w, b)"


def test_a_convolution(profiled: Make) -> None:
    made = profiled(
        f"g (float[1, 4, 10, 10] x) => (float[1, 8, 10, 10] y) {{ {CONV} }}", {"w": (8, 4, 3, 3), "b": (8,)}
    )
    (row,) = [row for row in made.rows if row.parameters]
    macs = 8 * 10 * 10 * 4 * 9
    moved = 4 * (400 + 8 * 4 * 9 + 8 + 800)
    assert (made.parameters, made.weight_bytes) == (8 * 4 * 9 + 8, 4 * (8 * 4 * 9 + 8))
    assert (row.macs, row.moved_bytes, row.intensity) == (macs, moved, pytest.approx(2 * macs / moved))
    assert row.latency is not None
    assert row.gflops == pytest.approx(2 * macs / (row.latency.median * 1e-3) / 1e9)
    assert made.file_bytes == made.path.stat().st_size


# Layers of the published networks, counted by hand: their totals are 15.47 G, 4.09 G and 0.301 G MACs.
PUBLISHED = {
    "vgg16 block1_conv2": ((64, 64, 3, 3), "pads=[1, 1, 1, 1]", 224, 1, 1_849_688_064),
    "resnet50 conv1": ((64, 3, 7, 7), "pads=[3, 3, 3, 3], strides=[2, 2]", 224, 1, 118_013_952),
    "mobilenetv2 block_1_depthwise": ((96, 1, 3, 3), "pads=[0, 0, 1, 1], strides=[2, 2]", 112, 96, 2_709_504),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_of_published_networks(name: str, profiled: Make) -> None:
    kernel, attributes, side, group, macs = PUBLISHED[name]
    text = f"""g (float[n, {kernel[1] * group}, h, w] x) => (float[n, c, h2, w2] y)
        {{ y = Conv<{attributes}, group={group}>(x, k) }}"""
    made = profiled(text, {"k": kernel}, sizes={"x": (1, kernel[1] * group, side, side)})
    assert made.macs == macs


def test_peak_by_hand(profiled: Make) -> None:
    # x lives until b: x, a and b are alive at b (1200 bytes); then a, b and c; then c and y.
    made = profiled("""g (float[1, 100] x) => (float[1, 100] y)
        { a = Relu(x) b = Tanh(x) c = Add(a, b) y = Mul(c, c) }""")
    assert (made.peak.bytes, made.peak.row, made.peak.unsized) == (1200, "b", 0)


def test_a_large_tensor_between_small_ones_is_the_peak(profiled: Make) -> None:
    made = profiled(
        "g (float[1, 10] x) => (float[1, 10] y) { a = MatMul(x, u) b = Relu(a) y = MatMul(b, v) }",
        {"u": (10, 500), "v": (500, 10)},
    )
    assert (made.peak.bytes, made.peak.row) == (4000, "b")


def test_inputs_that_are_read_late_and_outputs_made_early_count(profiled: Make) -> None:
    text = """g (float[1, 100] x, float[1, 50] z) => (float[1, 100] a, float[1, n] y)
        { a = Relu(x) c = MatMul(z, w) y = Neg(c) }"""
    made = profiled(text, {"w": (50, 150)})
    # At a: x and a (400 each) and z (200). At y: c and y (600 each) and the output a.
    assert (made.peak.bytes, made.peak.row) == (1600, "y")
    made = profiled(text, {"w": (50, 10)})
    assert (made.peak.bytes, made.peak.row) == (1000, "a")


def test_what_is_computed_of_weights_alone_is_no_activation(profiled: Make) -> None:
    made = profiled(
        "g (float[1, 10] x) => (float[1, 10] y) { t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t) }",
        {"w": (10, 10)},
    )
    assert (made.peak.bytes, made.parameters) == (80, 100)
    assert rows_of(made)["y"].parameters == 100  # its reader's row
    assert "t" not in rows_of(made)


def test_limits_sizes_and_scales_are_no_parameters(profiled: Make) -> None:
    made = profiled(
        """g (float[1, 10] x) => (float[2, 5] y) { a = MatMul(x, w) b = Clip(a, low) y = Reshape(b, s) }""",
        {"w": (10, 10), "low": np.float32(0), "s": np.array([2, 5])},
    )
    assert (made.parameters, made.weight_bytes) == (100, 400 + 4 + 16)


def test_a_shared_weight_counts_once(profiled: Make) -> None:
    made = profiled(
        "g (float[1, 10] x) => (float[1, 10] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
        {"w": (10, 10)},
    )
    assert made.parameters == 100
    assert sum(row.parameters for row in made.rows) == 100
    assert made.macs == 200


def test_of_a_table_the_rows_taken_count(profiled: Make) -> None:
    made = profiled("g (int64[1, 3] i) => (float[1, 3, 8] y) { y = Gather(w, i) }", {"w": (1000, 8)})
    assert rows_of(made)["y"].moved_bytes == 3 * 8 + 2 * (3 * 8 * 4)


def test_weights_in_nodes_count(profiled: Make) -> None:
    made = profiled("""g (float[1, 2] x) => (float[1, 2] y)
        { k = Constant<value = float[2, 2] {1, 2, 3, 4}>() y = MatMul(x, k) }""")
    (row,) = made.rows
    assert (made.parameters, made.weight_bytes, row.moved_bytes) == (4, 16, 8 + 16 + 8)


def test_external_data_count(tmp_path: Path) -> None:
    path = saved(
        "g (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }",
        tmp_path,
        weights={"w": np.ones((64, 64), np.float32)},
    )
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="data", size_threshold=0)
    made = profile(outside, CPU)
    assert made.file_bytes == outside.stat().st_size + (tmp_path / "data").stat().st_size
    assert made.weight_bytes == 64 * 64 * 4


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network as ONNX Runtime's own quantiser writes it in all its formats."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    folder = tmp_path_factory.mktemp("quantised")
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (8, 64)}
    float_ = saved(
        """g (float[1, 3, 12, 12] x) => (float[1, 64] y)
        { c = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(c) d = Conv<pads=[1, 1, 1, 1]>(r, v) s = Add(r, d)
          p = GlobalAveragePool(s) f = Flatten(p) y = MatMul(f, u) }""",
        folder,
        weights={name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()},
    )
    model = onnx.load(float_)
    for node in model.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    onnx.save(model, float_)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)}] * 2)

        def get_next(self) -> Any:
            return next(self.left, None)

    made = {name: folder / f"{name}.onnx" for name in ("qdq", "operators", "dynamic", "nbits")}
    quantize_static(float_, made["qdq"], Reader(), quant_format=QuantFormat.QDQ)
    quantize_static(float_, made["operators"], Reader(), quant_format=QuantFormat.QOperator)
    quantize_dynamic(float_, made["dynamic"], weight_type=QuantType.QUInt8)
    four = MatMulNBitsQuantizer(onnx.load(float_), block_size=32)
    four.process()
    four.model.save_model_to_file(str(made["nbits"]))
    return {"float": float_} | made


@pytest.mark.parametrize("kind", ["qdq", "operators", "dynamic", "nbits"])
def test_a_quantised_model_has_the_work_and_parameters_of_its_float_model(
    kind: str, quantised: dict[str, Path]
) -> None:
    float_, made = (profile(quantised[name], CPU) for name in ("float", kind))
    by_hand = 144 * 8 * 3 * 9 + 144 * 8 * 8 * 9 + 8 * 64
    assert float_.macs == made.macs == by_hand
    assert made.uncounted == ()
    assert float_.parameters == 8 * 27 + 8 * 72 + 8 * 64
    assert made.parameters == float_.parameters
    assert made.peak.unsized == 0
    rows = rows_of(made)
    assert [rows[name].macs for name in ("c", "d", "y")] == [144 * 8 * 27, 144 * 8 * 72, 512]


def test_tensors_of_eight_bits_count_one_byte(profiled: Make) -> None:
    made = profiled(
        """g (float[1, 100] x) => (float[1, 100] y)
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }""",
        {"s": np.float32(0.1), "z": np.uint8(128)},
    )
    # At q: x of 400 bytes, q of 100; at d: q and d; at y: d and y.
    assert made.peak.bytes == 800
    less = profiled(
        """g (float[1, 100] x) => (uint8[1, 100] p)
        { q = QuantizeLinear(x, s, z) p = Identity(q) }""",
        {"s": np.float32(0.1), "z": np.uint8(128)},
    )
    assert less.peak.bytes == 500


def test_what_cannot_be_counted_is_said(profiled: Make) -> None:
    made = profiled(
        "g (float[1, 8, 16] x) => (float[1, 8, 16] y) { y = com.microsoft.Attention<num_heads=2>(x, w, b) }",
        {"w": (16, 48), "b": (48,)},
        opsets='"": 18, "com.microsoft": 1',
    )
    assert made.uncounted == ("y",)
    assert rows_of(made)["y"].macs is None


def test_shapes_that_only_the_run_shows_go_on(profiled: Make) -> None:
    # ONNX knows nothing of FastGelu: the product behind it has a shape because the run had one.
    made = profiled(
        """g (float[n, 8] x) => (float[n, 4] y)
        { a = com.microsoft.FastGelu(x) b = com.microsoft.FastGelu(a) c = MatMul(b, w) y = Relu(c) }""",
        {"w": (8, 4)},
        opsets='"": 18, "com.microsoft": 1',
        sizes={"x": (5, 8)},
    )
    assert made.macs == 5 * 8 * 4
    assert made.peak.unsized == 0


def test_threads_and_runs_are_said(tmp_path: Path) -> None:
    path = saved("g (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }", tmp_path)
    made = profile(path, Setting("CPUExecutionProvider", 2, 0, threads=1))
    assert (made.setting.runs, made.setting.warmup, made.setting.threads) == (2, 0, 1)
