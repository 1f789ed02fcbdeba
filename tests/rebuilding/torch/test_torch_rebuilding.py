"""PyTorch modules from plain graphs: same values, the source's names, source text that stands alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.errors import TargetError
from converter.finish.plain import plain
from converter.model import LAYER, Piece, Plain, TensorSpec
from converter.rebuilding.graph import Unsupported
from converter.rebuilding.torch import rebuild
from fixtures.node_cases import NodeCase, attempt, node_cases, piece_of

torch = pytest.importorskip("torch")

# Cases by the start of their name: one or few of each family of rules.
_SELECTED = (
    "add_bcast", "argmax_default_axis_example_select_last_index", "attention_4d_gqa_softcap", "attention_3d",
    "averagepool_2d_ceil", "averagepool_3d_dilations", "basic_conv", "batchnorm_example", "bicubic", "cast",
    "causal_conv", "center_crop_pad", "clip", "col2im", "convtranspose", "cumsum", "dft_axis", "einsum",
    "gather", "gemm_all_attributes", "gridsample_bicubic", "group_normalization_example", "gru", "hardmax",
    "layer_normalization_2d", "linear_attention", "lrn", "lstm", "maxpool_2d", "maxunpool", "mvn",
    "nonmaxsuppression", "prelu", "reduce_l2_default", "reshape", "resize_", "reversesequence", "roialign",
    "rotary_embedding", "scatter", "simple_rnn", "slice", "softmax_axis", "split_", "stft", "swiglu",
    "tensorscatter", "top_k", "transpose", "unique", "unsqueeze", "upsample",
)  # fmt: skip
# Differences of single-precision rounding where ONNX's own tolerance for values near zero is 1e-7.
_ROUNDING = frozenset(("dft_inverse", "dft_inverse_opset19"))


def _cases() -> list[NodeCase]:
    return [
        case
        for case in node_cases()
        if case.float_inference
        and case.name.startswith(_SELECTED)
        and "expanded" not in case.name
        and case.name not in _ROUNDING
    ]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_node_case(case: NodeCase) -> None:
    assert attempt(case, lambda drawn: rebuild(drawn).run) == "passed"


def _rng(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _plain(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
    trainable: set[str] | None = None,
) -> Plain:
    arrays = {**weights, **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    for node in model.graph:
        node.metadata_props[LAYER] = "a/layer"
    ends = [tuple(TensorSpec(n, tuple(s), "float32") for n, s in d.items()) for d in (inputs, outputs)]
    return plain(Piece("trunk", model, ends[0], ends[1], (), ()), set(weights), trainable)


def _small(trainable: set[str] | None = None, ones: bool = False) -> Plain:
    """Conv, BatchNormalization, Relu, pooling, and a dense layer."""
    scale = {"scale": np.ones(4, np.float32)} if ones else {}
    weights = {
        "block/conv/kernel": _rng(4, 3, 3, 3),
        "block/conv/bias": _rng(4, seed=1),
        **({} if ones else {"block/bn/gamma": _rng(4, seed=2)}),
        "block/bn/beta": _rng(4, seed=3),
        "block/bn/moving_mean": _rng(4, seed=4),
        "block/bn/moving_variance": np.abs(_rng(4, seed=5)) + 0.5,
        "type/kernel": _rng(4, 5, seed=6),
        "type/bias": _rng(5, seed=7),
    }
    gamma = "scale" if ones else "block/bn/gamma"
    normal = ["a", gamma, "block/bn/beta", "block/bn/moving_mean", "block/bn/moving_variance"]
    return _plain(
        [
            helper.make_node(
                "Conv", ["image", "block/conv/kernel", "block/conv/bias"], ["a"], pads=[1, 1, 1, 1]
            ),
            helper.make_node("BatchNormalization", normal, ["b"], epsilon=1e-3),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("Gemm", ["e", "type/kernel", "type/bias"], ["features"]),
        ],
        {"image": ["batch", 3, 8, 8]},
        {"features": ["batch", 5]},
        weights,
        scale,
        trainable,
    )


def _expected(drawn: Plain, feeds: dict[str, np.ndarray]) -> np.ndarray:
    module = rebuild(drawn).module
    x = torch.tensor(feeds["image"])
    y = module.block.bn(module.block.conv(x)).relu().mean((2, 3))
    return module.type_(y).detach().numpy()  # type: ignore[no-any-return]


def test_names_are_the_sources() -> None:
    made = rebuild(_small())
    weights = {key for key in made.state if key not in made.constants}
    assert weights == {
        "block.conv.weight", "block.conv.bias", "block.bn.weight", "block.bn.bias", "block.bn.running_mean",
        "block.bn.running_var", "type_.weight", "type_.bias",
    }  # fmt: skip
    assert np.array_equal(made.state["type_.weight"].numpy(), _rng(4, 5, seed=6).T)


def test_a_module_of_layers_computes_the_same() -> None:
    drawn = _small()
    feeds = {"image": _rng(3, 3, 8, 8, seed=9)}
    got = rebuild(drawn).run(feeds)["features"]
    wanted = _expected(drawn, feeds)
    assert np.abs(got - wanted).max() <= 1e-6 * np.abs(wanted).max()
    assert wanted.std() > 0.01


@pytest.mark.parametrize("ones", [False, True])
def test_parameters_are_counted_as_the_source_counts_them(ones: bool) -> None:
    drawn = _small(ones=ones)
    made = rebuild(drawn)
    counted = sum(tensor.numel() for key, tensor in made.state.items() if key not in made.constants)
    assert counted == made.parameters == drawn.parameters
    names = {name for name, _ in made.module.named_parameters()}
    assert ("block.bn.weight" in names) is not ones


def test_the_text_is_the_same_each_time_and_stands_alone(tmp_path: Path) -> None:
    made = rebuild(_small(ones=True))
    assert rebuild(_small(ones=True)).text == made.text
    assert "converter" not in made.text
    assert max(map(len, made.text.splitlines())) <= 110
    from safetensors.torch import save_file

    (tmp_path / "trunk.py").write_text(made.text)
    save_file(made.state, tmp_path / "trunk.safetensors")
    feeds = {"image": _rng(2, 3, 8, 8, seed=9)}
    np.save(tmp_path / "x.npy", feeds["image"])
    code = (
        "import sys, numpy, torch, trunk\n"
        "y = trunk.load()(torch.tensor(numpy.load('x.npy')))\n"
        "numpy.save('y.npy', y.detach().numpy())\n"
        "assert not any(name.partition('.')[0] == 'converter' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), made.run(feeds)["features"])


def test_the_text_is_checked_by_ruff(tmp_path: Path) -> None:
    file = tmp_path / "trunk.py"
    file.write_text(rebuild(_small(ones=True)).text)
    options = ["--isolated", "--line-length", "110", "--select", "E,F,W,B", str(file)]
    subprocess.run([sys.executable, "-m", "ruff", "check", *options], check=True)


def test_training_changes_the_weights_and_frozen_ones_stay() -> None:
    made = rebuild(_small(trainable={"type/kernel", "type/bias"}))
    module = made.module.train()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {"type_.weight", "type_.bias"}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module(torch.tensor(_rng(4, 3, 8, 8))).square().sum().backward()
    optimizer.step()
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed == trained


def test_all_weights_train_where_all_do() -> None:
    module = rebuild(_small()).module.train()
    module(torch.tensor(_rng(4, 3, 8, 8))).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_program_takes_any_batch() -> None:
    made = rebuild(_small())
    run = made.called(made.program.module())
    for batch in (1, 5):
        feeds = {"image": _rng(batch, 3, 8, 8, seed=batch)}
        assert np.allclose(run(feeds)[0], made.run(feeds)["features"], rtol=1e-5, atol=1e-6)


def test_restored_from_its_state_and_from_no_less() -> None:
    made = rebuild(_small())
    feeds = {"image": _rng(2, 3, 8, 8)}
    assert np.array_equal(made.restored(made.state)(feeds)["features"], made.run(feeds)["features"])
    less = {key: tensor for key, tensor in made.state.items() if key != "type_.bias"}
    with pytest.raises(TargetError, match=r"type_\.bias"):
        made.restored(less)


def test_an_unsupported_operator_names_node_and_layer() -> None:
    node = helper.make_node("Bernoulli", ["x"], ["y"], name="toss")
    drawn = _plain([node], {"x": [2, 3]}, {"y": [2, 3]}, {})
    with pytest.raises(Unsupported, match=r"Bernoulli \(node '.*', layer 'a/layer'\)"):
        rebuild(drawn)


def test_sizes_are_numbers_not_tensors() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["r"]),
        helper.make_node("Mul", ["r", "scale"], ["y"]),
    ]
    constants = {
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([3, 2, 2]),
    }
    drawn = _plain(
        nodes, {"x": ["batch", 12]}, {"y": ["batch", 3, 2, 2]}, {"scale": _rng(3, 2, 2)}, constants
    )
    made = rebuild(drawn)
    assert "torch.tensor" not in made.text
    assert "torch.cat" not in made.text
    assert set(made.state) == {"scale"}
    feeds = {"x": _rng(4, 12)}
    assert np.allclose(made.run(feeds)["y"], feeds["x"].reshape(4, 3, 2, 2) * _rng(3, 2, 2))
    assert np.allclose(made.called(made.program.module())(feeds)[0], made.run(feeds)["y"])


def test_constants_are_kept_and_not_counted() -> None:
    nodes = [helper.make_node("Mul", ["x", "mask"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"])]
    mask = _rng(6, 6)
    drawn = _plain(nodes, {"x": [2, 6, 6]}, {"y": [2, 6, 6]}, {"w": _rng(6)}, {"mask": mask})
    made = rebuild(drawn)
    assert made.constants == {"mask"}
    assert made.parameters == drawn.parameters == 6
    assert np.array_equal(made.state["mask"].numpy(), mask)
    assert [name for name, _ in made.module.named_parameters()] == ["w"]


def test_a_weight_with_two_readers_is_one_parameter() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "c/kernel"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "c/kernel"], ["y"]),
    ]
    drawn = _plain(nodes, {"x": [2, 3, 6, 6]}, {"y": [2, 3, 6, 6]}, {"c/kernel": _rng(3, 3, 1, 1)})
    made = rebuild(drawn)
    assert list(made.state) == ["c.weight"]
    assert made.text.count("nn.Conv2d") == 1
    assert made.text.count("self.c(") == 2


@pytest.mark.parametrize(
    "case",
    [c for c in node_cases() if c.op in ("LSTM", "GRU", "RNN") and len(c.model.graph.node) == 1],
    ids=lambda case: case.name,
)
def test_recurrent_layers_with_weights(case: NodeCase) -> None:
    drawn = plain(piece_of(case, True), None)
    made = rebuild(drawn)
    given = {a.name for a in case.model.graph.node[0].attribute}
    spelled = (case.op == "GRU" and "linear_before_reset" not in given) or "peepholes" in case.name
    assert (f"nn.{case.op}(" in made.text) is not spelled
    got = made.run({spec.name: case.feeds[spec.name] for spec in drawn.inputs})
    for name, wanted in case.expected.items():
        assert np.allclose(got[name], wanted, rtol=1e-5, atol=1e-6)


def test_packed_projections_keep_their_names() -> None:
    node = helper.make_node("MatMul", ["x", "attention.in_proj_weight"], ["y"])
    drawn = _plain([node], {"x": [2, 3, 4]}, {"y": [2, 3, 12]}, {"attention.in_proj_weight": _rng(4, 12)})
    made = rebuild(drawn)
    assert list(made.state) == ["attention.in_proj_weight"]
    assert np.array_equal(made.state["attention.in_proj_weight"].numpy(), _rng(4, 12).T)
    x = _rng(2, 3, 4, seed=1)
    assert np.allclose(made.run({"x": x})["y"], x @ _rng(4, 12), rtol=1e-5, atol=1e-6)


def test_names_of_modules_are_left_to_them() -> None:
    from converter.rebuilding.torch.tree import RESERVED

    own = {name for name in dir(torch.nn.Module()) if not name.startswith("_")}
    assert own <= RESERVED
