"""float16 and bfloat16: judged by the source in NumPy, and by half arithmetic of ONNX's evaluator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

import converter
from converter.errors import TargetError
from converter.precision.half import rounded
from fixtures.onnx_text import model as text_model

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT

# Each computes with values that float16 does not hold, and puts out some that it does.
OVERFLOWING = {
    "in the middle": (
        "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x,w) b = Mul(a,k) c = Mul(b,r) y = MatMul(c,v) }",
        {"k": np.float32(1e5), "r": np.float32(1e-5)},
    ),
    "two neighbours in a row": (
        "g (float[N,8] x) => (float[N,4] y) "
        "{ a = MatMul(x,w) b = Mul(a,k) d = Relu(b) c = Mul(d,r) y = MatMul(c,v) }",
        {"k": np.float32(1e5), "r": np.float32(1e-5)},
    ),
    "squares in a variance": (
        "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x,w) h = Mul(a,k) m = ReduceMean(h,axes) d = Sub(h,m) "  # noqa: E501
        "s = Mul(d,d) t = ReduceMean(s,axes) e = Add(t,eps) q = Sqrt(e) z = Div(d,q) y = MatMul(z,v) }",
        {"k": np.float32(1000), "axes": np.array([1]), "eps": np.float32(1e-5)},
    ),
}


def weights(normal: Callable[..., Any], **others: Any) -> dict[str, Any]:
    return {"w": normal(8, 8), "v": normal(8, 4), **others}


def exact(text: str, arrays: dict[str, Any], feeds: dict[str, Any]) -> dict[str, Any]:
    """The source in float64 arithmetic, by ONNX's own evaluator in NumPy."""
    model = text_model(text.replace("float[", "double["), weights={n: wide(a) for n, a in arrays.items()})
    found = ReferenceEvaluator(model).run(None, {n: wide(a) for n, a in feeds.items()})
    return dict(zip([value.name for value in model.graph.output], found, strict=True))


def wide(array: Any) -> Any:
    return array.astype(np.float64) if np.asarray(array).dtype == np.float32 else array


def halves(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """A model in real half arithmetic: ONNX Runtime's CPU computes float16 in float32 between casts."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = ReferenceEvaluator(proto).run(None, feeds)
    return dict(zip([value.name for value in proto.graph.output], found, strict=True))


def snr(got: Any, reference: Any) -> float:
    noise = np.square(got.astype(np.float64) - reference).sum()
    return (
        float(10 * np.log10(np.square(reference).sum() / max(noise, 1e-30)))
        if np.isfinite(noise)
        else -np.inf
    )


@pytest.mark.parametrize("case", OVERFLOWING)
def test_what_overflows_stays_in_float(case: str, lowered: Any, normal: Callable[..., Any]) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    text, others = OVERFLOWING[case]
    arrays = weights(normal, **others)
    written = lowered(text, "fp16", weights=arrays)
    feeds = {"x": np.random.default_rng(5).uniform(-1, 1, (16, 8)).astype(np.float32)}
    reference = exact(text, arrays, feeds)["y"]
    ours = halves(written.model(), feeds)["y"]
    assert ours.dtype == np.float32
    assert snr(ours, reference) > 50
    assert snr(written.run(feeds)["y"], reference) > 50
    multiplied = set(re.findall(r"(\w+) = Mul", text)) & written.kept.keys()
    assert multiplied
    assert all("float16 ends at 65504" in written.kept[name] for name in multiplied)
    stored = {tensor.name: tensor.data_type for tensor in written.model().graph.initializer}
    assert stored["w"] == stored["v"] == HALF  # what does not overflow is in half precision
    theirs = ir.from_proto(convert_float_to_float16(text_model(text, weights=arrays), keep_io_types=True))
    common.TopologicalSortPass()(theirs)
    found = halves(ir.to_proto(theirs), feeds)["y"]
    assert not np.isfinite(found).all() or snr(found, reference) < snr(ours, reference) - 10


def test_weights_beyond_float16(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x,w) h = Mul(a,t) b = MatMul(h,big) c = Mul(b,t) y = MatMul(c,v) }"  # noqa: E501
    arrays = weights(normal, big=normal(8, 8) * 1e5, t=np.float32(1e-2))
    written = lowered(text, "fp16", weights=arrays)
    feeds = {"x": normal(9, 8)}
    assert snr(halves(written.model(), feeds)["y"], exact(text, arrays, feeds)["y"]) > 50
    stored = {tensor.name: tensor.data_type for tensor in written.model().graph.initializer}
    assert (stored["big"], stored["w"]) == (FLOAT, HALF)


def test_layers_are_named_as_the_framework_has_them(lowered: Any) -> None:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
            self.loud, self.hot = nn.Linear(8, 8), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.hot(self.loud(self.first(x))) * 1e-5)

    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.loud.weight *= 1e5
    written = lowered(converter.load(net, example=torch.zeros(1, 8)), "fp16")
    assert {"loud", "hot"} <= written.kept.keys()
    assert "first" not in written.kept  # `last` has the factor, which reads what is too large
    x = torch.randn(20, 8)
    with torch.no_grad():
        reference = net(x).numpy().astype(np.float64)
    name = written.model().graph.input[0].name
    (found,) = halves(written.model(), {name: x.numpy()}).values()
    assert snr(found, reference) > 50


CONTROL = {
    "if": "a = MatMul(x,w) s = ReduceSum<keepdims=0>(a) c = Greater(s,zero) "
    "b = If(c)<then_branch = t () => (float[N,8] p) { p = MatMul(a,w) }, "
    "else_branch = e () => (float[N,8] q) { q = Neg(a) }>",
    "loop": "a = MatMul(x,w) b = Loop(three,yes,a)<body = l (int64 i, bool c, float[N,8] s) => "
    "(bool d, float[N,8] n) { d = Identity(c) m = MatMul(s,w) n = Tanh(m) }>",
    "scan": "a = MatMul(x,w) f, b = Scan<num_scan_inputs=1, body = l (float[8] s, float[8] i) => "
    "(float[8] n, float[8] o) { m = Add(s,i) n = Tanh(m) o = Identity(n) }>(nil,a)",
}


@pytest.mark.parametrize("case", CONTROL)
def test_graphs_inside_read_what_they_read_before(
    case: str, lowered: Any, normal: Callable[..., Any]
) -> None:
    """The weight is read by what is converted, and inside by what is not."""
    text = f"g (float[N,8] x) => (float[N,4] y) {{ {CONTROL[case]} y = MatMul(b,v) }}"
    others = {
        "zero": np.float32(0),
        "three": np.array(3),
        "yes": np.array(True),
        "nil": np.zeros(8, np.float32),
    }
    arrays = weights(normal, **{name: array for name, array in others.items() if name in CONTROL[case]})
    written = lowered(text, "fp16", weights=arrays)
    assert "it has a graph inside" in written.kept.values()
    feeds = {"x": normal(6, 8)}
    reference = exact(text.replace("float[8]", "double[8]"), arrays, feeds)["y"]
    assert snr(written.run(feeds)["y"], reference) > 45
    assert {t.name: t.data_type for t in written.model().graph.initializer}["v"] == HALF


def test_scales_of_a_resize_stay_float(lowered: Any, normal: Callable[..., Any]) -> None:
    text = 'g (float[N,2,4,4] x) => (float[N,2,8,8] y) { a = Conv(x,k) y = Resize<mode="linear">(a,,s) }'
    scales = np.array([1, 1, 2, 2], np.float32)
    written = lowered(text, "fp16", weights={"k": normal(2, 2, 1, 1), "s": scales})
    types = {tensor.name: tensor.data_type for tensor in written.model().graph.initializer}
    assert (types["s"], types["k"]) == (FLOAT, HALF)
    assert "Resize" not in written.kept


def test_integers_go_straight_to_half(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (int64[N,5] ids) => (float[N,5,4] y) { e = Gather(t,ids) f = Cast<to=1>(ids) u = Mul(f,half) z = MatMul(u,w) n = Unsqueeze(z,two) g = Add(e,n) y = MatMul(g,v) }"  # noqa: E501
    arrays = {
        "t": normal(30, 8),
        "half": np.float32(0.5),
        "two": np.array([2]),
        "v": normal(8, 4),
        "w": normal(5, 5),
    }
    written = lowered(text, "fp16", weights=arrays)
    assert written.kept == {}
    graph = written.model().graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    (cast,) = [node for node in graph.node if node.op_type == "Cast" and node.input[0] == "ids"]
    assert cast.attribute[0].i == HALF
    ids = np.random.default_rng(0).integers(0, 30, (3, 5))
    e = arrays["t"][ids] + (0.5 * ids @ arrays["w"])[..., None]
    assert snr(written.run({"ids": ids})["y"], e @ arrays["v"]) > 50


def test_limits_of_a_clip(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x,w) b = Clip(a,low,high) y = MatMul(b,v) }"
    arrays = weights(normal, low=np.float32(0), high=np.float32(6))
    assert lowered(text, "fp16", weights=arrays).kept == {}
    arrays["high"] = np.float32(np.finfo(np.float32).max)
    written = lowered(text, "fp16", weights=arrays)
    feeds = {"x": normal(6, 8)}
    assert snr(halves(written.model(), feeds)["y"], exact(text, arrays, feeds)["y"]) > 50


def test_shared_weights_are_there_in_both(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x,w) b = Mul(a,k) c = MatMul(b,w) d = Mul(c,r) y = MatMul(d,w) }"  # noqa: E501
    arrays = {"w": normal(8, 8), "k": np.float32(1e5), "r": np.float32(1e-5)}
    written = lowered(text, "fp16", weights=arrays)
    sizes = Counter(t.data_type for t in written.model().graph.initializer if list(t.dims) == [8, 8])
    assert sizes == {HALF: 1, FLOAT: 1}
    feeds = {"x": normal(9, 8)}
    assert snr(halves(written.model(), feeds)["y"], exact(text, arrays, feeds)["y"]) > 50


@pytest.mark.parametrize("io", ["float", "fp16"])
def test_outputs_that_are_read_inside_and_stand_beside_an_input(
    io: str, lowered: Any, normal: Callable[..., Any]
) -> None:
    text = "g (float[N,8] x) => (float[N,8] y, float[N,8] same, float[N,4] z) { y = MatMul(x,w) same = Identity(x) z = MatMul(y,v) }"  # noqa: E501
    arrays = weights(normal)
    written = lowered(text, "fp16", weights=arrays, io=io)
    feeds = {"x": normal(9, 8)}
    reference = exact(text, arrays, feeds)
    dtype = np.float16 if io == "fp16" else np.float32
    found = written.run({"x": feeds["x"].astype(dtype)})
    assert list(found) == ["y", "same", "z"]
    assert {array.dtype for array in found.values()} == {np.dtype(dtype)}
    assert min(snr(found[name], reference[name]) for name in found) > 50
    assert [t.dtype for t in written.document.pieces[0].outputs] == [dtype.__name__] * 3


def test_an_output_that_overflows_cannot_be_half(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (float[N,8] x) => (float[N,8] a, float[N,8] far) { a = MatMul(x,w) far = Mul(a,k) }"
    arrays = {"w": normal(8, 8), "k": np.float32(1e5)}
    with pytest.raises(TargetError, match=r"the output far reaches .*e.05, float16 ends at 65504"):
        lowered(text, "fp16", weights=arrays, io="fp16")
    assert lowered(text, "fp16", weights=arrays).document.proof.passed


def test_tiny_constants_do_not_vanish(lowered: Any, normal: Callable[..., Any]) -> None:
    array = np.array([0.0, 1e-12, -1e-12, 1e-5, 1.0, -0.0], np.float32)
    half = rounded(array, ir.DataType.FLOAT16)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half == 0, array == 0)
    np.testing.assert_array_equal(np.signbit(half), np.signbit(array))
    text = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x,w) s = Relu(a) n = Mul(s,s) m = ReduceSum(n,axes) e = Add(m,eps) q = Sqrt(e) z = Div(s,q) y = MatMul(z,v) }"  # noqa: E501
    arrays = weights(normal, axes=np.array([1]), eps=np.float32(1e-7))
    written = lowered(text, "fp16", weights=arrays)
    nothing = {"x": np.zeros((1, 8), np.float32)}
    assert np.isfinite(halves(written.model(), nothing)["y"]).all()  # 0 / 0 where epsilon became 0


def test_what_was_half_before_stays_as_it_was(lowered: Any, normal: Callable[..., Any]) -> None:
    text = "g (float16[N,8] x) => (float16[N,8] h, float[N,4] y) { h = MatMul(x,w) b = Cast<to=1>(h) y = MatMul(b,v) }"  # noqa: E501
    arrays = {"w": normal(8, 8).astype(np.float16), "v": normal(8, 4)}
    x = normal(9, 8).astype(np.float16)
    reference = x.astype(np.float64) @ arrays["w"].astype(np.float64)
    for io, last in (("float", np.float32), ("fp16", np.float16)):
        found = lowered(text, "fp16", weights=arrays, io=io).run({"x": x})
        assert (found["h"].dtype, found["y"].dtype) == (np.float16, last)
        assert snr(found["y"], reference @ arrays["v"]) > 50


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[N,8] x) => (int64[N,8] y) { y = Add(x,x) }",
        "g (double[N,8] x) => (double[N,8] y) { y = Exp(x) }",
        "g (float[N,8] x) => (float[8,N] y) { y = Transpose<perm=[1,0]>(x) }",
    ],
)
@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "int8-dynamic", "int4-weights"])
def test_a_model_with_nothing_to_lower_is_refused(text: str, kind: str, lowered: Any) -> None:
    with pytest.raises(TargetError, match=r"nothing of the model|no weight of the model"):
        lowered(text, kind)


def test_bfloat16_is_how_weights_are_stored(lowered: Any, normal: Callable[..., Any]) -> None:
    """ONNX Runtime's CPU has no kernels in it."""
    text = (
        "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x,w) b = Relu(a) c = MatMul(b,v) y = MatMul(c,w) }"
    )
    arrays = {"w": normal(64, 64), "v": normal(64, 64)}
    written = lowered(text, "bf16", weights=arrays)
    stored = {t.name: t for t in written.model().graph.initializer}
    assert {t.data_type for t in stored.values()} == {onnx.TensorProto.BFLOAT16}
    assert set(stored) == {"w", "v"}
    for name, tensor in stored.items():
        bits = np.frombuffer(tensor.raw_data, ml_dtypes.bfloat16).reshape(64, 64)
        np.testing.assert_array_equal(bits, arrays[name].astype(ml_dtypes.bfloat16))
    assert (written.folder / "model.onnx").stat().st_size < 0.6 * 2 * 64 * 64 * 4
    feeds = {"x": normal(9, 64)}
    assert 40 < snr(written.run(feeds)["y"], exact(text, arrays, feeds)["y"]) < 70


def test_weights_of_layers_kept_in_float_stay_whole(lowered: Any, normal: Callable[..., Any]) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    for kind, code in (("bf16", onnx.TensorProto.BFLOAT16), ("fp16", HALF)):
        model = converter.load(net, example=torch.zeros(1, 64))
        written = lowered(model, kind, keep=("2",))
        kinds = {t.data_type for t in written.model().graph.initializer if len(t.dims) == 2}
        assert kinds == {code, FLOAT}
        assert written.kept["2"] == "asked for"
