"""Sizes known despite a symbolic batch: fewer nodes, the same values as NumPy's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import converter
from converter.finish.sizes import fold_sizes, foldable


def read(body: str, **constants: list[int]) -> ir.Model:
    """A model with an input x of (batch, 12, 5, 4) and an output y, shapes inferred."""
    values = "; ".join(f"int64[{len(v)}] {k} = {{{', '.join(map(str, v))}}}" for k, v in constants.items())
    text = f"""<ir_version: 8, opset_import: ["": 18]>
        g (float[batch, 12, 5, 4] x) => (float y) <{values.replace(";", ",")}> {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


X = np.random.default_rng(0).standard_normal((3, 12, 5, 4)).astype(np.float32)
SWAP = "s = Shape(x) h = Slice(s, zero, two) t = Slice(s, three, four) l = Slice(s, two, three) "


def test_a_target_with_one_unknown_size_becomes_constant() -> None:
    model = read(
        SWAP + "n = Concat<axis=0>(h, t, l) y = Reshape(x, n)", zero=[0], two=[2], three=[3], four=[4]
    )
    fold_sizes(model)
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 12, 4, 5]
    np.testing.assert_array_equal(run(model, X), X.reshape(3, 12, 4, 5))


def test_a_target_with_two_unknown_sizes_stays() -> None:
    body = "s = Shape(x) b = Slice(s, zero, one) n = Concat<axis=0>(b, m, b) y = Reshape(x, n)"
    model = read(body, zero=[0], one=[1], m=[-1])
    fold_sizes(model)
    assert next(node for node in model.graph if node.op_type == "Reshape").inputs[1].const_value is None
    np.testing.assert_array_equal(run(model, X), X.reshape(3, -1, 3))


def test_sizes_are_reckoned_with() -> None:
    body = (
        "s = Shape<start=1>(x) a = Gather(s, zero) b = Gather(s, one) c = Mul(a, b) d = Add(c, c)"
        " e = Sub(d, c) n = Concat<axis=0>(m, e) y = Reshape(x, n)"
    )
    model = read(body, zero=[0], one=[-1], m=[-1])
    fold_sizes(model)
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    assert reshape.inputs[1].const_value.numpy().tolist() == [-1, 48]
    np.testing.assert_array_equal(run(model, X), X.reshape(-1, 48))


@pytest.mark.parametrize(
    ("flat", "perm", "back", "joined"),
    [
        ([-1, 5, 4], [0, 2, 1], [-1, 12, 4, 5], True),
        ([-1, 5, 4], [0, 2, 1], [12, -1, 4, 5], False),  # leading axes come back in another order
        ([-1, 4, 5], [0, 2, 1], [-1, 12, 4, 5], False),  # the first Reshape does more than to join axes
        ([-1, 5, 4], [2, 1, 0], [-1, 12, 5, 12], False),  # the joined axis moves
        ([-1, 5, 4], [0, 2, 1], [-1, 6, 8, 5], False),
    ],
)
def test_heads_split_off_and_put_back_are_one_transpose(
    flat: list[int], perm: list[int], back: list[int], joined: bool
) -> None:
    body = f"f = Reshape(x, flat) t = Transpose<perm={perm}>(f) y = Reshape(t, back)"
    model = read(body, flat=flat, back=back)
    fold_sizes(model)
    assert [node.op_type for node in model.graph] == (
        ["Transpose"] if joined else ["Reshape", "Transpose", "Reshape"]
    )
    np.testing.assert_array_equal(run(model, X), X.reshape(flat).transpose(perm).reshape(back))


def test_an_attention_layer_computes_no_shapes() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), layer, torch.nn.Linear(16, 3))
    cut = converter.load(model, example=torch.zeros(2, 7, 8)).cut(to="1")
    assert cut.validate().passed
    count = Counter(node.op_type for node in cut.pieces[0].graph.graph)
    assert not {"Shape", "Slice", "Expand"} & set(count), count


def test_constants_do_not_make_a_file_grow() -> None:
    small = ir.node("ConstantOfShape", [constant([8, 8])])
    large = ir.node("ConstantOfShape", [constant([1024, 1024])])
    assert foldable(small)
    assert not foldable(large)
    wide = ir.node("Expand", [constant([1]), constant([512, 512])])
    wide.outputs[0].shape = ir.Shape([512, 512])
    assert foldable(wide) is False


def constant(values: list[int]) -> ir.Value:
    tensor = ir.tensor(np.array(values, np.int64))
    return ir.Value(name="c", shape=ir.Shape(tensor.shape), const_value=tensor)
