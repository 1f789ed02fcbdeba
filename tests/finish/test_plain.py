"""Graphs drawn as their author would have drawn them: layers whole, weights the source's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from converter.finish.lift import lift
from converter.finish.plain import plain
from converter.model import CHANNELS_LAST, LIFTED, Piece, Plain, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


def piece(text: str, **weights: Array) -> Piece:
    """A piece from ONNX's text form, with these initializers."""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    inputs, outputs = (
        tuple(
            TensorSpec(
                str(v.name),
                tuple(d if isinstance(d, int) else str(d.value) for d in v.shape or ()),
                "float32",
            )
            for v in values
        )
        for values in (model.graph.inputs, model.graph.outputs)
    )
    return Piece("trunk", model, inputs, outputs, (), ())


def head(ends: str, opset: int = 18) -> str:
    return f'<ir_version: 9, opset_import: ["" : {opset}]> agraph {ends}'


def ops(drawn: Plain) -> list[str]:
    return [node.op_type for node in drawn.graph.graph]


def constant(value: float) -> str:
    return f"Constant <value = float {{{value!r}}}> ()"


ROOT = math.sqrt(0.5)
SPELLINGS = {
    "gelu, halves first": (
        "h, r, one",
        (0.5, ROOT, 1.0),
        "a = Mul(h, x) b = Mul(x, r) c = Erf(b) d = Add(one, c) y = Mul(a, d)",
        "Gelu",
    ),
    "gelu, as TensorFlow has it": (
        "h, r, one",
        (0.5, ROOT, 1.0),
        "a = Mul(h, x) n = Neg(x) b = Mul(n, r) c = Erf(b) d = Sub(one, c) y = Mul(a, d)",
        "Gelu",
    ),
    "gelu, halves last": (
        "h, r, one",
        (0.5, math.sqrt(2), 1.0),
        "b = Div(x, r) c = Erf(b) d = Add(c, one) e = Mul(x, d) y = Mul(e, h)",
        "Gelu",
    ),
    "hard swish": (
        "three, zero, six",
        (3.0, 0.0, 6.0),
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six)",
        "HardSwish",
    ),
    "swish": ("unused", (1.0,), "a = Sigmoid(x) y = Mul(a, x)", "Swish"),
    "quick gelu": ("k", (1.702,), "b = Mul(x, k) a = Sigmoid(b) y = Mul(x, a)", "Swish"),
    "mish": ("unused", (1.0,), "a = Softplus(x) b = Tanh(a) y = Mul(x, b)", "Mish"),
}


@pytest.mark.parametrize("spelling", SPELLINGS, ids=list(SPELLINGS))
def test_activations_are_told_by_what_they_compute(spelling: str) -> None:
    names, values, body, op = SPELLINGS[spelling]
    given = dict(zip(names.split(", "), (np.float32(v) for v in values), strict=True))
    text = head("(float[N, 7] x) => (float[N, 7] y) { " + body + " }")
    drawn = plain(piece(text, **{k: np.array(v) for k, v in given.items()}), set())
    assert ops(drawn) == [op]
    if spelling == "quick gelu":
        assert drawn.graph.graph[0].attributes["alpha"].as_float() == pytest.approx(1.702)


@pytest.mark.parametrize(
    "body",
    [
        "b = Mul(x, r) c = Erf(b) d = Add(one, c) y = Mul(x, d)",  # twice a GELU
        "b = Mul(x, one) c = Erf(b) d = Add(one, c) e = Mul(x, d) y = Mul(e, h)",  # another slope
    ],
)
def test_what_only_looks_like_an_activation_is_left(body: str) -> None:
    constants = {name: np.array(v, np.float32) for name, v in (("r", ROOT), ("one", 1.0), ("h", 0.5))}
    drawn = plain(piece(head("(float[N, 7] x) => (float[N, 7] y) { " + body + " }"), **constants), set())
    assert "Gelu" not in ops(drawn)
    assert "Erf" in ops(drawn)


LAYER_NORM = """
    m = ReduceMean <keepdims = 1> (x, axes) d = Sub(x, m) q = Mul(d, d)
    v = ReduceMean <keepdims = 1> (q, axes) w = Add(v, eps) s = Sqrt(w)
"""


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)", {"gamma", "beta"}),
        ("r = Reciprocal(s) n = Mul(d, r) g = Mul(gamma, n) y = Add(beta, g)", {"gamma", "beta"}),
        # As Keras on TensorFlow has it: x * k + (beta - mean * k).
        (
            "r = Reciprocal(s) k = Mul(r, gamma) a = Mul(x, k) o = Neg(m) b = Mul(o, k) c = Add(b, beta) "
            "y = Add(a, c)",
            {"gamma", "beta"},
        ),
        ("n = Div(d, s) y = Mul(n, gamma)", {"gamma"}),
        ("n = Div(d, s) y = Add(n, beta)", {"beta"}),
        ("y = Div(d, s)", set()),
    ],
)
def test_layer_normalizations(body: str, weights: set[str]) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=6).astype(np.float32) for name in weights}
    text = head("(float[N, 5, 6] x) => (float[N, 5, 6] y) {" + LAYER_NORM + body + "}")
    source = piece(text, axes=np.array([-1]), eps=np.array(1e-3, np.float32), **values)
    drawn = plain(source, weights)
    (node,) = [n for n in drawn.graph.graph if n.op_type != "Add"]
    assert node.op_type == "LayerNormalization"
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    assert drawn.weights == weights
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    expected = ReferenceEvaluator(ir.to_proto(source.graph)).run(None, {"x": x})[0]
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    wanted = wanted * values.get("gamma", 1) + values.get("beta", 0)
    np.testing.assert_allclose(expected, wanted, atol=1e-5)  # the text says what it is meant to
    np.testing.assert_array_equal(
        node.inputs[1].const_value.numpy(),  # type: ignore[union-attr]
        values.get("gamma", np.ones(6, np.float32)),
    )


def test_a_root_of_mean_squares_is_no_layer_normalization() -> None:
    text = head(
        """(float[N, 6] x) => (float[N, 6] y) {
        q = Mul(x, x) v = ReduceMean <keepdims = 1> (q, axes) w = Add(v, eps) s = Sqrt(w)
        n = Div(x, s) y = Mul(n, gamma) }"""
    )
    gamma = np.arange(1, 7, dtype=np.float32)
    drawn = plain(piece(text, axes=np.array([-1]), eps=np.array(1e-6, np.float32), gamma=gamma), {"gamma"})
    assert ops(drawn) == ["RMSNormalization"]


def test_batch_normalization_with_channels_last() -> None:
    text = head(
        """(float[N, 9, 4] x) => (float[N, 9, 4] y) {
        w = Add(variance, eps) s = Sqrt(w) r = Reciprocal(s) k = Mul(r, gamma) a = Mul(x, k)
        o = Mul(mean, k) t = Sub(beta, o) y = Add(a, t) }"""
    )
    rng = np.random.default_rng(0)
    weights = {
        name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")
    }
    drawn = plain(piece(text, eps=np.array(1e-3, np.float32), **weights), set(weights))
    assert ops(drawn) == ["Transpose", "BatchNormalization", "Transpose"]
    norm = drawn.graph.graph[1]
    assert [v.name for v in norm.inputs[1:] if v] == ["gamma", "beta", "mean", "variance"]
    last = plain(piece(text, eps=np.array(1e-3, np.float32), **weights), set(weights), channels_last=True)
    assert ops(last) == ["BatchNormalization"]
    assert last.graph.graph[0].metadata_props[CHANNELS_LAST]


@pytest.mark.parametrize(
    ("body", "dense"),
    [
        ("h = MatMul(x, w) y = Add(h, b)", 3),
        ("h = MatMul(x, w) y = Add(b, h)", 3),
        ("y = MatMul(x, w)", 2),
        ("y = Gemm(x, w, b)", 3),
        ("y = Gemm <transB = 1> (x, t, b)", 3),
    ],
)
def test_dense_layers(body: str, dense: int) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    weights = {"w": kernel, "t": np.ascontiguousarray(kernel.T), "b": rng.normal(size=4).astype(np.float32)}
    used = {name: array for name, array in weights.items() if f", {name}" in body or f"({name}" in body}
    drawn = plain(piece(head("(float[N, 3] x) => (float[N, 4] y) { " + body + " }"), **used), set(used))
    (node,) = list(drawn.graph.graph)
    assert (node.domain, node.op_type, len(node.inputs)) == (LIFTED, "Dense", dense)
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), kernel)  # type: ignore[union-attr]
    assert drawn.weights == set(used)


def test_a_bias_behind_a_reshape_is_the_dense_layers() -> None:
    text = head(
        "(float[N, 5, 6] x) => (float[N, 5, 2, 4] y) { h = MatMul(x, w) r = Reshape(h, to) y = Add(r, b) }"
    )
    rng = np.random.default_rng(0)
    drawn = plain(
        piece(
            text,
            w=rng.normal(size=(6, 8)).astype(np.float32),
            b=rng.normal(size=(2, 4)).astype(np.float32),
            to=np.array([-1, 5, 2, 4]),
        ),
        {"w", "b"},
    )
    assert ops(drawn) == ["Dense", "Reshape"]
    assert drawn.parameters == 6 * 8 + 8


def test_what_is_added_along_another_axis_is_no_bias() -> None:
    text = head("(float[N, 4, 4] x) => (float[N, 4, 4] y) { h = MatMul(x, w) y = Add(h, b) }")
    drawn = plain(piece(text, w=np.eye(4, dtype=np.float32), b=np.ones((4, 1), np.float32)), {"w", "b"})
    assert ops(drawn) == ["Dense", "Add"]


def test_weights_are_not_folded_into_one_another() -> None:
    text = head(
        """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = BatchNormalization (c, gamma, beta, mean, variance) }"""
    )
    rng = np.random.default_rng(0)
    weights = {n: rng.uniform(1, 2, 4).astype(np.float32) for n in ("gamma", "beta", "mean", "variance")}
    weights["w"] = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    drawn = plain(piece(text, **weights), set(weights))
    assert ops(drawn) == ["Conv", "BatchNormalization"]
    assert drawn.parameters == sum(array.size for array in weights.values())
    np.testing.assert_array_equal(
        drawn.graph.graph.initializers["w"].const_value.numpy(),  # type: ignore[union-attr]
        weights["w"],
    )


def test_ends_in_the_frameworks_own_layout() -> None:
    text = head(
        "(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu(c) }"
    )
    kernel = np.ones((4, 3, 3, 3), np.float32)
    source = plain(piece(text, w=kernel), {"w"}, channels_last=True)
    assert ops(source) == ["Transpose", "Conv", "Relu", "Transpose"]
    assert source.turned == {}
    native = plain(piece(text, w=kernel), {"w"}, channels_last=True, native_layout=True)
    assert ops(native) == ["Conv", "Relu"]
    assert native.turned == {"x": (0, 2, 3, 1), "y": (0, 2, 3, 1)}
    assert [spec.shape for spec in (*native.inputs, *native.outputs)] == [
        ("N", 8, 8, 3),
        ("N", 8, 8, 4),
    ]


@pytest.mark.parametrize("flatten", ["f = Flatten(r)", "f = Reshape(r, to)"], ids=["Flatten", "Reshape"])
def test_a_flatten_needs_no_transpose(flatten: str) -> None:
    text = head(
        "(float[N, 2, 3, 4] x) => (float[N, 5] y) { c = Conv (x, w) r = Relu(c) "
        + flatten
        + " y = MatMul(f, k) }"
    )
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(24, 5)).astype(np.float32)
    arrays = {"w": rng.normal(size=(2, 2, 1, 1)).astype(np.float32), "k": kernel}
    if "to" in flatten:
        arrays["to"] = np.array([-1, 24])
    drawn = plain(piece(text, **arrays), {"w", "k"}, channels_last=True, native_layout=True)
    assert "Transpose" not in ops(drawn)
    moved = drawn.graph.graph.initializers["k"].const_value.numpy()  # type: ignore[union-attr]
    features = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)  # behind the Relu, channels first
    expected = features.reshape(1, -1) @ kernel
    np.testing.assert_allclose(features.transpose(0, 2, 3, 1).reshape(1, -1) @ moved, expected, rtol=1e-5)


def test_the_piece_is_left_alone() -> None:
    text = head("(float[N, 3] x) => (float[N, 4] y) { h = MatMul(x, w) y = Add(h, b) }")
    source = piece(text, w=np.ones((3, 4), np.float32), b=np.ones(4, np.float32))
    before = ir.to_proto(source.graph).SerializeToString(deterministic=True)
    plain(source, {"w", "b"}, channels_last=True, native_layout=True)
    assert ir.to_proto(source.graph).SerializeToString(deterministic=True) == before


def test_without_names_all_floats_are_weights() -> None:
    text = head("(float[N, 3] x) => (float[N, 4] y) { h = MatMul(x, w) s = Mul(h, k) y = Add(s, b) }")
    arrays = {"w": np.ones((3, 4), np.float32), "k": np.array(2, np.float32), "b": np.ones(4, np.float32)}
    assert plain(piece(text, **arrays), None).weights == {"w", "b"}


def test_frozen_weights_are_told() -> None:
    text = head("(float[N, 3] x) => (float[N, 4] y) { h = MatMul(x, w) y = Add(h, b) }")
    arrays = {"w": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32)}
    assert plain(piece(text, **arrays), {"w", "b"}, {"b"}).frozen == {"w"}


def test_lifting_stops_at_what_is_read_elsewhere() -> None:
    text = head(
        "(float[N, 7] x) => (float[N, 7] y, float[N, 7] z) { a = Sigmoid(x) y = Mul(a, x) z = Neg(a) }"
    )
    model = piece(text).graph
    assert isinstance(model, ir.Model)
    lift(model, set())
    assert sorted(node.op_type for node in model.graph) == ["Neg", "Sigmoid", "Swish"]


def test_a_channel_shuffle_ties_no_axes_down() -> None:
    text = head(
        """(float[N, 6, 5, 5] x) => (float[N, 6, 5, 5] y) {
        a = Conv (x, w) p = Reshape(a, parted) t = Transpose <perm = [0, 2, 1, 3, 4]> (p)
        j = Reshape(t, joined) y = Conv (j, w) }"""
    )
    rng = np.random.default_rng(0)
    source = piece(
        text,
        w=rng.normal(size=(6, 6, 1, 1)).astype(np.float32),
        parted=np.array([-1, 2, 3, 5, 5]),
        joined=np.array([-1, 6, 5, 5]),
    )
    drawn = plain(source, {"w"}, channels_last=True, native_layout=True)
    assert ops(drawn) == ["Conv", "Gather", "Conv"]
    places = drawn.graph.graph[1].inputs[1].const_value.numpy()  # type: ignore[union-attr]
    assert places.tolist() == [0, 3, 1, 4, 2, 5]
    assert drawn.graph.graph[1].attributes["axis"].as_int() == 3


def test_sizes_of_a_turned_input_are_read_in_the_old_order() -> None:
    text = head(
        """(float[N, H, W, 3] x) => (float[N, 4, h, w] y, int64[4] s) {
        t = Transpose <perm = [0, 3, 1, 2]> (x) y = Conv (t, w) s = Shape(x) }"""
    )
    drawn = plain(piece(text, w=np.ones((4, 3, 1, 1), np.float32)), {"w"}, native_layout=True)
    assert drawn.turned["x"] == (0, 3, 1, 2)
    x = np.zeros((2, 5, 7, 3), np.float32)
    outputs = ReferenceEvaluator(ir.to_proto(drawn.graph)).run(None, {"x": x.transpose(0, 3, 1, 2)})
    assert outputs[1].tolist() == [2, 5, 7, 3]


def test_a_kernel_of_two_layers_is_one() -> None:
    text = head(
        "(float[N, 3] x) => (float[N, 3] y) { "
        "h = Gemm <transB = 1> (x, w) r = Relu(h) y = Gemm <transB = 1> (r, w) }"
    )
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3)
    drawn = plain(piece(text, w=kernel), {"w"})
    assert drawn.weights == {"w"}
    assert {node.inputs[1].name for node in drawn.graph.graph if node.op_type == "Dense"} == {"w"}  # type: ignore[union-attr]


def test_a_table_that_is_a_kernel_too_is_one() -> None:
    text = head(
        "(int64[N] x) => (float[N, 5] y) { e = Gather(w, x) y = Gemm <transB = 1> (e, w) }",
    )
    drawn = plain(piece(text, w=np.arange(15, dtype=np.float32).reshape(5, 3)), {"w"})
    assert drawn.parameters == 15


def test_what_computes_with_weights_is_not_computed_once_for_all() -> None:
    text = head("(float[N, 3] x) => (float[N, 3] y) { k = Mul(g, w) y = Mul(x, k) }")
    arrays = {"g": np.full((3,), 2, np.float32), "w": np.ones(3, np.float32)}
    drawn = plain(piece(text, **arrays), {"g", "w"})
    assert drawn.weights == {"g", "w"}
    assert ops(drawn) == ["Mul", "Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Sigmoid(x) y = Clip(a, low, high)",
        "a = Sigmoid(x) b = Mul(x, a) y = Min(b, twelve)",
        "a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) d = Div(c, six) y = Min(d, twelve)",
        "a = Neg(x) b = Exp(a) c = Add(one, b) d = Reciprocal(c) y = Clip(d, low, high)",
    ],
)
def test_a_limit_behind_an_activation_stays(body: str) -> None:
    numbers = {
        "low": 1e-5,
        "high": 1 - 1e-5,
        "twelve": 12.0,
        "three": 3.0,
        "zero": 0.0,
        "six": 6.0,
        "one": 1.0,
    }
    constants = {name: np.array(v, np.float32) for name, v in numbers.items() if name in body}
    drawn = plain(piece(head("(float[N, 7] x) => (float[N, 7] y) { " + body + " }"), **constants), set())
    assert drawn.graph.graph[-1].op_type == body.rpartition("= ")[2].partition("(")[0]


def test_a_limit_inside_a_normalization_stays() -> None:
    text = head(
        """(float[N, 6] x) => (float[N, 6] y) {
        m = ReduceMean <keepdims = 1> (x, axes) d = Sub(x, m) q = Mul(d, d)
        v = ReduceMean <keepdims = 1> (q, axes) w = Max(v, eps) s = Sqrt(w) y = Div(d, s) }"""
    )
    drawn = plain(piece(text, axes=np.array([-1]), eps=np.array(1e-6, np.float32)), set())
    assert "LayerNormalization" not in ops(drawn)


def test_an_old_softmax_goes_over_all_axes_behind_its_own() -> None:
    text = head(
        "(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { c = Conv <pads = [1, 1, 1, 1]> (x, w) "
        "s = Softmax <axis = 1> (c) y = Relu(s) }",
        opset=11,
    )
    drawn = plain(piece(text, w=np.ones((4, 3, 3, 3), np.float32)), {"w"}, channels_last=True)
    softmax = next(node for node in drawn.graph.graph if node.op_type == "Softmax")
    assert softmax.inputs[0].producer().op_type == "Transpose"  # type: ignore[union-attr]
