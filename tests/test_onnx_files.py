"""ONNX files as sources: what is in them, how parts are named, what survives a cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import converter
from converter.errors import CutError, SourceError, TargetError, UsageError, ValidationError
from fixtures.onnx_text import model


def saved(proto: onnx.ModelProto, folder: Path, name: str = "net.onnx", **options: Any) -> Path:
    path = folder / name
    onnx.save(proto, path, **options)
    return path


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


CHAIN = """g (float[batch, 4] x) => (float[batch, 3] y)
    { a = MatMul(x, w) b = Relu(a) c = Tanh(b) y = MatMul(c, v) }"""
WEIGHTS = {"w": random(4, 5), "v": random(5, 3, seed=1)}


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    proto = model(CHAIN, weights=WEIGHTS)
    for node, name in zip(proto.graph.node, ("first", "relu", "tanh", "last"), strict=True):
        node.name = name
        node.doc_string = f"doc of {name}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "mine", name
    helper.set_model_props(proto, {"author": "me"})
    proto.doc_string = "about the model"
    proto.graph.doc_string = "about the graph"
    proto.opset_import.append(helper.make_opsetid("unused.domain", 3))
    return saved(proto, tmp_path)


def test_trunk_and_what_survives(chain: Path, tmp_path: Path) -> None:
    document = converter.load(chain).cut(to="relu").save(tmp_path / "out")
    assert document.status == "passed"
    trunk = onnx.load(tmp_path / "out/trunk.onnx")
    onnx.checker.check_model(trunk, full_check=True)
    assert [node.name for node in trunk.graph.node] == ["first", "relu"]
    whole = onnx.load(chain)
    assert list(trunk.graph.node) == list(whole.graph.node[:2])  # doc strings and metadata with them
    assert list(trunk.graph.initializer) == [whole.graph.initializer[0]]
    assert (trunk.doc_string, trunk.graph.doc_string) == ("about the model", "about the graph")
    facts = {entry.key: entry.value for entry in trunk.metadata_props}
    assert facts["author"] == "me"
    assert facts["converter.trunk"] == "x: float32[batch, 4]"
    assert [(o.domain, o.version) for o in trunk.opset_import] == [("", 18)]
    assert [value.name for value in trunk.graph.output] == ["b"]


@pytest.mark.parametrize("name", ["relu", "b"])
def test_nodes_and_tensors_are_names(chain: Path, name: str) -> None:
    cut = converter.load(chain).cut(split=name)
    assert cut.frontier == ("b",)
    assert cut.validate().passed
    assert [piece.nodes for piece in cut.pieces] == [2, 2]
    assert [piece.parameters for piece in cut.pieces] == [20, 15]


def test_heads_segments_and_errors(chain: Path) -> None:
    source = converter.load(chain)
    assert source.cut(from_="relu").validate().passed
    assert source.cut(from_="first", to="tanh").validate().passed
    with pytest.raises(CutError, match="nearest names are relu"):
        source.cut(to="rely")
    with pytest.raises(CutError, match="empty"):
        source.cut(from_="last")
    with pytest.raises(CutError, match="input of the model"):
        source.cut(to="x")
    with pytest.raises(TargetError, match=r"converter\[tensorrt\]"):
        source.cut(to="relu").save("nowhere", targets=["tensorrt"])
    assert [layer.name for layer in source.layers] == ["first", "relu", "tanh", "last"]


def test_a_wrong_file_fails_validation(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.onnxfile import writer

    def other(*arguments: Any, **options: Any) -> list[Path]:
        files = real(*arguments, **options)
        content = bytearray(files[0].read_bytes())
        place = content.index(WEIGHTS["w"].tobytes())
        content[place + 3] ^= 1
        files[0].write_bytes(content)
        return files

    real = writer.write_excerpt
    monkeypatch.setattr("converter.targets.onnx.write_excerpt", other)
    with pytest.raises(ValidationError, match="scaled error"):
        converter.load(chain).cut(to="relu").save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- one output of several

SPLIT = """g (float[2, 6] x) => (float[2, 2] y)
    { h = Relu(x) a, b, c = Split<axis=1, num_outputs=3>(h) d = Mul(a, b) y = Add(d, c) }"""
SEVERAL = {
    "split": (SPLIT, ["a"], ("a", "h")),
    "split_all": (SPLIT, ["a", "b", "c"], ("a", "b", "c")),
    "split_given": (SPLIT, ["a", "h"], ("a", "h")),
    "max_pool": (
        """g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
        { h = Tanh(x) p, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(h)
          y = MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(p, i) }""",
        ["p"],
        ("p", "h"),
    ),
    "unique": (
        """g (float[5] x) => (float[n] u, int64[n] i, int64[m] r)
        { h = Round(x) u, j, k, c = Unique<sorted=1>(h) i = Identity(j) z = Mul(k, k) r = Add(z, z) }""",
        ["k"],
        ("k", "h"),
    ),
    "lstm": (
        """g (float[3, 1, 2] x) => (float[3, 1, 1, 4] o, float[1, 1, 4] s)
        { t = Tanh(x) y, h, c = LSTM<hidden_size=4>(t, w, r) o = Relu(y) hc = Add(h, c) s = Relu(hc) }""",
        ["h"],
        ("h", "t"),
    ),
    "if": (
        """g (float[4] x, bool q) => (float[4] y)
        { h = Abs(x) a, b = If(q)<
            then_branch = t () => (float[4] ta, float[4] tb) { ta = Relu(h) tb = Neg(h) },
            else_branch = e () => (float[4] ea, float[4] eb) { ea = Neg(h) eb = Relu(h) }>
          y = Sub(a, b) }""",
        ["a"],
        ("a", "h", "q"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_one_output_of_several(case: str, tmp_path: Path) -> None:
    body, names, crossing = SEVERAL[case]
    weights = {"w": random(1, 16, 2), "r": random(1, 16, 4, seed=2)} if case == "lstm" else None
    cut = converter.load(saved(model(body, weights=weights), tmp_path)).cut(split=names)
    assert sorted(cut.frontier) == sorted(crossing)
    document = cut.save(tmp_path / "out")
    assert document.status == "passed"
    for role in ("trunk", "head"):
        onnx.checker.check_model(onnx.load(tmp_path / f"out/{role}.onnx"), full_check=True)


def test_the_head_from_one_output_of_several(tmp_path: Path) -> None:
    """Silently wrong in graphsurgeon and polygraphy: `a` fed, yet computed again beside `b`."""
    path = saved(model(SPLIT), tmp_path)
    with pytest.raises(CutError, match="h: float32"):
        converter.load(path).cut(from_="a")
    converter.load(path).cut(from_="a", frontier=True).save(tmp_path / "out")
    session = ort.InferenceSession(tmp_path / "out/head.onnx", providers=["CPUExecutionProvider"])
    h, a = np.abs(random(2, 6)), random(2, 2, seed=3)
    got = session.run(None, {"a": a, "h": h})[0]
    np.testing.assert_allclose(got, a * h[:, 2:4] + h[:, 4:], rtol=1e-6)


# ---------------------------------------------------------------- everything that may be in a file

KINDS: dict[str, tuple[onnx.ModelProto, str]] = {
    "captured": (
        model(
            """g (float[4] x, bool q) => (float[4] y)
            { h = Relu(x) k = Exp(x) r = If(q)<
                then_branch = t () => (float[4] o) { i = Add(h, w)
                    o = If(q)<then_branch = tt () => (float[4] p) { p = Mul(i, k) },
                              else_branch = te () => (float[4] p) { p = Sub(i, k) }> },
                else_branch = e () => (float[4] o) { o = Sub(h, k) }>
              y = Neg(r) }""",
            weights={"w": random(4)},
        ),
        "h",
    ),
    "loop": (
        model(
            """g (float[4] x) => (float[4] y)
            { h = Abs(x) s = Sqrt(h) n = Constant<value_ints=[3]>() c = Constant<value=bool {1}>()
              m = Squeeze(n)
              r = Loop(m, c, h)<body = b (int64 i, bool d, float[4] v) => (bool d2, float[4] v2)
                { d2 = Identity(d) v2 = Add(v, s) }>
              y = Relu(r) }"""
        ),
        "s",
    ),
    "scan": (
        model(
            """g (float[3, 2] x) => (float[2] y, float[3, 2] z)
            { h = Relu(x) k = Tanh(x) o = ReduceSum<keepdims=0>(k, zero)
              y, z = Scan<num_scan_inputs=1, body = b (float[2] s, float[2] e) => (float[2] t, float[2] u)
                { a = Add(s, e) t = Mul(a, o) u = Identity(t) }>(o, h) }""",
            weights={"zero": np.array([0])},
        ),
        "h",
    ),
    "sequence": (
        model(
            """g (float[2, 3] x, float[2, 3] z) => (float[2, 6] y)
            { h = Relu(x) s = SequenceConstruct(h, z) t = SequenceInsert(s, z) u = SequenceErase(t)
              y = ConcatFromSequence<axis=1>(u) }"""
        ),
        "s",
    ),
    "sparse": (
        model("g (float[3, 4] x) => (float[3, 4] y) { h = Relu(x) k = Add(h, w) y = Tanh(k) }"),
        "k",
    ),
    "ir3": (
        model(
            "g (float[2, 4] x, float[4, 5] w, float[5, 3] v) => (float[2, 3] y) "
            "{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }",
            opsets='"": 8',
            weights=WEIGHTS,
        ),
        "b",
    ),
    "opset7": (
        model("g (float[2, 4] x) => (float[2, 3] y) { a = MatMul(x, w) b = Dropout(a) y = MatMul(b, v) }",
              opsets='"": 7', weights=WEIGHTS),
        "b",
    ),
    "local_functions": (
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["": 18, "mine": 1]>
            g (float[2, 4] x) => (float[2, 4] y) { a = mine.twice(x) b = Relu(a) y = mine.inner(b) }
            <domain: "mine", opset_import: ["": 18, "mine": 1]>
            twice (p) => (q) { r = mine.inner(p) q = Add(r, p) }
            <domain: "mine", opset_import: ["": 18]> inner (p) => (q) { q = Sin(p) }
            <domain: "mine", opset_import: ["": 18]> unused (p) => (q) { q = Cos(p) }"""
        ),
        "b",
    ),
    "bfloat16": (
        model(
            "g (float[2, 4] x) => (float[2, 4] y) { a = Cast<to=16>(x) b = Cast<to=1>(a) c = Add(b, d) "
            "d0 = Cast<to=1>(w) e = Mul(c, d0) y = Relu(e) }",
            weights={"w": helper.make_tensor("w", TensorProto.BFLOAT16, [4], [1, 2, 3, 4]), "d": random(4)},
        ),
        "c",
    ),
    "float8": (
        model(
            "g (float[2, 4] x) => (float[2, 4] y) { f = Cast<to=1>(w) a = Add(x, f) y = Relu(a) }",
            opsets='"": 19',
            weights={"w": helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [4], [0.5, 2, 3, 4])},
        ),
        "a",
    ),
    "int4": (
        model(
            "g (float[2, 4] x) => (float[2, 4] y) { f = DequantizeLinear(w, s) a = Add(x, f) y = Tanh(a) }",
            opsets='"": 21',
            weights={
                "w": helper.make_tensor("w", TensorProto.INT4, [4], [1, -2, 3, -4]),
                "s": np.float32(0.25),
            },
        ),
        "a",
    ),
    "typed": (
        model(
            "g (float[2, 4] x) => (float[2, 3] y) "
            "{ a = MatMul(x, w) r = Reshape(a, s) b = Relu(r) y = MatMul(b, v) }",
            weights={
                "w": helper.make_tensor("w", TensorProto.FLOAT, [4, 5], WEIGHTS["w"].reshape(-1).tolist()),
                "v": WEIGHTS["v"],
                "s": helper.make_tensor("s", TensorProto.INT64, [2], [2, -1]),
            },
        ),
        "b",
    ),
    "strings": (
        onnx.parser.parse_model(
            """<ir_version: 9, opset_import: ["": 20]>
            g (float[3] x) => (bool[3] y) { h = Round(x) s = Cast<to=8>(h) t = StringConcat(s, s)
              u = RegexFullMatch<pattern="(0|1|-0).*">(t) y = Not(u) }"""
        ),
        "t",
    ),
    "no_names": (model("g (float[3] x) => (float[3] y) { a = Relu(x) b = Exp(a) y = Sin(b) }"), "b"),
}  # fmt: skip


def _with_sparse(proto: onnx.ModelProto) -> onnx.ModelProto:
    values = numpy_helper.from_array(np.array([1.0, 2.0, -3.0], np.float32), "w")
    indices = numpy_helper.from_array(np.array([1, 5, 7]), "w_indices")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3, 4]))
    return proto


_with_sparse(KINDS["sparse"][0])
KINDS["ir3"][0].ir_version = 3


@pytest.mark.parametrize("case", KINDS)
def test_kinds_of_files(case: str, tmp_path: Path) -> None:
    proto, name = KINDS[case]
    cut = converter.load(saved(proto, tmp_path)).cut(split=name)
    document = cut.save(tmp_path / "out")
    assert document.status == "passed"
    for role in ("trunk", "head"):
        piece = onnx.load(tmp_path / f"out/{role}.onnx")
        if case != "sparse":  # the checker itself refuses sparse tensors as inputs of Add
            onnx.checker.check_model(piece, full_check=True)
        assert piece.ir_version == proto.ir_version


def test_functions_that_are_not_called_go(tmp_path: Path) -> None:
    path = saved(KINDS["local_functions"][0], tmp_path)
    converter.load(path).cut(split="b").save(tmp_path / "out")
    functions = {
        role: {f.name for f in onnx.load(tmp_path / f"out/{role}.onnx").functions}
        for role in ("trunk", "head")
    }
    assert functions == {"trunk": {"twice", "inner"}, "head": {"inner"}}


def test_weights_that_are_inputs_stay_inputs(tmp_path: Path) -> None:
    path = saved(KINDS["ir3"][0], tmp_path)
    source = converter.load(path)
    assert [spec.name for spec in source.inputs] == ["x"]
    source.cut(to="b").save(tmp_path / "out")
    trunk = onnx.load(tmp_path / "out/trunk.onnx")
    assert [value.name for value in trunk.graph.input] == ["x", "w"]


def test_nodes_out_of_order(tmp_path: Path) -> None:
    proto = model(CHAIN, weights=WEIGHTS)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    converter.load(path).cut(split="b").save(tmp_path / "out")
    onnx.checker.check_model(onnx.load(tmp_path / "out/head.onnx"))


def test_chance_decides_once(tmp_path: Path) -> None:
    body = """g (float[64] x) => (float[64] y)
        { n = RandomNormalLike(x) a = Relu(n) b = Mul(a, x) c = Sub(b, n) y = Add(c, n) }"""
    cut = converter.load(saved(model(body), tmp_path)).cut(split="b")
    assert sorted(cut.frontier) == ["b", "n"]
    cut.save(tmp_path / "out", validate=False)
    assert "RandomNormalLike" not in {
        node.op_type for node in onnx.load(tmp_path / "out/head.onnx").graph.node
    }


# ---------------------------------------------------------------- quantised graphs


def quantised() -> onnx.ModelProto:
    body = """g (float[2, 4] x) => (float[2, 3] y)
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear(w, s, z)
          a = MatMul(d, wd) r = Relu(a) rq = QuantizeLinear(r, s, z) rd = DequantizeLinear(rq, s, z)
          rd2 = DequantizeLinear(rq, s, z) b = MatMul(rd, v) c = ReduceSum(rd2, one) y = Add(b, c) }"""
    rng = np.random.default_rng(0)
    return model(
        body,
        weights={
            "s": np.float32(0.02), "z": np.int8(0), "w": rng.integers(-90, 90, (4, 5)).astype(np.int8),
            "v": random(5, 3), "one": np.array([1]),
        },
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rq", "rd", "r"])
def test_pairs_of_quantisation_stay_whole(name: str, tmp_path: Path) -> None:
    cut = converter.load(saved(quantised(), tmp_path)).cut(split=name)
    assert set(cut.frontier) == ({"r"} if name == "r" else {"rd", "rd2"})
    cut.save(tmp_path / "out")
    for role in ("trunk", "head"):
        graph = onnx.load(tmp_path / f"out/{role}.onnx").graph
        made = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear"}
        undone = {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"} - {"w"}
        assert made == undone


# ---------------------------------------------------------------- names that exporters leave


def test_scopes_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from fixtures.torch_models import build

    net, example = build("residual")
    torch.onnx.export(
        net.eval(), (example,), tmp_path / "net.onnx", dynamo=True, verbose=False, external_data=False
    )
    source = converter.load(tmp_path / "net.onnx")
    names = {layer.name for layer in source.layers}
    modules = {name for name, _ in net.named_modules() if name}
    assert len(names & modules) >= 3
    name = sorted(names & modules)[0]
    cut = source.cut(to=name)
    assert cut.validate().passed
    x = torch.randn(example.shape)
    outputs: dict[str, Any] = {}
    dict(net.named_modules())[name].register_forward_hook(
        lambda m, i, o: outputs.update(o=o.detach().clone())
    )
    with torch.no_grad():
        net(x)
    cut.save(tmp_path / "out")
    session = ort.InferenceSession(tmp_path / "out/trunk.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(got, outputs["o"].numpy(), rtol=1e-4, atol=1e-5)


TORCHSCRIPT = ["/layer3/layer3.0/conv1/MatMul", "/layer3/layer3.0/act/Relu", "/fc/Tanh", "/fc/MatMul"]
TF2ONNX = ["model/block1/MatMul", "model/block1/Relu", "model/act/Tanh", "model/out/MatMul"]


@pytest.mark.parametrize(
    ("names", "asked", "wanted"),
    [
        (TORCHSCRIPT, "layer3", "b"),
        (TORCHSCRIPT, "layer3.0.act", "b"),
        (TF2ONNX, "block1", "b"),
        (TF2ONNX, "model/act", "c"),
    ],
)  # fmt: skip
def test_scopes_in_node_names(names: list[str], asked: str, wanted: str, tmp_path: Path) -> None:
    proto = model(CHAIN, weights=WEIGHTS)
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    cut = converter.load(saved(proto, tmp_path)).cut(to=asked)
    assert [spec.name for spec in cut.pieces[0].outputs] == [wanted]
    assert cut.validate().passed


def test_nodes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    proto = model(CHAIN, weights=WEIGHTS)
    proto.graph.node[1].name = proto.graph.node[2].name = "same"
    source = converter.load(saved(proto, tmp_path))
    with pytest.raises(CutError, match="called 2 times: same@0, same@1"):
        source.cut(to="same")
    # ONNX Runtime itself takes no two nodes of one name.
    assert [spec.name for spec in source.cut(to="same@1").pieces[0].outputs] == ["c"]


def test_our_own_files_are_sources(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    net = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"),
                            keras.layers.ReLU(name="act"), keras.layers.Flatten(name="flat"),
                            keras.layers.Dense(5, name="out")])  # fmt: skip
    converter.load(net).cut().save(tmp_path / "whole")
    again = converter.load(tmp_path / "whole/model.onnx").cut(to="act")
    again.save(tmp_path / "cut")
    x = random(2, 8, 8, 3)
    session = ort.InferenceSession(tmp_path / "cut/trunk.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x})[0]
    expected = np.asarray(keras.Model(net.inputs, net.get_layer("act").output)(x))
    if got.shape != expected.shape:
        got = got.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- weights outside, and where they go


def large(folder: Path, **options: Any) -> Path:
    body = "g (float[2, 40] x) => (float[2, 30] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    return saved(model(body, weights={"w": random(40, 50), "v": random(50, 30, seed=1)}), folder, **options)


OUTSIDE = {"save_as_external_data": True, "location": "net.weights", "size_threshold": 0}


@pytest.mark.parametrize(
    "options", [{}, OUTSIDE, {**OUTSIDE, "size_threshold": 7000}], ids=["in", "out", "both"]
)
@pytest.mark.parametrize("where", ["auto", "always", "never"])
def test_weights_inside_and_outside(options: dict[str, Any], where: str, tmp_path: Path) -> None:
    path = large(tmp_path, **options)
    document = converter.load(path).cut(to="b").save(tmp_path / "out", external_data=where)
    assert document.status == "passed"
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["report.html", "report.json", "trunk.onnx"] + (
        ["trunk.onnx.data"] if where == "always" else []
    )
    (weight,) = onnx.load(tmp_path / "out/trunk.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(weight), random(40, 50))


def test_link(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = large(tmp_path / "model", **OUTSIDE)
    before = (tmp_path / "model/net.weights").read_bytes()
    for home, location in ((tmp_path / "model", "net.weights"), (tmp_path, "model/net.weights")):
        assert converter.load(path).cut(split="b").save(home, link=True).status == "passed"
        assert (home / "trunk.onnx").stat().st_size < 2000
        (weight,) = onnx.load(home / "trunk.onnx", load_external_data=False).graph.initializer
        assert {e.key: e.value for e in weight.external_data}["location"] == location
        assert np.array_equal(
            numpy_helper.to_array(onnx.load(home / "trunk.onnx").graph.initializer[0]), random(40, 50)
        )
    assert (tmp_path / "model/net.weights").read_bytes() == before
    onnx.load(path)  # which refuses data files with hard links


def test_link_where_it_cannot_be(tmp_path: Path) -> None:
    path = large(tmp_path, **OUTSIDE)
    cut = converter.load(path).cut(to="b")
    with pytest.raises(TargetError, match="lies outside"):
        cut.save(tmp_path / "out", link=True)
    with pytest.raises(UsageError, match="does not go with it"):
        cut.save(tmp_path, link=True, external_data="always")
    keras = pytest.importorskip("keras")
    cut = converter.load(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])).cut(to="d")
    with pytest.raises(UsageError, match="for ONNX files"):
        cut.save(tmp_path / "x", link=True)


@pytest.mark.parametrize("name", ["trunk.onnx", "net.onnx"])
@pytest.mark.parametrize("link", [False, True])
def test_the_source_is_never_written_over(name: str, link: bool, tmp_path: Path) -> None:
    body = "g (float[2, 40] x) => (float[2, 30] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    weights = {"w": random(40, 50), "v": random(50, 30, seed=1)}
    outside = {**OUTSIDE, "location": "report.json" if name == "net.onnx" else "trunk.onnx.data"}
    path = saved(model(body, weights=weights), tmp_path, name, **outside)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(TargetError, match="written over"):
        converter.load(path).cut(to="b").save(tmp_path, link=link)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize("opset", [None, 17])
def test_constants_of_nodes_that_lie_outside(opset: int | None, tmp_path: Path) -> None:
    body = "{ w = Constant<value=float[1] {0}>() a = MatMul(x, w) y = Relu(a) }"
    proto = model(f"g (float[2, 4] x) => (float[2, 5] y) {body}")
    tensor = proto.graph.node[0].attribute[0].t
    tensor.Clear()
    tensor.dims.extend([4, 5])
    tensor.data_type, tensor.data_location = TensorProto.FLOAT, TensorProto.EXTERNAL
    (tmp_path / "c.bin").write_bytes(WEIGHTS["w"].tobytes())
    tensor.external_data.add(key="location", value="c.bin")
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    converter.load(path).cut(to="a", opset=opset).save(tmp_path / "out", validate=False)
    x = random(2, 4)
    session = ort.InferenceSession(tmp_path / "out/trunk.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ WEIGHTS["w"], rtol=1e-5)


@pytest.mark.parametrize("opset", [15, 18, 23])
def test_another_opset(chain: Path, tmp_path: Path, opset: int) -> None:
    document = converter.load(chain).cut(split="relu", opset=opset).save(tmp_path / "out")
    assert document.status == "passed"
    head = onnx.load(tmp_path / "out/head.onnx")
    assert [(o.domain, o.version) for o in head.opset_import] == [("", opset)]
    assert [node.name for node in head.graph.node] == ["tanh", "last"]


def test_symbolic_sizes_are_read_from_what_crosses(tmp_path: Path) -> None:
    body = """g (float[batch, 6] x) => (float[batch, 2, 3] y)
        { h = Relu(x) n = Shape<start=0, end=1>(x) t = Concat<axis=0>(n, r) k = Tanh(h) y = Reshape(k, t) }"""
    cut = converter.load(saved(model(body, weights={"r": np.array([2, 3])}), tmp_path)).cut(from_="h")
    assert [spec.name for spec in cut.pieces[0].inputs] == ["h"]
    assert cut.validate().passed


# ---------------------------------------------------------------- custom operators


def test_custom_operators_are_cut_and_the_message_says_what_runs_them(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "acme": 1]>
        g (float[3] x) => (float[3] y) { a = Relu(x) b = acme.Special(a) y = Tanh(b) }"""
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    source = converter.load(path)
    with pytest.raises(SourceError, match="--custom-ops LIB"):
        source.cut(to="a").validate()
    source.cut(to="a").save(tmp_path / "out", validate=False)
    trunk = onnx.load(tmp_path / "out/trunk.onnx")
    assert [o.domain for o in trunk.opset_import] == [""]
    with pytest.raises(CutError, match="of what type b is"):
        source.cut(from_="b")
    missing = converter.load(path, custom_ops=[tmp_path / "none.so"])
    with pytest.raises(ValidationError, match=r"none\.so"):
        missing.cut(to="a").validate()
    with pytest.raises(ValidationError, match="--custom-ops LIB"):
        source.cut(from_="a").validate()


def test_custom_operators_run_with_their_library(tmp_path: Path) -> None:
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "ai.onnx.contrib": 1]>
        g (float[3, 3] x) => (float[3, 3] y) { a = Tanh(x) b = ai.onnx.contrib.Inverse(a) y = Relu(b) }"""
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    source = converter.load(path, custom_ops=[library])
    assert source.cut(to="b").validate().passed
    assert source.cut(split="a").validate().passed


# ---------------------------------------------------------------- hostile files


def outside(folder: Path, **entries: Any) -> Path:
    proto = model("g (float[2, 4] x) => (float[2, 5] y) { a = MatMul(x, w) y = Relu(a) }")
    tensor = proto.graph.initializer.add(name="w", dims=[4, 5], data_type=1)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "outside of the model's folder"),
        ({"location": "sub/../../secret"}, "outside of the model's folder"),
        ({"location": "/etc/passwd"}, "outside of the model's folder"),
        ({"location": "link"}, "link out of the model's folder"),
        ({"location": "folder/passwd"}, "link out of the model's folder"),
        ({"location": "pipe"}, "no regular file"),
        ({"location": "here"}, "no regular file"),
        ({"location": "missing"}, "No such file"),
        ({}, "outside of the model's folder"),
        ({"location": "data", "offset": 21}, "reaches to byte 101"),
        ({"location": "data", "offset": -1}, "no size"),
        ({"location": "data", "offset": "9" * 30}, "no size"),
        ({"location": "data", "length": 10**15}, "its shape asks for 80"),
        ({"location": "data", "length": "0x10"}, "no size"),
        ({"location": "data\0"}, "outside"),
    ],
)  # fmt: skip
def test_external_data_that_is_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "here").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(100))
    (folder / "data").write_bytes(bytes(100))
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    path = outside(folder, **entries)
    with pytest.raises(SourceError, match=message):
        converter.load(path).cut(to="a").save(tmp_path / "out", validate=False)
    assert not (tmp_path / "out").exists()


def test_links_inside_the_folder_and_trusted_ones(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "blob").write_bytes(WEIGHTS["w"].tobytes())
    (folder / "real").write_bytes(WEIGHTS["w"].tobytes())
    (folder / "inner").symlink_to("real")
    (folder / "outer").symlink_to("../blob")
    for name, trust in (("inner", False), ("outer", True)):
        path = outside(folder, location=name)
        document = converter.load(path, trust=trust).cut(to="a").save(tmp_path / name)
        assert document.status == "passed"  # the uncut file runs with the links, too
        (weight,) = onnx.load(tmp_path / name / "trunk.onnx").graph.initializer
        assert np.array_equal(numpy_helper.to_array(weight), WEIGHTS["w"])


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "empty", "text"])
def test_files_that_are_no_models(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "this is no model")
    with pytest.raises(SourceError, match=r"net\.onnx"):
        converter.load(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("g (float[2] x) => (float[2] y) { y = Relu(nothing) }", "'nothing', which nothing computes"),
        ("g (float[2] x) => (float[2] y) { a = Relu(x) a = Exp(x) y = Add(a, a) }", "computed twice"),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) }", "'z' is not computed"),
        ("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }", "depends on itself"),
    ],
)
def test_graphs_that_are_none(body: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model(body).SerializeToString())
    with pytest.raises(SourceError, match=message):
        converter.load(path).cut(to="y")
