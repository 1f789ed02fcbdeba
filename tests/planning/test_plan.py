"""What the planner says, against published figures, against the pieces themselves, and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from converter.cli import app
from converter.pipeline import whole
from converter.planning import Link, Plan, by_latency, fitting, plan
from converter.samples import draw
from converter.sources import Opening, resolve
from converter.sources.onnx import open_onnx_file
from converter.surgery import cut, edges_of, legal_cuts
from fixtures.onnx_text import saved


def planned(body: str, folder: Path, weights: dict[str, Any] | None = None, **sizes: Any) -> Plan:
    path = saved(body, folder, weights=weights)
    return plan(whole(open_onnx_file(path)), sizes)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2", "vit_b_16"])
def test_macs_are_the_published_ones(name: str) -> None:
    from converter.sources.torch import backend

    source = resolve(f"torchvision:{name}", Opening(weights="random"))
    made = plan(whole(source), every=False)
    published = backend.torchvision().models.get_model_weights(name).DEFAULT.meta["_ops"]
    # torchvision writes MobileNetV2's 0.30077 as 0.301.
    assert made.whole.macs / 1e9 == pytest.approx(published, rel=0.01)
    assert made.uncounted == ()
    trained = sum(parameter.numel() for parameter in source._source.model.parameters())
    buffers = sum(b.numel() for _, b in source._source.model.named_buffers() if b.dtype.is_floating_point)
    assert made.whole.parameters == pytest.approx(trained + buffers, rel=1e-3)  # and shapes and axes


def test_keras_counts_the_same() -> None:
    made = plan(whole(resolve("keras:mobilenetv2", Opening(weights="random"))), every=False)
    assert made.whole.macs / 1e9 == pytest.approx(0.301, rel=0.01)
    assert made.uncounted == ()


@pytest.mark.parametrize("framework", ["keras", "torch"])
def test_costs_are_those_of_the_pieces(framework: str, structure: Any) -> None:
    if framework == "keras":
        source = resolve(structure("residual"), Opening())
    else:
        from fixtures.torch_models import build

        model, example = build("residual")
        source = resolve(model, Opening(example=example))
    layered = whole(source)
    made = plan(layered)
    assert [c.layer for c in made.cuts if c.single] == [
        layer.name for layer in layered.layers if layer.name in legal_cuts(layered, layered.outputs)
    ]
    feeds = {k: v[:1] for k, v in draw(source.inputs, {}, 0)[0].items()}
    boundaries = {b.name: b for layer in layered.layers for b in layer.boundaries}
    assert len(made.cuts) > 4
    for cost in made.cuts:
        crossing = [boundaries[spec.name] for spec in cost.crossing]
        answers = source.run(feeds, crossing)
        assert cost.crossing_bytes == sum(array.nbytes for array in answers.values())
        assert [spec.shape for spec in cost.crossing] == [answers[b.value].shape for b in crossing]
        trunk, head = cut(layered, "trunk", (), crossing), cut(layered, "head", crossing, layered.outputs)
        assert cost.trunk.parameters == trunk.parameters
        assert cost.head.parameters == head.parameters
        assert cost.trunk.macs + cost.head.macs == made.whole.macs
        assert cost.trunk.peak_bytes >= max(array.nbytes for array in answers.values())


def test_peak_by_hand(tmp_path: Path) -> None:
    body = """g (float[1, 100] x) => (float[1, 10] y)
        { a = Relu(x) b = Tanh(a) c = Add(a, b) d = MatMul(c, w) y = Relu(d) }"""
    made = planned(body, tmp_path, {"w": np.zeros((100, 10), np.float32)})
    # a and b, then c, are alive together: three tensors of 400 bytes; the head holds c and d.
    assert made.whole.peak_bytes == 1200
    costs = {cost.layer: cost for cost in made.cuts}
    assert costs["c"].single
    assert costs["c"].trunk.peak_bytes == 1200
    assert costs["c"].head.peak_bytes == 440
    assert costs["a"].trunk.peak_bytes == 800
    assert [spec.name for spec in costs["b"].crossing] == ["b", "a"]
    assert not costs["b"].single
    assert costs["b"].crossing_bytes == 800
    assert (costs["c"].trunk.macs, costs["c"].head.macs) == (0, 1000)
    assert costs["c"].head.parameters == 1000


MACS = {
    "conv": ("y = Conv<group=2, strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)", (1, 4, 8, 8), {"w": (6, 2, 3, 3)},
             4 * 4 * 6 * 2 * 9),
    "conv_transpose": ("y = ConvTranspose<strides=[2, 2]>(x, w)", (1, 4, 5, 5), {"w": (4, 3, 2, 2)},
                       5 * 5 * 4 * 3 * 4),
    "batched_product": ("y = MatMul(x, w)", (2, 3, 4, 5), {"w": (5, 7)}, 2 * 3 * 4 * 5 * 7),
    "gemm_transposed": ("y = Gemm<transA=1, transB=1>(x, w)", (5, 4), {"w": (7, 5)}, 4 * 5 * 7),
    "einsum": ("""y = Einsum<equation="bij,bkj->bik">(x, w)""", (2, 3, 4), {"w": (2, 5, 4)}, 2 * 3 * 4 * 5),
    "einsum_dots": ("""y = Einsum<equation="...ij,jk->...ik">(x, w)""", (2, 6, 3, 4), {"w": (4, 5)},
                    2 * 6 * 3 * 4 * 5),
    "lstm": ("y = LSTM<hidden_size=3>(x, w, r)", (7, 1, 5), {"w": (1, 12, 5), "r": (1, 12, 3)},
             7 * (12 * 5 + 12 * 3)),
    "none": ("y = Relu(x)", (1, 4), {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", MACS)
def test_macs_by_hand(case: str, tmp_path: Path) -> None:
    body, sizes, weights, expected = MACS[case]
    arrays = {name: np.zeros(shape, np.float32) for name, shape in weights.items()}
    symbols = ", ".join("abcd"[: {"lstm": 4, "conv": 4, "conv_transpose": 4}.get(case, len(sizes))])
    made = planned(
        f"g (float[{', '.join(map(str, sizes))}] x) => (float[{symbols}] y) {{ {body} }}", tmp_path, arrays
    )
    assert made.whole.macs == expected


def test_macs_of_a_scan_are_those_of_every_step(tmp_path: Path) -> None:
    body = """g (float[6, 4] x, float[4] s) => (float[4] t, float[6, 4] y)
        { t, y = Scan<num_scan_inputs=1, body = b (float[4] h, float[4] e) => (float[4] n, float[4] o)
            { p = MatMul(h, w) n = Add(p, e) o = Identity(n) }>(s, x) }"""
    assert planned(body, tmp_path, {"w": np.zeros((4, 4), np.float32)}).whole.macs == 6 * 16


def test_what_cannot_be_counted_is_said(tmp_path: Path) -> None:
    body = """g (float[1, 4] x) => (float[m, n] y) { n = NonZero(x) f = Cast<to=1>(n) y = MatMul(w, f) }"""
    made = planned(body, tmp_path, {"w": np.zeros((3, 2), np.float32)})
    assert made.uncounted == ("y",)


def test_operators_that_are_not_known_are_said(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "mine": 1]>
        g (float[1, 4] x) => (float[1, 4] y) { a = Relu(x) b = mine.f(a) y = Neg(b) }
        <domain: "mine", opset_import: ["": 18]> f (p) => (q) { q = MatMul(p, p) }"""
    )
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    assert plan(whole(open_onnx_file(tmp_path / "net.onnx"))).uncounted == ("b",)


def test_symbolic_sizes(tmp_path: Path) -> None:
    body = """g (float[batch, length, 4] x) => (float[batch, length, 5] y)
        { a = Relu(x) n = Shape(a) r = Reshape(a, n) y = MatMul(r, w) }"""
    weights = {"w": np.zeros((4, 5), np.float32)}
    made = planned(body, tmp_path, weights)
    assert (made.whole.macs, made.assumed) == (128 * 20, {"batch": 1, "length": 128})
    assert planned(body, tmp_path, weights, x=(2, 10, 4)).whole.macs == 2 * 10 * 20


def test_ranking_and_filters(tmp_path: Path) -> None:
    body = """g (float[1, 64] x) => (float[1, 8] y)
        { a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) d = Tanh(c) y = MatMul(d, u) }"""
    shapes = {"w": (64, 256), "v": (256, 16), "u": (16, 8)}
    made = planned(body, tmp_path, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    first, seconds = by_latency(made.cuts, Link(1e6, 1e9, 0.01))[0]
    assert first.layer == "y"  # a slow link: send as little as there is
    assert seconds == pytest.approx(made.whole.macs / 1e6 + 8 * 32 / 1e4)
    first, _ = by_latency(made.cuts, Link(1e6, 1e9, 1e4))[0]
    assert first.layer == "a"  # a quick one: leave the work to the server
    assert [c.layer for c in fitting(made.cuts, max_params=64 * 256)] == ["a", "b"]
    assert [c.layer for c in fitting(made.cuts, max_macs=64 * 256 + 256 * 16)] == ["a", "b", "c", "d"]
    assert [c.layer for c in fitting(made.cuts, feature_dim=16)] == ["c", "d"]


def test_cuts_of_a_split_are_where_the_piece_says(tmp_path: Path) -> None:
    """Nodes after a split point that need the input as well count for the head."""
    body = """g (float[1, 4] x) => (float[1, 4] y)
        { a = Relu(x) b = MatMul(a, w) c = MatMul(x, w) y = Add(b, c) }"""
    made = planned(body, tmp_path, {"w": np.zeros((4, 4), np.float32)})
    costs = {cost.layer: cost for cost in made.cuts}
    assert (costs["b"].trunk.macs, costs["b"].head.macs) == (16, 16)
    assert set(edges_of(whole(open_onnx_file(tmp_path / "net.onnx")).graph).ids) >= {"a", "b", "c", "y"}


# ---------------------------------------------------------------- the command


@pytest.fixture
def net(tmp_path: Path) -> Path:
    planned(
        "g (float[batch, 8] x) => (float[batch, 2] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }",
        tmp_path,
        {"w": np.zeros((8, 4), np.float32), "v": np.zeros((4, 2), np.float32)},
    )
    return tmp_path / "net.onnx"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_table(net: Path) -> None:
    result = run(net)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "40 parameters, 40 MACs" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["a", "b", "y"]


def test_json_and_plots(net: Path, tmp_path: Path) -> None:
    svg = tmp_path / "plan.svg"
    document = json.loads(run(net, "--json", "--plot", svg).stdout)
    assert [entry["layer"] for entry in document["cuts"]] == ["a", "b", "y"]
    assert document["cuts"][0]["trunk"] == {"parameters": 32, "macs": 32, "peak_bytes": 48}
    assert svg.read_text().lstrip().startswith("<?xml")
    assert run(net, "--plot", tmp_path / "plan.nothing").exit_code == 2


def test_rates_go_together(net: Path) -> None:
    ranked = run(net, "--device-macs", 1e6, "--server-macs", 1e9, "--link-mbps", 1)
    assert ranked.exit_code == 0
    assert ranked.stdout.splitlines()[1].split()[-1] == "ms"
    assert run(net, "--device-macs", 1e6).exit_code == 2
    assert run(net, "--device-macs", 1e6, "--server-macs", 0, "--link-mbps", 1).exit_code == 2
    assert run(net, "--shape", "x:3").exit_code == 2
