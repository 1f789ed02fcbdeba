"""What an older opset says differently computes the same in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from converter.errors import TargetError
from converter.finish.opset import to_opset

# (opset it is written in, opset it is taken to, nodes, what no longer stands in the graph)
SAID_DIFFERENTLY = {
    "reduce": (18, 17, "a = Constant<value_ints=[-1]>() y = ReduceMax<keepdims=0>(x, a)"),
    "reduce_all": (18, 17, "y = ReduceMean<keepdims=0>(x)"),
    "reduce_none": (18, 15, "y = ReduceMean<noop_with_empty_axes=1>(x)"),
    "split": (18, 17, "y, z = Split<axis=1, num_outputs=2>(x)"),
    "split_unevenly": (18, 15, "y, z, w = Split<axis=3, num_outputs=3>(x)"),
    "pad": (
        18,
        15,
        """p = Constant<value_ints=[1, 0, 2, 1]>() a = Constant<value_ints=[-1, 1]>()
        y = Pad(x, p, , a)""",
    ),
    "pad_value": (
        18,
        17,
        """p = Constant<value_ints=[1, 2]>() a = Constant<value_ints=[2]>()
        v = Constant<value_float=3.0>() y = Pad(x, p, v, a)""",
    ),
    "layer_norm": (
        17,
        16,
        """s = Constant<value_floats=[1.0, 2.0, 3.0, 4.0, 5.0]>()
        y = LayerNormalization<axis=-1>(x, s, s)""",
    ),
    "layer_norm_axes": (
        18,
        15,
        """s = ConstantOfShape<value=float[1] {0.5}>(q) y = LayerNormalization<axis=2, epsilon=0.1>(x, s)""",
    ),
    "mish": (18, 17, "y = Mish(x)"),
    "gelu": (20, 18, "y = Gelu(x)"),
    "gelu_tanh": (20, 15, "y = Gelu<approximate=\"tanh\">(x)"),
    "unchanged": (22, 15, "a = Softplus(x) y = Round(a)"),
    "cast": (21, 15, "a = Cast<to=11, saturate=1>(x) y = Cast<to=1>(a)"),
    "grid": (20, 17, "y = GridSample<mode=\"linear\">(x, g)"),
    "resize": (19, 17, "r = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>() y = Resize<antialias=0>(x, , r)"),
}  # fmt: skip


def _model(opset: int, body: str) -> ir.Model:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
    g (float[2, 3, 4, 5] x) => (float y)
    <float[2, 2, 2, 2] g = {{{", ".join(str(0.1 * i - 0.8) for i in range(16))}}}, int64[2] q = {{4, 5}},
     float[4] halves = {{1, 1, 0.5, 0.5}}>
    {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _run(model: ir.Model) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    blob = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("case", SAID_DIFFERENTLY)
def test_same_values_in_the_older_opset(case: str) -> None:
    opset, target, body = SAID_DIFFERENTLY[case]
    expected = _run(_model(opset, body))
    model = _model(opset, body)
    to_opset(model, target)
    proto = ir.to_proto(model)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", target)]
    onnx.checker.check_model(proto, full_check=True)
    assert np.any(expected)
    np.testing.assert_allclose(_run(model), expected, rtol=1e-5, atol=1e-6)


def test_inside_a_branch() -> None:
    body = """c = Constant<value=bool {1}>()
    y = If(c)<
        then_branch = t () => (float[2, 3, 4, 1] o)
            { a = Constant<value_ints=[-1]>() o = ReduceMax(x, a) },
        else_branch = e () => (float[2, 3, 4, 1] o)
            { b = Constant<value_ints=[-1]>() o = ReduceMin(x, b) }>"""
    expected = _run(_model(18, body))
    model = _model(18, body)
    to_opset(model, 16)
    np.testing.assert_array_equal(_run(model), expected)


@pytest.mark.parametrize(
    ("opset", "target", "body", "word"),
    [
        (18, 17, "y = ReduceL2<noop_with_empty_axes=1>(x)", "ReduceL2"),
        (18, 17, "y = Resize<antialias=1>(x, , halves)", "antialias"),
        (18, 17, "a = Cast<to=7>(x) b = BitwiseNot(a) y = Cast<to=1>(b)", "BitwiseNot"),
        (18, 17, "s = Shape(x) a = Slice(s, q, q) y = ReduceMax(x, a)", "ReduceMax"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_named(opset: int, target: int, body: str, word: str) -> None:
    with pytest.raises(TargetError, match=word):
        to_opset(_model(opset, body), target)


def test_newer() -> None:
    body = "y = ReduceMax<axes=[1]>(x)"
    expected = _run(_model(13, body))
    model = _model(13, body)
    to_opset(model, 21)
    np.testing.assert_array_equal(_run(model), expected)
