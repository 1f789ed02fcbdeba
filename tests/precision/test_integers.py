"""int8 with measured ranges and without, and its ends: judged by the framework and by NumPy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import converter
from converter.errors import TargetError, UsageError, ValidationError
from converter.precision.ends import Scale
from fixtures.digits import keras_digits
from fixtures.digits.data import digits

NET = """g (float[N,3,8,8] x) => (float[N,4] y) { a = Conv<pads=[1,1,1,1]>(x,k,b) r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r,l) d = Add(c,r) f = Flatten(d) h = Gemm(f,w,v) y = Softmax(h) }"""


@pytest.fixture
def arrays(normal: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    shapes = {"k": (8, 3, 3, 3), "b": (8,), "l": (8, 8, 3, 3), "w": (512, 4), "v": (4,)}
    return {name: normal(*shape) / np.float32(np.sqrt(np.prod(shape[-3:]))) for name, shape in shapes.items()}


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def kinds(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def answer(folder: Path, role: str, feeds: dict[str, Any]) -> dict[str, Any]:
    session = ort.InferenceSession(folder / f"{role}.onnx", providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def snr(got: Any, reference: Any) -> float:
    noise = max(float(np.square(got - reference).sum()), 1e-30)
    return float(10 * np.log10(np.square(reference).sum() / noise))


@pytest.fixture
def residual(structure: Callable[[str], Any], tmp_path: Path) -> Path:
    path = tmp_path / "residual.keras"
    structure("residual").save(path)
    return path


# ---------------------------------------------------------------- structure


def test_weights_are_int8_by_channel_and_activations_uint8(lowered: Any, arrays: Any) -> None:
    written = lowered(NET, "int8", weights=arrays, method="minmax")
    proto = written.model()
    found, made = constants(proto), {o: node for node in proto.graph.node for o in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for conv, (name, original) in zip(convolutions, [("k", arrays["k"]), ("l", arrays["l"])], strict=True):
        weight, taken = made[conv.input[1]], made[conv.input[0]]
        assert weight.op_type == taken.op_type == "DequantizeLinear", name
        levels, scale = found[weight.input[0]], found[weight.input[1]]
        assert (levels.dtype, scale.shape) == (np.int8, (8,))
        decoded = levels.astype(np.float32) * scale[:, None, None, None]
        assert np.abs(decoded - original).max() <= scale.max() / 2 * 1.001
        assert found[taken.input[2]].dtype == np.uint8
    (softmax,) = [node for node in proto.graph.node if node.op_type == "Softmax"]
    assert made[softmax.input[0]].op_type in ("Gemm", "DequantizeLinear")
    assert proto.graph.output[0].name in softmax.output  # no QuantizeLinear behind it
    assert written.kept == {"y": "int8 is too coarse for a Softmax"}


@pytest.mark.parametrize("method", ["minmax", "mse", "percentile", "entropy", "auto"])
def test_every_way_to_find_ranges(method: str, lowered: Any, arrays: Any) -> None:
    facts = lowered(NET, "int8", weights=arrays, method=method).facts
    names = {"percentile": 3, "auto": 6}
    assert len(facts["tried"]) == names.get(method, 1)
    best = max(facts["tried"].values())
    about = [name for name, found in facts["tried"].items() if found >= best - 1.05]  # shown to a tenth
    assert facts["calibration"] == about[0]


def test_minmax_is_the_range_of_the_samples(lowered: Any, arrays: Any, tmp_path: Path) -> None:
    """Every other sample sets ranges, the rest are compared: the two never mix."""
    x = np.random.default_rng(1).uniform(-1, 1, (20, 3, 8, 8)).astype(np.float32)
    x[0::2] *= 2  # these calibrate
    np.savez(tmp_path / "x.npz", x=x)
    written = lowered(NET, "int8", weights=arrays, method="minmax", samples=tmp_path / "x.npz")
    first = next(node for node in written.model().graph.node if node.op_type == "QuantizeLinear")
    assert first.input[0] == "x"
    scale = float(constants(written.model())[first.input[1]])
    assert scale == pytest.approx(np.ptp(x[0::2]) / 255, rel=1e-5)
    assert {c.batch for c in written.document.proof.comparisons} == {10}
    assert written.document.proof.samples == "x.npz, every other sample"


def test_too_few_samples(lowered: Any, arrays: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(6, 3, 8, 8)).astype(np.float32))
    with pytest.raises(UsageError, match="calibration auto wants 8 samples to set ranges by, got 2"):
        lowered(NET, "int8", weights=arrays, samples=tmp_path / "x.npz")
    np.savez(tmp_path / "one.npz", x=np.ones((1, 3, 8, 8), np.float32))
    with pytest.raises(UsageError, match="one sample cannot both"):
        lowered(NET, "int8", weights=arrays, samples=tmp_path / "one.npz")


def test_a_fixed_batch_is_never_taken_apart(lowered: Any, arrays: Any) -> None:
    written = lowered(NET.replace("N", "3"), "int8", weights=arrays)
    assert written.document.proof.passed
    assert {c.batch for c in written.document.proof.comparisons} == {3}


def test_names_of_nodes_in_a_file_are_layers(lowered: Any, arrays: Any, tmp_path: Path) -> None:
    from fixtures.onnx_text import model

    proto = model(NET, '"": 16', arrays)
    for node in proto.graph.node:
        node.name = f"block/{node.output[0]}"
    onnx.save(proto, tmp_path / "old.onnx")
    written = lowered(tmp_path / "old.onnx", "int8", keep=("block/c",), method="minmax")
    assert written.kept["block/c"] == "asked for"
    assert kinds(written.model())["QuantizeLinear"]


# ---------------------------------------------------------------- what stays in float


def module() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    block = lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())  # noqa: E731
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block(), block(), nn.Flatten(), nn.Linear(256, 5))
    return net.eval(), torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("keep", "floats"), [(("1",), 1), (("?.0",), 2), (("0", "2.0"), 2), (("2.*", "0"), 2)]
)
def test_layers_kept_in_float(keep: tuple[str, ...], floats: int, lowered: Any) -> None:
    net, example = module()
    written = lowered(converter.load(net, example=example), "int8", keep=keep, method="minmax")
    proto = written.model()
    made = {o: node for node in proto.graph.node for o in node.output}
    plain = [n for n in proto.graph.node if n.op_type == "Conv" and n.input[1] not in made]
    assert len(plain) == floats
    asked = {layer for layer, why in written.kept.items() if why == "asked for"}
    assert asked
    assert all(any(layer.startswith(k.rstrip(".*?0")) or "?" in k for k in keep) for layer in asked)


def test_a_wrong_layer_lists_the_nearest(lowered: Any, residual: Path) -> None:
    with pytest.raises(UsageError, match="no layer 'iner1' is left") as refused:
        lowered(residual, "int8", keep=("iner1",))
    assert "inner1" in str(refused.value.hint)


def test_everything_kept_leaves_nothing(lowered: Any, arrays: Any) -> None:
    with pytest.raises(
        TargetError, match=r"nothing of the model can be quantized: .*Conv.* shall stay in float"
    ):
        lowered(NET, "int8", weights=arrays, keep=("*",))


def test_an_output_keeps_what_a_relu_behind_it_cuts_off(lowered: Any, normal: Any, tmp_path: Path) -> None:
    """ONNX Runtime's tools give what a Relu reads the range of what it puts out, outputs included."""
    text = "g (float[N,40,16] x) => (float[N,40,8] y, float[N,40,8] z) { y = MatMul(x,w) z = Relu(y) }"
    w = normal(16, 8) / 4
    np.savez(tmp_path / "x.npz", x=np.tanh(normal(60, 40, 16)))
    for io in ("float", "int8"):
        written = lowered(text, "int8", weights={"w": w}, io=io, samples=tmp_path / "x.npz")
        assert written.document.proof.passed
        assert written.kept == {"z": "it cuts off what an output keeps"}


# ---------------------------------------------------------------- ends


def test_integer_ends_mean_what_the_report_says(lowered: Any, residual: Path, structure: Any) -> None:
    written = lowered(residual, "int8", io="int8")
    proto = written.model()
    report = json.loads((written.folder / "report.json").read_text())
    scales = report["precision"][0]["scales"]
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(metadata["converter.precision"])["scales"] == scales
    ends = [*proto.graph.input, *proto.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {onnx.TensorProto.UINT8}
    assert set(scales) == {end.name for end in ends}
    assert [t["dtype"] for t in report["pieces"][0]["inputs"] + report["pieces"][0]["outputs"]] == [
        "uint8"
    ] * 2
    image = np.random.default_rng(7).uniform(0, 1, (12, 16, 16, 3)).astype(np.float32)
    levels = np.clip(np.round(image / scales["image"]["scale"]) + scales["image"]["zero_point"], 0, 255)
    (out,) = written.run({"image": levels.astype(np.uint8)}).values()
    decoded = (out.astype(np.float64) - scales["out"]["zero_point"]) * scales["out"]["scale"]
    assert snr(decoded, structure("residual").predict(image, verbose=0)) > 25


def test_scales_round_to_the_nearest_and_cut_off() -> None:
    scale = Scale(0.5, 10)
    values = np.array([0, 0.25, 0.75, -100, 500, 0.6], np.float32)
    np.testing.assert_array_equal(scale.levels(values), np.array([10, 10, 12, 0, 255, 11], np.uint8))
    np.testing.assert_array_equal(scale.numbers(np.array([0, 10, 255], np.uint8)), [-5, 0, 122.5])


def test_two_inputs_two_outputs_and_integer_inputs(lowered: Any, normal: Any, tmp_path: Path) -> None:
    text = """g (float[N,40,16] left, int64[N,3] ids) => (float[N,3,8] p, float[N,40,8] q)
        { e = Gather(t,ids) p = MatMul(e,w) q = MatMul(left,w) }"""
    arrays = {"t": normal(30, 16) / 4, "w": normal(16, 8) / 4}
    rows = np.random.default_rng(3).integers(0, 30, (400, 3))
    np.savez(tmp_path / "x.npz", left=np.tanh(normal(400, 40, 16)), ids=rows)
    written = lowered(text, "int8", weights=arrays, io="int8", method="minmax", samples=tmp_path / "x.npz")
    assert set(written.facts["scales"]) == {"left", "p", "q"}
    scales = {name: Scale(**parts) for name, parts in written.facts["scales"].items()}
    left, ids = np.tanh(normal(9, 40, 16)), np.random.default_rng(0).integers(0, 30, (9, 3))
    out = written.run({"left": scales["left"].levels(left), "ids": ids})
    assert snr(scales["p"].numbers(out["p"]), arrays["t"][ids] @ arrays["w"]) > 25
    assert snr(scales["q"].numbers(out["q"]), left @ arrays["w"]) > 25


@pytest.mark.parametrize(
    "cut", [{"from_": ("gap",)}, {"from_": ("stem",), "to": ("join",)}, {"split": ("inner1",)}]
)
def test_pieces_are_calibrated_on_what_the_framework_has_there(
    cut: Any, lowered: Any, residual: Path
) -> None:
    written = lowered(residual, "int8", method="minmax", **cut)
    assert written.document.proof.passed
    names = {c.piece for c in written.document.proof.comparisons}
    assert names == ({"trunk", "head", "head∘trunk"} if "split" in cut else {written.document.pieces[0].role})


def test_calibration_sees_none_of_the_validated_samples(
    lowered: Any, residual: Path, monkeypatch: Any
) -> None:
    """Nor does it where samples are drawn."""
    from converter import pipeline
    from converter.validation import Judge

    seen: dict[str, list[bytes]] = {"calibrated": [], "compared": []}

    def spying(piece: Any, precision: Any, feeds: Any, *others: Any) -> Any:
        seen["calibrated"] += [sample.tobytes() for batch in feeds for sample in batch["image"]]
        return lowering(piece, precision, feeds, *others)

    own, lowering = Judge.compare, pipeline.lower

    def comparing(self: Any, *arguments: Any) -> Any:
        seen["compared"] += [sample.tobytes() for batch in self._batches for sample in batch["image"]]
        return own(self, *arguments)

    monkeypatch.setattr(pipeline, "lower", spying)
    monkeypatch.setattr(Judge, "compare", comparing)
    lowered(residual, "int8", method="minmax")
    assert len(seen["calibrated"]) >= 8
    assert len(seen["compared"]) >= 4
    assert not set(seen["calibrated"]) & set(seen["compared"])


# ---------------------------------------------------------------- without measured ranges


def test_dynamic_quantization(lowered: Any, arrays: Any) -> None:
    written = lowered(NET, "int8-dynamic", weights=arrays)
    found = kinds(written.model())
    assert (found["ConvInteger"], found["MatMulInteger"], found["QuantizeLinear"]) == (2, 1, 0)
    kept = lowered(NET, "int8-dynamic", weights=arrays, keep=("a", "c"))
    assert (kinds(kept.model())["ConvInteger"], kinds(kept.model())["Conv"]) == (0, 2)
    assert kept.kept == {"a": "asked for", "c": "asked for"}


def test_dynamic_quantization_of_a_transposed_product(lowered: Any, normal: Any) -> None:
    text = "g (float[N,16] x) => (float[N,4] y) { a = Gemm<transB=1>(x,w,b) r = Relu(a) y = MatMul(r,v) }"
    arrays = {"w": normal(8, 16), "b": normal(8), "v": normal(8, 4)}
    written = lowered(text, "int8-dynamic", weights=arrays)
    assert kinds(written.model())["MatMulInteger"] == 2


def test_ranges_are_set_by_all_samples_that_calibrate(lowered: Any, normal: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(3).uniform(-1, 1, (600, 16)).astype(np.float32)
    x[4] *= 3  # of those that calibrate the third one, which is kept back to choose by
    np.savez(tmp_path / "x.npz", x=x)
    text = "g (float[N,16] x) => (float[N,4] y) { y = MatMul(x,w) }"
    written = lowered(text, "int8", weights={"w": normal(16, 4)}, samples=tmp_path / "x.npz")
    assert written.facts["calibration"] == "minmax"
    first = next(node for node in written.model().graph.node if node.op_type == "QuantizeLinear")
    assert float(constants(written.model())[first.input[1]]) == pytest.approx(np.ptp(x[0::2]) / 255, rel=1e-5)


@pytest.mark.parametrize("kind", ["int8", "int8-dynamic"])
def test_nothing_to_quantize_names_the_operators(kind: str, lowered: Any) -> None:
    with pytest.raises(
        TargetError, match=r"nothing of the model can be quantized: .* no int8 kernels of Erf, Exp"
    ):
        lowered("g (float[N,8] x) => (float[N,8] y) { a = Erf(x) y = Exp(a) }", kind)


# ---------------------------------------------------------------- quality


def test_a_quality_that_is_not_reached_writes_nothing(lowered: Any, arrays: Any, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(ValidationError, match="expected 90 at least") as refused:
        lowered(NET, "int8", weights=arrays, method="minmax", min_snr=90.0)
    assert refused.value.exit_code == 5
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"net.onnx"}


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_trained_networks_judge_as_well_as_before(kind: str, lowered: Any, tmp_path: Path) -> None:
    import keras

    data = digits()
    np.savez(tmp_path / "train.npz", image=data.train_images[:128, ..., None])
    written = lowered(keras_digits.FILE, kind, samples=tmp_path / "train.npz")
    fed = data.test_images[..., None]
    reference = keras.models.load_model(keras_digits.FILE).predict(fed, verbose=0)
    (found,) = written.run({"image": fed}).values()
    right = [(scores.argmax(1) == data.test_labels).mean() for scores in (found, reference)]
    assert right[1] > 0.97
    assert right[0] >= right[1] - 0.01
    report = json.loads((written.folder / "report.json").read_text())
    shares = [c["top1"] for c in report["validation"]["comparisons"]]
    assert min(shares) >= 0.98
