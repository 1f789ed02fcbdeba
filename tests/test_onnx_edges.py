"""What ONNX files do besides plain layers: odd names, odd types, odd places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import converter
from converter.cli import app
from converter.errors import ConverterError, CutError, TargetError, UsageError, ValidationError
from converter.pipeline import whole
from converter.planning import plan
from converter.sources.onnx import open_onnx_file
from fixtures.onnx_text import saved


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


# ---------------------------------------------------------------- other opsets


def test_lowering_inside_branches_takes_no_names_from_outside(tmp_path: Path) -> None:
    text = """g (float[3] x) => (float[3] y)
        { val_0 = Relu(x) val_1 = Neg(x) s = ReduceSum<keepdims=0>(x) c = Greater(s, z)
          y = If(c)<then_branch = t () => (float[3] a) { i = Mish(val_0) a = Identity(i) },
                    else_branch = e () => (float[3] b) { j = Mish(val_1) b = Identity(j) }> }"""
    path = saved(text, tmp_path, weights={"z": np.float32(0)})
    converter.load(path).cut(opset=17).save(tmp_path / "out")
    onnx.checker.check_model(onnx.load(tmp_path / "out/model.onnx"), full_check=True)


def test_functions_go_to_the_opset_with_the_model(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[2] y) { a = Relu(x) y = loc.f(a) }
        <domain: "loc", opset_import: ["": 18]> f (p) => (q)
            { i = Constant<value_ints=[1]>() q = ReduceMean<keepdims=0>(p, i) }"""
    converter.load(saved(text, tmp_path, '"": 18, "loc": 1')).cut(opset=15).save(tmp_path / "out")
    model = onnx.load(tmp_path / "out/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.functions[0].opset_import if o.domain == ""] == [15]


@pytest.mark.parametrize("opset", [15, 21])
def test_the_other_name_of_the_standard_domain(opset: int, tmp_path: Path) -> None:
    text = "g (float[2, 3] x) => (float[2, 1] y) { a = Relu(x) y = ReduceMean(a, i) }"
    path = saved(text, tmp_path, '"ai.onnx": 18', {"i": np.array([1])})
    assert converter.load(path).cut(split="a", opset=opset).save(tmp_path / "out").status == "passed"
    onnx.checker.check_model(onnx.load(tmp_path / "out/head.onnx"), full_check=True)


@pytest.mark.parametrize("opset", [15, 21])
def test_sequences_in_another_opset(opset: int, tmp_path: Path) -> None:
    text = """g (float[4, 3] x) => (float[4, 3] y)
        { s = SplitToSequence(x) k = SequenceLength(s) f = Cast<to=1>(k) y = Add(x, f) }"""
    assert converter.load(saved(text, tmp_path)).cut(opset=opset).validate().passed


def test_strings_in_another_opset(tmp_path: Path) -> None:
    text = """g (string[3] x) => (bool[3] y) { e = Equal(x, s) y = Not(e) }"""
    path = saved(text, tmp_path, '"": 21', {"s": np.array(["alpha"], object)})
    converter.load(path).cut(opset=20).save(tmp_path / "out", validate=False)
    model = onnx.load(tmp_path / "out/model.onnx")
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == ["alpha"]


def test_normalisation_whose_mean_is_read_is_refused(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[2, 1] m) { y, m = LayerNormalization(x, s) }"""
    cut = converter.load(saved(text, tmp_path, '"": 17', {"s": np.ones(3, np.float32)}))
    with pytest.raises(TargetError, match="LayerNormalization"):
        cut.cut(opset=16)


def test_own_metadata_stays_and_is_not_doubled(tmp_path: Path) -> None:
    path = saved("g (float[3] x) => (float[3] y) { a = Relu(x) b = Tanh(a) y = Neg(b) }", tmp_path)
    proto = onnx.load(path)
    proto.metadata_props.add(key="author", value="me")
    proto.producer_name, proto.doc_string = "somebody", "words"
    onnx.save(proto, path)
    converter.load(path).cut(to="b", opset=17).save(tmp_path / "1")
    converter.load(tmp_path / "1/trunk.onnx").cut(to="a").save(tmp_path / "2")
    for number in "12":
        model = onnx.load(tmp_path / number / "trunk.onnx")
        onnx.checker.check_model(model)
        keys = [entry.key for entry in model.metadata_props]
        assert len(keys) == len(set(keys))
        assert "author" in keys
        assert (model.producer_name, model.doc_string, model.graph.name) == ("somebody", "words", "g")


# ---------------------------------------------------------------- what nodes are


def test_operators_of_other_domains_are_not_taken_for_standard_ones(tmp_path: Path) -> None:
    text = """g (float[batch, 4] x) => (float[batch, 4] y)
        { a = Neg(x) b = loc.Shape<start=0, end=1>(x) y = Add(a, b) }
        <domain: "loc", opset_import: ["": 18]> Shape (p) => (q) { q = Sin(p) }"""
    cut = converter.load(saved(text, tmp_path, '"": 18, "loc": 1')).cut(split="a")
    assert cut.frontier == ("a", "x")
    assert cut.validate().passed


def test_shape_before_it_had_bounds(tmp_path: Path) -> None:
    text = """g (float[batch] x) => (float[batch, three] y)
        { s = Shape(x) a = Neg(x) b = Unsqueeze(a, one) e = Concat<axis=0>(s, n) y = Expand(b, e) }"""
    path = saved(text, tmp_path, '"": 13', {"one": np.array([1]), "n": np.array([3])})
    assert converter.load(path).cut(split="a").validate().passed


def test_outputs_that_are_weights(tmp_path: Path) -> None:
    text = "g (float[batch, 4] x) => (float[batch, 4] y, float[2] w) { a = Relu(x) y = Tanh(a) }"
    path = saved(text, tmp_path, weights={"w": np.array([1, 2], np.float32)})
    document = converter.load(path).cut(split="a").save(tmp_path / "out", validate=False)
    assert document.status == "UNVALIDATED"
    x = np.ones((1, 4), np.float32)
    y, w = ort.InferenceSession(tmp_path / "out/head.onnx").run(None, {"a": x})
    assert (y.shape, w.tolist()) == ((1, 4), [1, 2])
    assert plan(whole(open_onnx_file(path))).cuts


def test_notes_of_types_that_are_stale(tmp_path: Path) -> None:
    path = saved("g (float[batch, 4] x) => (float[batch, 4] y) { a = Relu(x) y = Tanh(a) }", tmp_path)
    proto = onnx.load(path)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [1, 4]))
    onnx.save(proto, path)
    cut = converter.load(path).cut(split="a")
    assert cut.pieces[1].inputs[0].shape == ("batch", 4)
    assert cut.validate().passed


def test_types_of_the_runtimes_own_operators(tmp_path: Path) -> None:
    text = """g (float[batch, 4] x) => (float[batch, 4] y)
        { a = Relu(x) b = com.microsoft.QuickGelu(a) y = Neg(b) }"""
    path = saved(text, tmp_path, '"": 18, "com.microsoft": 1')
    cut = converter.load(path).cut(split="b")
    assert cut.pieces[1].inputs[0].dtype == "float32"
    assert cut.validate().passed


# ---------------------------------------------------------------- samples and comparisons


def test_strings_and_scalars_as_inputs(tmp_path: Path) -> None:
    text = """g (float t, string[batch] s) => (float[batch] y)
        { e = Equal(s, w) f = Cast<to=1>(e) y = Add(f, t) }"""
    path = saved(text, tmp_path, '"": 19', {"w": np.array(["alpha"], object)})
    assert converter.load(path).cut(to="y").validate().passed


@pytest.mark.parametrize("kind", ["seq(float[2])", "optional(float[2])"])
def test_inputs_that_no_samples_can_be_drawn_for(kind: str, tmp_path: Path) -> None:
    use = "SequenceLength(x)" if kind.startswith("seq") else "OptionalHasElement(x)"
    path = saved(f"g ({kind} x) => (int64 y) {{ a = {use} y = Cast<to=7>(a) }}", tmp_path)
    cut = converter.load(path).cut(to="a")
    with pytest.raises(ValidationError, match="no samples can be drawn"):
        cut.validate()
    cut.save(tmp_path / "out", validate=False)


def test_symbols_that_inputs_share(tmp_path: Path) -> None:
    text = """g (float[b, 3, h, w] x, float[b, h, w] mask, float[q, q] z)
        => (float[b, 3, h, w] y, float[q, q] v)
        { m = Unsqueeze(mask, one) y = Mul(x, m) v = MatMul(z, z) }"""
    path = saved(text, tmp_path, weights={"one": np.array([1])})
    assert converter.load(path).cut(to="m").validate().passed
    assert converter.load(path).cut().validate().passed


def test_empty_outputs_agree_and_prove_nothing(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[n] z) { y = Relu(x) f = Less(y, zero)
        c = Reshape(f, flat) d = Reshape(y, flat) z = Compress(d, c) }"""
    path = saved(text, tmp_path, weights={"zero": np.float32(0), "flat": np.array([-1])})
    assert converter.load(path).cut().validate().passed
    proof = converter.load(path).cut(to="z").validate()
    assert not proof.passed
    assert {comparison.problem for comparison in proof.comparisons} == {"both are empty"}


def test_types_that_numpy_has_not_are_named(tmp_path: Path) -> None:
    path = saved("g (float[4] x) => (float[4] y) { a = Cast<to=16>(x) y = Cast<to=1>(a) }", tmp_path)
    cut = converter.load(path).cut(split="a")
    with pytest.raises(ValidationError, match="bfloat16"):
        cut.validate()
    cut.save(tmp_path / "out", validate=False)


# ---------------------------------------------------------------- names


def blocks(folder: Path) -> Path:
    path = saved("g (float[4] x) => (float[4] y) { t1 = Relu(x) t2 = Tanh(t1) y = Neg(t2) }", folder)
    proto = onnx.load(path)
    for node, name in zip(
        proto.graph.node, ("model/block1/conv/Relu", "model/block2/conv/Tanh", "last"), strict=True
    ):
        node.name = name
    path.write_bytes(proto.SerializeToString())
    return path


def test_ends_of_names_beside_globs_and_mistakes(tmp_path: Path) -> None:
    source = converter.load(blocks(tmp_path))
    assert source.cut(from_="block1", to="model/block2/con*").pieces[0].nodes == 1
    with pytest.raises(CutError, match="no layer is called 'block9'"):
        source.cut(from_="block1", to="block9")
    with pytest.raises(CutError, match="model/block1/conv"):
        source.cut(to="conv")


def test_globs_of_tensors(tmp_path: Path) -> None:
    cut = converter.load(blocks(tmp_path)).cut(to="t?")
    assert [spec.name for spec in cut.pieces[0].outputs] == ["t1", "t2"]


@pytest.mark.parametrize("name", ["last@²", "last@99", "@0", "*/*/*/*/*", "[", "a" * 300])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    source = converter.load(blocks(tmp_path))
    with pytest.raises(CutError):
        source.cut(to=name)


def test_markup_in_names(tmp_path: Path) -> None:
    proto = onnx.load(saved("g (float[n, 4] x) => (float[n, 4] y) { a = Relu(x) y = Neg(a) }", tmp_path))
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = "a[/b]"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "[/q]"
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "[/q]"
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    result = run("convert", path, "--to", "a[/b]", "--output", tmp_path / "out")
    assert (result.exit_code, "a[/b]" in result.output) == (0, True), result.output
    assert run("plan", path).exit_code == 0


# ---------------------------------------------------------------- the planner


def test_inputs_that_cross_are_counted(tmp_path: Path) -> None:
    path = saved("g (float[1, 4] x) => (float[1, 4] y) { a = Relu(x) b = Neg(a) y = Add(b, x) }", tmp_path)
    costs = {cost.layer: cost for cost in plan(whole(open_onnx_file(path))).cuts}
    assert [spec.name for spec in costs["b"].crossing] == ["b", "x"]
    assert costs["b"].crossing_bytes == 32


@pytest.mark.parametrize("sizes", [{"nope": (1, 2)}, {"x": (1,)}, {"x": (1, 7)}, {"x": (1, 4, 1)}])
def test_sizes_that_no_input_has(sizes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path = saved("g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }", tmp_path)
    with pytest.raises(UsageError):
        plan(whole(open_onnx_file(path)), sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "x=²x3"],
        ["--shape", "x=99999999999999999999x3"],
        ["--max-macs", "inf"],
        ["--plot", "/nonexist/x.svg"],
    ],
)
def test_arguments_of_the_planner_that_are_none(arguments: list[str], tmp_path: Path) -> None:
    path = saved("g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }", tmp_path)
    result = run("plan", path, *arguments)
    assert (result.exit_code, result.output.startswith("error:") or "error:" in result.output) == (2, True)


def test_attention_of_the_runtime_is_not_taken_for_nothing(tmp_path: Path) -> None:
    text = """g (float[1, 4, 8] x) => (float[1, 4, 8] y)
        { y = com.microsoft.MultiHeadAttention<num_heads=2>(x, x, x) }"""
    assert plan(whole(open_onnx_file(saved(text, tmp_path, '"": 18, "com.microsoft": 1')))).uncounted == (
        "y",
    )


def test_errors_are_ours(tmp_path: Path) -> None:
    text = "g (float[1, 4] x) => (float[1, 4] y) { u = loc.Foo(x) y, z = Scan<num_scan_inputs=1, body = b "
    text += "(float[4] s, float[4] e) => (float[4] t, float[4] o) { t = Add(s, e) o = Neg(t) }>(x, u) }"
    path = saved(text, tmp_path, '"": 18, "loc": 1')
    try:
        made = plan(whole(open_onnx_file(path)))
    except ConverterError:
        return
    assert made.uncounted
