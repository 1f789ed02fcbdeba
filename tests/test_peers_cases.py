"""What the tools that people cut models with promise in their own tests, asked of this one.

docs/peers.md lists the cases; its table names the tests below.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import converter
from converter.errors import CutError
from fixtures.onnx_text import saved

ROOT = Path(__file__).resolve().parent.parent


def cut(path: Path, folder: Path, role: str, **names: Any) -> onnx.ModelProto:
    """A piece that passed, as its file says."""
    converter.load(path).cut(**names).save(folder / "out")
    model = onnx.load(folder / f"out/{role}.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# ---------------------------------------------------------------- onnx: utils.extract_model, compose

LATTICE = """g (float[1, 2] a0, float[1, 2] a1) => (float[1, 2] d0)
    { b0 = Add(a0, a1) b1 = Sub(a0, a1) b2 = Mul(a0, a1)
      c0 = Add(b0, b1) c1 = Sub(b1, b2) d0 = Mul(c0, c1) }"""


def test_middle_of_a_lattice(tmp_path: Path) -> None:
    path = saved(LATTICE, tmp_path)
    model = cut(path, tmp_path, "segment", from_=["b0", "b1", "b2"], to=["c0", "c1"])
    whole = onnx.load(path)
    assert (names(model.graph.input), names(model.graph.output)) == (["b0", "b1", "b2"], ["c0", "c1"])
    assert ops(model) == ["Add", "Sub"]
    assert (model.ir_version, list(model.opset_import)) == (whole.ir_version, list(whole.opset_import))
    expected = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 2])
    assert {value.type.SerializeToString() for value in (*model.graph.input, *model.graph.output)} == {
        expected.SerializeToString()
    }


def test_pieces_can_be_composed_again(tmp_path: Path) -> None:
    path = saved(LATTICE, tmp_path)
    converter.load(path).cut(split=["c0", "c1"]).save(tmp_path / "out")
    trunk, head = (
        onnx.compose.add_prefix(onnx.load(tmp_path / f"out/{role}.onnx"), f"{role}/")
        for role in ("trunk", "head")
    )
    pairs = [(f"trunk/{name}", f"head/{name}") for name in ("c0", "c1")]
    joined = onnx.compose.merge_models(trunk, head, io_map=pairs)
    onnx.checker.check_model(joined, full_check=True)
    feeds = {name: np.array([[1.5, -2]], np.float32) for name in ("a0", "a1")}
    (whole,) = ort.InferenceSession(path).run(None, feeds)
    session = ort.InferenceSession(joined.SerializeToString())
    (got,) = session.run(None, {f"trunk/{name}": value for name, value in feeds.items()})
    np.testing.assert_array_equal(got, whole)


# ---------------------------------------------------------------- onnx-ir: convenience.extract

LINE = (
    "g (float[3] input) => (float[3] output) { intermediate = Add(input, c1) output = Mul(intermediate, c2) }"
)
CONSTANTS = {"c1": np.array([10, 20, 30], np.float32), "c2": np.array([2, 2, 2], np.float32)}


def test_whole_graph(tmp_path: Path) -> None:
    model = cut(saved(LINE, tmp_path, weights=CONSTANTS), tmp_path, "model")
    assert (names(model.graph.input), names(model.graph.output)) == (["input"], ["output"])
    assert ops(model) == ["Add", "Mul"]


def test_from_the_middle_with_the_weights_it_needs(tmp_path: Path) -> None:
    model = cut(saved(LINE, tmp_path, weights=CONSTANTS), tmp_path, "head", from_="intermediate")
    assert (ops(model), names(model.graph.initializer)) == (["Mul"], ["c2"])


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    path = saved(LINE, tmp_path, weights=CONSTANTS)
    with pytest.raises(CutError, match="no layer is called 'nonexistent'"):
        converter.load(path).cut(from_="nonexistent")


DIAMOND = """g (float[3] input) => (float[3] output)
    { left = Add(input, c1) right = Add(input, c2) output = Mul(left, right) }"""


def test_one_branch_of_a_diamond(tmp_path: Path) -> None:
    model = cut(saved(DIAMOND, tmp_path, weights=CONSTANTS), tmp_path, "trunk", to="left")
    assert (ops(model), names(model.graph.initializer)) == (["Add"], ["c1"])


def test_from_both_branches(tmp_path: Path) -> None:
    model = cut(saved(DIAMOND, tmp_path, weights=CONSTANTS), tmp_path, "head", from_=["left", "right"])
    assert (ops(model), names(model.graph.input)) == (["Mul"], ["left", "right"])


def test_several_outputs(tmp_path: Path) -> None:
    text = "g (float[3] x) => (float[3] sum, float[3] product) { sum = Add(x, c1) product = Mul(x, c2) }"
    model = cut(saved(text, tmp_path, weights=CONSTANTS), tmp_path, "model")
    assert names(model.graph.output) == ["sum", "product"]


def test_metadata_survives(tmp_path: Path) -> None:
    path = saved(LINE, tmp_path, weights=CONSTANTS)
    proto = onnx.load(path)
    proto.graph.doc_string = "Test documentation"
    proto.graph.metadata_props.add(key="key", value="value")
    onnx.save(proto, path)
    graph = cut(path, tmp_path, "trunk", to="intermediate").graph
    assert (graph.name, graph.doc_string) == ("g", "Test documentation")
    assert [(entry.key, entry.value) for entry in graph.metadata_props] == [("key", "value")]


NESTED = """g (float[3] x, bool q) => (float[3] y)
    { h = Add(x, c1) k = Mul(x, c2)
      y = If(q)<then_branch = t () => (float[3] o) {
                    o = If(q)<then_branch = tt () => (float[3] p) { p = Add(h, c1) },
                              else_branch = te () => (float[3] p) { p = Sub(h, k) }> },
                else_branch = e () => (float[3] o) { o = Mul(k, c2) }> }"""


def test_values_that_inner_graphs_capture(tmp_path: Path) -> None:
    path = saved(NESTED, tmp_path, weights=CONSTANTS)
    with pytest.raises(CutError, match="the input x crosses"):
        converter.load(path).cut(from_="h")
    model = cut(path, tmp_path, "head", from_=["h", "k"])
    assert set(names(model.graph.input)) == {"h", "k", "q"}
    assert set(names(model.graph.initializer)) == {"c1", "c2"}


# ---------------------------------------------------------------- graphsurgeon: cleanup, toposort


def test_nodes_and_weights_that_nothing_needs_go(tmp_path: Path) -> None:
    text = """g (float[3] x, float[3] unread) => (float[3] y)
        { y = Add(x, c1) side = Mul(x, c2) further = Relu(side) }"""
    model = cut(saved(text, tmp_path, weights=CONSTANTS), tmp_path, "model")
    assert (ops(model), names(model.graph.initializer), names(model.graph.input)) == (["Add"], ["c1"], ["x"])


def test_an_output_that_others_read_stays_one(tmp_path: Path) -> None:
    text = "g (float[3] x) => (float[3] a, float[3] y) { a = Add(x, c1) b = Relu(a) y = Mul(b, c2) }"
    path = saved(text, tmp_path, weights=CONSTANTS)
    trunk = cut(path, tmp_path, "trunk", to="b")
    assert names(trunk.graph.output) == ["b"]
    head = cut(path, tmp_path, "head", from_="a")
    assert names(head.graph.input) == ["a"]
    assert len(head.graph.output) == 2  # `a` passes through, under a name of its own


def test_names_that_several_inner_graphs_use(tmp_path: Path) -> None:
    text = """g (float[3] x, bool q) => (float[3] y)
        { a = Relu(x)
          b = If(q)<then_branch = t () => (float[3] o) { same = Add(a, c1) o = Relu(same) },
                    else_branch = e () => (float[3] o) { same = Mul(a, c2) o = Relu(same) }>
          y = Neg(b) }"""
    assert ops(cut(saved(text, tmp_path, weights=CONSTANTS), tmp_path, "head", from_="a")) == ["If", "Neg"]


def test_outputs_and_inputs_that_are_left_out(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y)
        { a = Clip(x, , high) b, , = LayerNormalization(a, c2) y = Relu(b) }"""
    weights = {"high": np.float32(0.5), "c2": CONSTANTS["c2"]}
    model = cut(saved(text, tmp_path, weights=weights), tmp_path, "trunk", to="b")
    assert list(model.graph.node[0].input) == ["x", "", "high"]


def test_nodes_in_any_order(tmp_path: Path) -> None:
    path = saved(LINE, tmp_path, weights=CONSTANTS)
    proto = onnx.load(path)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    path.write_bytes(proto.SerializeToString())
    assert ops(cut(path, tmp_path, "model")) == ["Add", "Mul"]


# ---------------------------------------------------------------- polygraphy: surgeon extract


def test_types_are_found_where_the_file_has_none(tmp_path: Path) -> None:
    path = saved(DIAMOND, tmp_path, weights=CONSTANTS)
    assert not onnx.load(path).graph.value_info
    model = cut(path, tmp_path, "head", from_=["left", "right"])
    kinds = [(v.type.tensor_type.elem_type, len(v.type.tensor_type.shape.dim)) for v in model.graph.input]
    assert kinds == [(TensorProto.FLOAT, 1)] * 2


def test_symbolic_sizes_stay(tmp_path: Path) -> None:
    text = "g (float[batch, 3] x) => (float[batch, 3] y) { a = Add(x, c1) y = Relu(a) }"
    model = cut(saved(text, tmp_path, weights=CONSTANTS), tmp_path, "trunk", to="a")
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
    ]


def test_an_output_of_several_that_is_an_input_as_well(tmp_path: Path) -> None:
    text = """g (float[2, 6] x) => (float[2, 2] y)
        { a, b, c = Split<axis=1, num_outputs=3>(x) d = Mul(a, b) y = Add(d, c) }"""
    path = saved(text, tmp_path)
    model = cut(path, tmp_path, "head", from_="a", frontier=True)
    feeds = {"a": np.full((2, 2), 7, np.float32), "x": np.arange(12, dtype=np.float32).reshape(2, 6)}
    (got,) = ort.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(got, feeds["a"] * feeds["x"][:, 2:4] + feeds["x"][:, 4:])


# ---------------------------------------------------------------- torchvision and timm: feature extraction


@pytest.fixture(scope="module")
def torch() -> Any:
    pytest.importorskip("torch")
    from converter.sources.torch import backend

    backend.torchvision()
    return backend.torch()


def features(model: Any, layers: list[str], example: Any, folder: Path) -> list[np.ndarray]:
    converter.load(model, example=example[:1]).cut(to=layers).save(folder / "out")
    session = ort.InferenceSession(folder / "out/trunk.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: example.numpy()})


def test_features_as_intermediate_layer_getter_has_them(torch: Any, tmp_path: Path) -> None:
    import torchvision
    from torchvision.models._utils import IntermediateLayerGetter

    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    layers = ["layer1", "layer2", "layer3", "layer4"]
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = IntermediateLayerGetter(model, dict(zip(layers, layers, strict=True)))(x)
    for got, name in zip(features(model, layers, x, tmp_path), layers, strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), rtol=1e-4, atol=1e-4)


def test_features_as_create_feature_extractor_has_them(torch: Any, tmp_path: Path) -> None:
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small().eval()
    layers = ["features.2.block.1", "features.12", "avgpool"]
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = create_feature_extractor(model, layers)(x)
    for got, name in zip(features(model, layers, x, tmp_path), layers, strict=True):
        np.testing.assert_allclose(got, expected[name].numpy(), rtol=1e-4, atol=1e-5)


def test_features_as_timm_has_them(torch: Any, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet18").eval()
    maps = timm.create_model("resnet18", features_only=True).eval()
    maps.load_state_dict(model.state_dict(), strict=False)
    layers = [info["module"] for info in maps.feature_info.get_dicts()]
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = maps(x)
    for got, wanted in zip(features(model, layers, x, tmp_path), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_calls_are_numbered_and_the_model_is_left_alone(torch: Any, tmp_path: Path) -> None:
    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.relu(x - 0.5) - 0.1)

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.relu, self.drop = Inner(), torch.nn.ReLU(), torch.nn.Dropout(1.0)

        def forward(self, x: Any) -> Any:
            return self.relu(self.relu(self.drop(self.inner(x)) - 0.1))

    model = Outer().train()
    source = converter.load(model, example=torch.rand(1, 5))
    called = [layer.name for layer in source.layers]
    assert called == ["inner.relu@0", "inner.relu@1", "inner", "drop", "relu@0", "relu@1"]
    assert source.cut(to="drop").validate().passed  # in evaluation mode: training drops everything
    assert model.training
    with pytest.raises(CutError, match="no layer is called 'l'"):
        source.cut(to="l")


def test_the_table_names_these_tests() -> None:
    page = (ROOT / "docs" / "peers.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    here = {name for name in globals() if name.startswith("test_")} - {"test_the_table_names_these_tests"}
    assert named == here
