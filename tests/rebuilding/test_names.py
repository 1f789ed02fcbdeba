"""What layers of rebuilt models are called."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from converter.model import LAYER, Plain
from converter.rebuilding.graph import Node
from converter.rebuilding.names import Names, dotted, identifier


def node(weight: str | None, *, name: str = "", layer: str | None = None, op: str = "Conv") -> Node:
    x = ir.Value(name="x")
    inputs = [x, ir.Value(name=weight)] if weight else [x]
    raw = ir.node(op, inputs, name=name or None)
    if layer:
        raw.metadata_props[LAYER] = layer
    graph = ir.Graph([x], [raw.outputs[0]], nodes=[raw], opset_imports={"": 18})
    weights = frozenset([weight] if weight else [])
    return Node(raw, Plain("trunk", ir.Model(graph, ir_version=9), (), (), weights))


@pytest.mark.parametrize(
    ("weight", "name", "layer", "called"),
    [
        ("block5_conv3/kernel", "", "block5_conv3", "block5_conv3"),
        ("layer1.0.conv1.weight", "", None, "layer1.0.conv1"),
        ("outer/inner/gamma", "", "outer/inner", "outer.inner"),
        ("sep/depthwise_kernel", "", "sep", "sep.depthwise"),
        ("vgg0_conv0_weight", "", None, "vgg0_conv0"),
        ("stem/Conv/constant_1", "", None, "stem"),
        ("onnx::Conv_193", "/layer1/layer1.0/conv1/Conv", None, "layer1.0.conv1"),
        ("onnx::Conv_193", "/features/Conv_2", None, "features"),
        ("val_3", "node_Conv_7", "encoder@1", "encoder"),
        (None, "detector", None, "detector"),
        (None, "", None, "Conv"),
        ("w", "", None, "w"),
    ],
)
def test_layers_are_called_as_their_weights_are(
    weight: str | None, name: str, layer: str | None, called: str
) -> None:
    assert Names().layer(node(weight, name=name, layer=layer), 1) == called


def test_a_name_is_given_once_and_stands_neither_above_nor_below_another() -> None:
    names = Names()
    given = [names.fresh(name) for name in ("a.b", "a.b", "a", "c", "c.d", "c.d")]
    assert given == ["a.b", "a.b_1", "a_1", "c", "c_d", "c_d_1"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [("class", "class_"), ("3x3", "_3x3"), ("a b", "a_b"), ("größe", "größe"), ("", "_")],
)
def test_identifiers(name: str, plain: str) -> None:
    assert identifier(name) == plain


def test_numbers_stay_numbers_in_a_path() -> None:
    assert dotted("layer1/0:conv") == "layer1.0.conv"
