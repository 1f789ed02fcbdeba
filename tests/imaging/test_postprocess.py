from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from converter.errors import TargetError, UsageError
from converter.imaging import Postprocess
from converter.model import LAYER, TensorSpec

LOGITS = TensorSpec("logits", ("b", 10), "float32")
# Ties everywhere: scores of one decimal.
SCORES = np.random.default_rng(0).integers(-30, 30, (64, 10)).astype(np.float32) / 10


def model_of(spec: TensorSpec, opset: int = 18) -> ir.Model:
    """A model whose output `spec` is its input `x`, negated."""
    given = ir.Value(name="x", shape=ir.Shape(spec.shape), type=spec.onnx_type)
    node = ir.node("Neg", [given])
    out = node.outputs[0]
    out.name, out.type, out.shape = spec.name, given.type, given.shape
    return ir.Model(
        ir.Graph([given], [out], nodes=[node], opset_imports={"": opset}, name="g"), ir_version=10
    )


def run(load: Callable[..., Any], words: str, spec: TensorSpec, scores: Any) -> dict[str, Any]:
    model = model_of(spec)
    read = Postprocess.parse(words)
    read.build(model, spec)
    session = load(model)
    assert session.outputs == [out.name for out in read.outputs(spec)]
    got = session.run({"x": -scores})
    for out in read.outputs(spec):
        assert got[out.name].dtype == out.dtype
        sizes = zip(out.shape, got[out.name].shape, strict=True)
        assert all(size == made for size, made in sizes if isinstance(size, int))
    return dict(got)


def test_softmax_sigmoid_and_length_are_pytorchs(load: Callable[..., Any]) -> None:
    import torch

    given = torch.from_numpy(SCORES)
    expected = {
        "softmax": given.softmax(-1),
        "sigmoid": given.sigmoid(),
        "l2norm": torch.nn.functional.normalize(given, dim=-1),
        "softmax,l2norm": torch.nn.functional.normalize(given.softmax(-1), dim=-1),
    }
    for words, wanted in expected.items():
        reference = Postprocess.parse(words).apply(SCORES, LOGITS)["logits"]
        assert reference.dtype == np.float32
        np.testing.assert_allclose(reference, wanted.numpy(), atol=1e-6, rtol=0)
        np.testing.assert_allclose(
            run(load, words, LOGITS, SCORES)["logits"], wanted.numpy(), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("k", [1, 5, 10])
def test_the_best_classes_with_ties(k: int, load: Callable[..., Any]) -> None:
    order = np.array([sorted(range(10), key=lambda c: (-row[c], c))[:k] for row in SCORES])
    assert any(len(set(row)) < 10 for row in SCORES.tolist())
    for got in (
        Postprocess.parse(f"top{k}").apply(SCORES, LOGITS),
        run(load, f"top{k}", LOGITS, SCORES),
    ):
        np.testing.assert_array_equal(got["logits_classes"], order)
        np.testing.assert_array_equal(got["logits_scores"], np.take_along_axis(SCORES, order, -1))
    best = Postprocess.parse("argmax").apply(SCORES, LOGITS)["logits_class"]
    np.testing.assert_array_equal(best, order[:, 0])
    np.testing.assert_array_equal(run(load, "argmax", LOGITS, SCORES)["logits_class"], order[:, 0])


def test_probabilities_of_the_best(load: Callable[..., Any]) -> None:
    got = run(load, " softmax , top3 ", LOGITS, SCORES)
    expected = Postprocess.parse("softmax,top3").apply(SCORES, LOGITS)
    np.testing.assert_allclose(got["logits_scores"], expected["logits_scores"], atol=1e-6)
    np.testing.assert_array_equal(got["logits_classes"], expected["logits_classes"])


def test_more_axes_half_precision_and_nothing_at_all(load: Callable[..., Any]) -> None:
    spec = TensorSpec("map", ("b", 4, "n", 6), "float16")
    scores = np.random.default_rng(1).normal(size=(2, 4, 3, 6)).astype(np.float16)
    for words in ("softmax,top2", "argmax", "l2norm", "sigmoid"):
        expected = Postprocess.parse(words).apply(scores, spec)
        for name, got in run(load, words, spec, scores).items():
            np.testing.assert_allclose(got.astype(np.float32), expected[name], atol=1e-3)
    zeros = run(load, "l2norm", spec, scores * 0)["map"]
    np.testing.assert_array_equal(zeros, 0)


def test_extreme_scores(load: Callable[..., Any]) -> None:
    scores = np.array([[1000, -1000] + [0] * 8, [88.8, 90] + [-1e30] * 8], np.float32)
    for words in ("softmax", "sigmoid"):
        expected = Postprocess.parse(words).apply(scores, LOGITS)["logits"]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(run(load, words, LOGITS, scores)["logits"], expected, atol=1e-6)


def test_what_is_built(load: Callable[..., Any]) -> None:
    """Other outputs stay in their places; the new nodes say what they are."""
    model = model_of(LOGITS)
    (value,) = model.graph.outputs
    other = ir.node("Abs", [value])
    other.outputs[0].name, other.outputs[0].type, other.outputs[0].shape = "other", value.type, value.shape
    model.graph.append(other)
    model.graph.outputs.append(other.outputs[0])
    Postprocess.parse("softmax,top2").build(model, LOGITS)
    made = [node.op_type for node in model.graph if node.metadata_props.get(LAYER) == "postprocess"]
    assert made == ["Softmax", "TopK"]
    session = load(model)
    assert session.outputs == ["logits_scores", "logits_classes", "other"]
    np.testing.assert_array_equal(session.run({"x": SCORES})["other"], np.abs(SCORES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a word at character 1"),
        ("sofmax", "sofmax at character 1: no such word"),
        ("softmax(1)", "takes nothing in parentheses"),
        ("top0", "expected 1 class or more"),
        ("top", "no such word"),
        ("top5,softmax", "softmax at character 6: nothing comes after"),
        ("argmax,top1", "nothing comes after"),
        ("softmax;top5", "expected a comma at character 8"),
        ("top٣", "expected a comma"),
    ],
)
def test_what_is_no_postprocessing(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Postprocess.parse(text)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "spec", "message"),
    [
        ("top11", LOGITS, "top11 of 10 classes"),
        ("top5", TensorSpec("y", ("b", "n"), "float32"), "top5 of n classes"),
        ("softmax", TensorSpec("y", ("b",), "float32"), "takes .batch, ..., classes."),
        ("argmax", TensorSpec("y", ("b", 3), "int64"), "takes floats"),
    ],
)
def test_words_that_do_not_go_with_the_output(words: str, spec: TensorSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Postprocess.parse(words).outputs(spec)


def test_graphs_that_take_none() -> None:
    with pytest.raises(TargetError, match="needs opset 18"):
        Postprocess.parse("softmax").build(model_of(LOGITS, 13), LOGITS)
    model = model_of(LOGITS)
    given = model.graph.inputs[0]
    given.name = "logits"
    model.graph.outputs[0] = given
    with pytest.raises(UsageError, match="computed by no node"):
        Postprocess.parse("softmax").build(model, LOGITS)


def test_the_words_again() -> None:
    for words in ("softmax", "softmax,top5", "l2norm,argmax"):
        assert str(Postprocess.parse(words)) == words
