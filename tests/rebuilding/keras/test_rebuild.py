"""Keras models made of plain graphs: numbers, names, weights, training, saving."""

import copy
import re
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from converter.finish.plain import plain
from converter.model import Piece, TensorSpec
from converter.rebuilding.graph import Unsupported
from fixtures.node_cases import attempt, node_cases

keras = pytest.importorskip("keras")
from converter.rebuilding.keras import extra, rebuild, table  # noqa: E402

RNG = np.random.default_rng(0)


def _array(*shape, low=-1.0, high=1.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def _piece(text, weights, opset=17):
    """A graph in onnx's text form (which has no dots in names), with its weights."""
    text = re.sub(r"\b[A-Za-z_]\w*(\.\w+)+", lambda name: name[0].replace(".", "__"), text)
    graph = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    for owner in (*graph.graph.node, *graph.graph.input):
        if isinstance(owner, onnx.NodeProto):
            for names in (owner.input, owner.output):
                names[:] = [name.replace("__", ".") for name in names]
        else:
            owner.name = owner.name.replace("__", ".")
    for name, array in weights.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = onnx.shape_inference.infer_shapes(graph)
    model = ir.from_proto(copy.deepcopy(graph))  # its tensors are the proto's own, renamed on the way

    def spec(value):
        shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape)
        return TensorSpec(value.name, shape, value.dtype.numpy().name)

    inputs = [v for v in model.graph.inputs if v.name not in weights]
    model.graph.inputs[:] = inputs
    ends = tuple(map(spec, inputs)), tuple(map(spec, model.graph.outputs))
    return Piece("model", model, *ends, (), ()), graph


def _rebuilt(text, weights, constants=(), trainable=None, opset=17, **options):
    piece, graph = _piece(text, weights, opset)
    names = set(weights) - set(constants)
    drawn = plain(piece, names, trainable, channels_last=True, **options)
    return drawn, rebuild(drawn), graph


def _expect_same(model, graph, *shapes, drawn=None):
    evaluator = ReferenceEvaluator(graph)
    weights = {tensor.name for tensor in graph.graph.initializer}
    names = [value.name for value in graph.graph.input if value.name not in weights]
    assert len(names) == len(shapes), names
    for batch in (1, 2, 3):
        feeds = [_array(batch, *shape, low=-2, high=2) for shape in shapes]
        wanted = evaluator.run(None, dict(zip(names, feeds, strict=True)))
        given = [
            np.transpose(f, drawn.turned[n]) if drawn and n in drawn.turned else f
            for n, f in zip(names, feeds, strict=True)
        ]
        got = model(given[0] if len(given) == 1 else given)
        for a, b in zip(got if isinstance(got, list) else [got], wanted, strict=True):
            a = np.asarray(a)
            assert a.shape == b.shape
            assert np.std(b) > 0
            assert np.abs(a - b).max() <= 2**-14 * np.abs(b).max()


CNN = """
agraph (float[N,3,9,9] image, float[8,3,3,3] block1_conv1.kernel, float[8] block1_conv1.bias,
        float[8] bn.weight, float[8] bn.bias, float[8] bn.running_mean, float[8] bn.running_var,
        float[8,1,3,3] dw.weight, float[8,4,3,3] grouped.weight, float[5,200] fc.weight, float[5] fc.bias)
    => (float[N,5] scores)
{
    a = Conv <pads=[1,1,1,1]> (image, block1_conv1.kernel, block1_conv1.bias)
    b = BatchNormalization (a, bn.weight, bn.bias, bn.running_mean, bn.running_var)
    c = Relu (b)
    d = Conv <pads=[0,1,2,1], strides=[2,2], group=8> (c, dw.weight)
    e = Conv <pads=[1,1,1,1], group=2> (d, grouped.weight)
    f = Add (d, e)
    g = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (f)
    h = Flatten (g)
    scores = Gemm <transB=1> (h, fc.weight, fc.bias)
}
"""


def _cnn_weights():
    return {
        "block1_conv1.kernel": _array(8, 3, 3, 3),
        "block1_conv1.bias": _array(8),
        "bn.weight": _array(8, low=0.5),
        "bn.bias": _array(8),
        "bn.running_mean": _array(8),
        "bn.running_var": _array(8, low=0.5, high=2),
        "dw.weight": _array(8, 1, 3, 3),
        "grouped.weight": _array(8, 4, 3, 3),
        "fc.weight": _array(5, 200),
        "fc.bias": _array(5),
    }


@pytest.fixture(scope="module")
def cnn():
    return _rebuilt(CNN, _cnn_weights(), native_layout=True)


def test_a_convolutional_net_is_the_same_on_three_batch_sizes(cnn):
    drawn, model, graph = cnn
    _expect_same(model, graph, (3, 9, 9), drawn=drawn)


def test_layers_are_real_and_called_as_their_weights(cnn):
    _, model, _ = cnn
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert kinds["block1_conv1"] == "Conv2D"
    assert kinds["bn"] == "BatchNormalization"
    assert kinds["dw"] == "DepthwiseConv2D"
    assert kinds["grouped"] == "Conv2D"
    assert kinds["fc"] == "Dense"
    assert len(model.layers) == len(model.operations)  # no operation that .h5 cannot hold


def test_no_data_are_transposed(cnn):
    _, model, _ = cnn
    assert not [o.name for o in model.operations if type(o).__name__ in ("Permute", "Transpose")]


def test_parameters_are_the_sources_own(cnn):
    drawn, model, _ = cnn
    assert model.count_params() == drawn.parameters
    assert extra(model) == 0


def test_inputs_have_their_names(cnn):
    assert [tensor.name for tensor in cnn[1].inputs] == ["image"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_and_loaded_it_is_the_same(cnn, tmp_path, suffix):
    _, model, _ = cnn
    path = tmp_path / f"model{suffix}"
    model.save(path)
    again = keras.models.load_model(path, compile=False, safe_mode=True)
    x = _array(2, 9, 9, 3)
    assert np.array_equal(np.asarray(again(x)), np.asarray(model(x)))


def test_the_projects_own_loader_opens_it(cnn, tmp_path):
    import converter

    cnn[1].save(tmp_path / "model.keras")
    assert converter.load(tmp_path / "model.keras") is not None


def test_a_step_of_training_changes_all_that_is_trained():
    weights = _cnn_weights()
    trained = set(weights) - {"dw.weight", "bn.running_mean", "bn.running_var"}
    _, model, _ = _rebuilt(CNN, weights, trainable=trained, native_layout=True)
    assert not model.get_layer("dw").trainable
    assert model.get_layer("bn").trainable
    before = {w.path: np.array(w) for w in model.weights}
    model.compile("sgd", "mse")
    model.fit(_array(4, 9, 9, 3), _array(4, 5), verbose=0)
    changed = {
        path.split("/")[0] for path, old in before.items() if not np.array_equal(old, _now(model, path))
    }
    assert changed == {"block1_conv1", "bn", "grouped", "fc"}


def _now(model, path):
    return np.array(next(w for w in model.weights if w.path == path))


def test_a_constant_scale_of_ones_is_no_weight():
    weights = _cnn_weights() | {"bn.weight": np.ones(8, np.float32)}
    drawn, model, graph = _rebuilt(CNN, weights, constants=["bn.weight"], native_layout=True)
    assert not model.get_layer("bn").scale
    assert model.count_params() == drawn.parameters
    _expect_same(model, graph, (3, 9, 9), drawn=drawn)


TOKENS = """
agraph (float[N,6,4] x, float[1,1,4] cls_token, float[1,7,4] pos_embed, float[4] ls1.gamma, float[70,70] mask)
    => (float[N,7,4] y)
<int64[1] first = {0}, int64[1] one = {1}, int64[2] rest = {1,4}, int64[1] axis = {0}>
{
    shape = Shape (x)
    batch = Slice (shape, first, one, axis)
    target = Concat <axis=0> (batch, rest)
    tokens = Expand (cls_token, target)
    joined = Concat <axis=1> (tokens, x)
    placed = Add (joined, pos_embed)
    scaled = Mul (placed, ls1.gamma)
    total = ReduceSum <keepdims=0> (mask)
    y = Mul (scaled, total)
}
"""


def _token_weights():
    return {
        "cls_token": _array(1, 1, 4),
        "pos_embed": _array(1, 7, 4),
        "ls1.gamma": _array(4),
        "mask": _array(70, 70),
    }


def test_weights_without_a_layer_are_kept_and_trained(tmp_path):
    weights = _token_weights()
    del weights["mask"]
    text = TOKENS.replace(", float[70,70] mask", "").replace("total = ReduceSum <keepdims=0> (mask)", "")
    text = text.replace("y = Mul (scaled, total)", "y = Tanh (scaled)")
    drawn, model, graph = _rebuilt(text, weights)
    _expect_same(model, graph, (6, 4))
    assert model.count_params() == drawn.parameters == 4 + 28 + 4
    assert {"cls_token", "pos_embed", "ls1.gamma"} <= {layer.name for layer in model.layers}
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", compile=False, safe_mode=True)
    x = _array(2, 6, 4)
    assert np.array_equal(np.asarray(again(x)), np.asarray(model(x)))
    before = [np.array(w) for w in model.weights]
    model.compile("sgd", "mse")
    model.fit(x, _array(2, 7, 4), verbose=0)
    assert all(not np.array_equal(a, np.array(b)) for a, b in zip(before, model.weights, strict=True))


def test_a_large_constant_is_held_by_a_frozen_layer_outside_the_config(tmp_path):
    text = "agraph (float[N,70,70] x, float[70,70] mask) => (float[N,70,70] y) { y = Add (x, mask) }"
    drawn, model, graph = _rebuilt(text, {"mask": _array(70, 70)}, constants=["mask"])
    _expect_same(model, graph, (70, 70))
    assert drawn.parameters == 0
    assert extra(model) == model.count_params() == 4900
    assert not model.trainable_weights
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert len(archive.read("config.json")) < 10_000


def test_a_layer_that_is_called_twice_is_one_layer():
    text = """agraph (float[N,4] x, float[4,4] fc.weight) => (float[N,4] y)
    { a = MatMul (x, fc.weight) b = Relu (a) y = MatMul (b, fc.weight) }"""
    drawn, model, graph = _rebuilt(text, {"fc.weight": _array(4, 4)})
    _expect_same(model, graph, (4,))
    assert model.count_params() == drawn.parameters == 16


def test_keras_adds_along_the_right_axis():
    """`ops.add` of Keras 3.15 takes [1, 4, 1] for a bias along an axis of length 4, the last of two."""
    text = "agraph (float[3,4,4] x, float[1,4,1] b) => (float[3,4,4] y) { y = Add (x, b) }"
    _, model, graph = _rebuilt(text, {"b": _array(1, 4, 1)})
    x = _array(3, 4, 4)
    wanted = ReferenceEvaluator(graph).run(None, {"x": x})[0]
    assert np.allclose(np.asarray(model(x)), wanted)


@pytest.mark.parametrize(
    "pooling",
    [
        "MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>",
        "MaxPool <kernel_shape=[2,2], strides=[2,2], ceil_mode=1>",
        "MaxPool <kernel_shape=[2,2], dilations=[2,2]>",
        "AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,0], count_include_pad=1>",
        "AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>",
        'AveragePool <kernel_shape=[2,2], auto_pad="SAME_LOWER">',
    ],
)
def test_borders_of_pooling(pooling):
    text = f"agraph (float[N,2,7,7] x) => (float[N,2,oh,ow] y) {{ y = {pooling} (x) }}"
    drawn, model, graph = _rebuilt(text, {}, opset=19)
    _expect_same(model, graph, (2, 7, 7), drawn=drawn)


@pytest.mark.parametrize(
    "attributes",
    [
        "strides=[2,2], pads=[1,1,1,1]",
        "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]",
        "strides=[2,2], pads=[0,1,1,0]",
        "strides=[4,4]",
        "dilations=[2,2]",
    ],
)
def test_transposed_convolutions(attributes):
    text = f"""agraph (float[N,2,5,5] x, float[2,3,3,3] up.weight, float[3] up.bias) => (float[N,3,oh,ow] y)
    {{ y = ConvTranspose <{attributes}> (x, up.weight, up.bias) }}"""
    drawn, model, graph = _rebuilt(text, {"up.weight": _array(2, 3, 3, 3), "up.bias": _array(3)})
    _expect_same(model, graph, (2, 5, 5), drawn=drawn)
    assert model.count_params() == drawn.parameters


def test_an_operator_without_rule_is_refused_by_name():
    text = "agraph (float[N,4] x) => (int64[2,M] y) { y = NonZero (x) }"
    with pytest.raises(Unsupported, match=r"NonZero.*no rule"):
        _rebuilt(text, {})


def _run_of(drawn):
    model = rebuild(drawn)

    def run(feeds):
        given = [np.asarray(feeds[spec.name]) for spec in drawn.inputs]
        got = model(given if len(given) > 1 else given[0])
        got = got if isinstance(got, list) else [got]
        return {spec.name: np.asarray(a) for spec, a in zip(drawn.outputs, got, strict=True)}

    return run


FAMILIES = (
    "softmax_axis_1 argmax_keepdims_example_select_last_index cumprod_1d_reverse_exclusive "
    "gather_negative_indices gather_elements_0 gathernd_example_float32 slice_neg_steps "
    "layer_normalization_4d_axis1 rms_normalization_3d_axis2_epsilon group_normalization_example "
    "group_normalization_example_expanded instance_norm_example lrn gelu_default_1 hardswish "
    "resize_downsample_sizes_cubic resize_upsample_scales_linear_half_pixel_symmetric "
    "attention_4d_causal attention_3d_gqa attention_local_window rotary_embedding_interleaved "
    "lstm_with_initial_bias gru_batchwise simple_rnn_defaults depthtospace_crd_mode_example "
    "convtranspose_group_2 scatter_elements_with_negative_indices scatternd_add top_k_smallest "
    "split_variable_parts_2d_opset18 reduce_log_sum_exp_keepdims_random pow_types_float32_int64 "
    "mod_mixed_sign_float32 "
).split()


@pytest.mark.parametrize("name", FAMILIES)
def test_operators_as_onnx_defines_them(name):
    found = next((case for case in node_cases() if case.name == name), None)
    if found is None:
        pytest.skip(f"this onnx has no case {name}")
    assert attempt(found, _run_of, channels_last=True) == "passed"


def test_every_version_has_its_rule():
    assert ("", "Softmax", 11) in table
    assert ("", "Softmax", 13) in table
    assert ("", "Loop", 13) not in table


def test_importing_the_package_loads_no_keras():
    code = "import sys, converter.rebuilding, converter.rebuilding.keras; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
