"""Where drift begins: exported graphs changed in one layer, judged by the framework itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converter.drifting import ACCUMULATED, AGREES, INHERITED, OWN, Drift, Row, drift
from converter.errors import SourceError, UsageError
from converter.model import LayeredModel, Source
from converter.pipeline import whole
from converter.runtime import Session
from converter.samples import draw, vocabularies
from converter.sources import Opening, resolve
from converter.sources.onnx import open_onnx_file
from converter.surgery import cut
from converter.targets import TARGETS
from fixtures import torch_models
from fixtures.onnx_text import saved

Array = np.ndarray[Any, Any]


def of_torch(name: str) -> tuple[Source, LayeredModel, Mapping[str, Array]]:
    model, example = torch_models.build(name)
    return drawn(resolve(model, Opening(example=example)))


def drawn(source: Source) -> tuple[Source, LayeredModel, Mapping[str, Array]]:
    layered = whole(source)
    return source, layered, draw(layered.inputs, vocabularies(layered.graph), 0)[-1]


def scale(layered: LayeredModel, weight: str, factor: float) -> None:
    """Change one weight of the exported graph; the framework keeps its own."""
    assert isinstance(layered.graph, ir.Model)
    value = layered.graph.graph.initializers[weight]
    assert value.const_value is not None
    array = value.const_value.numpy()
    value.const_value = ir.tensor((array * np.float32(factor)).astype(array.dtype), name=weight)


def by_name(found: Drift) -> dict[str, Row]:
    return {row.name: row for row in found.rows}


# ---------------------------------------------------------------- nothing wrong


@pytest.mark.parametrize("name", ["residual", "shared", "structured", "text", "recurrent"])
def test_torch_does_not_drift(name: str) -> None:
    source, layered, x = of_torch(name)
    found = drift(source, layered, x)
    assert found.passed, [(row.name, row.error) for row in found.rows if row.departs]
    assert {row.name for row in found.rows} | found.skipped.keys() >= {
        boundary.name for layer in layered.layers for boundary in layer.boundaries
    }
    assert max(row.error for row in found.rows) > 0 or name == "structured"
    assert drift(source, layered, x, noise_floor=True).passed


@pytest.mark.parametrize(
    "name", ["residual", "nested", "shared_layer", "siamese", "dictionaries", "half_precision"]
)
def test_keras_does_not_drift(name: str, structure: Callable[[str], Any]) -> None:
    source, layered, x = drawn(resolve(structure(name), Opening()))
    found = drift(source, layered, x)
    assert found.passed
    floor = drift(source, layered, x, noise_floor=True)
    assert floor.passed
    assert all(row.ort_distance is not None for row in floor.rows if row.dtype.startswith("float"))


def test_errors_are_those_of_the_framework_by_hand() -> None:
    import torch

    source, layered, x = of_torch("residual")
    scale(layered, "conv1.weight", 1.01)
    row = by_name(drift(source, layered, x))["conv1"]
    module, _ = torch_models.build("residual")
    seen: list[Array] = []
    handles = [
        module.conv1.register_forward_hook(lambda _m, _given, out: seen.append(out.numpy().copy())),
        module.conv1.register_forward_pre_hook(lambda _m, given: seen.append(given[0].numpy().copy())),
    ]
    with torch.no_grad():
        module(torch.from_numpy(x["image"]))
        module.conv1.weight *= 1.01
        convolve = torch.nn.functional.conv2d
        wrong = convolve(torch.from_numpy(seen[0]), module.conv1.weight, module.conv1.bias, padding=1).numpy()
    for handle in handles:
        handle.remove()
    right = seen[1]
    assert row.max_abs == pytest.approx(np.abs(wrong - right).max(), rel=1e-3)
    assert row.error == pytest.approx(np.abs(wrong - right).max() / np.abs(right).max(), rel=1e-3)
    power = (right.astype(np.float64) ** 2).sum() / ((wrong - right).astype(np.float64) ** 2).sum()
    assert row.snr_db == pytest.approx(10 * np.log10(power), abs=0.01)


def test_the_finished_graph_is_compared_as_well(tmp_path: Path, structure: Callable[[str], Any]) -> None:
    for source, layered, x in (of_torch("residual"), drawn(resolve(structure("residual"), Opening()))):
        found = drift(source, layered, x, finished=True, noise_floor=True)
        last = found.rows[-1]
        assert found.passed
        assert last.name == f"{layered.outputs[0].name}#finished"
        assert last.kind == "finished graph"
        assert last.error < 1e-5
    source, layered, x = drawn(file_of_types(tmp_path))
    found = drift(source, layered, x, finished=True)
    assert [row.name for row in found.rows[-3:]] == ["y#finished", "best#finished", "over#finished"]
    assert found.passed


def test_the_finished_graph_inherits_what_the_unfinished_one_has() -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "conv1.weight", 1.01)
    last = drift(source, layered, x, finished=True).rows[-1]
    assert last.verdict == INHERITED
    assert last.cause == "conv1"
    assert last.own_error < 1e-5 < last.error


# ---------------------------------------------------------------- one layer changed


def test_the_changed_layer_is_named_and_later_ones_inherit() -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "conv2.weight", 1.01)
    found = drift(source, layered, x)
    assert found.first is not None
    assert found.first.name == "conv2"
    assert [row.name for row in found.origins] == ["conv2"]
    rows = by_name(found)
    assert rows["conv2"].verdict == OWN
    after = {"bn2", "relu@1", "fc", "output"}
    assert {name for name, row in rows.items() if row.verdict == INHERITED} == after
    assert {rows[name].cause for name in after} == {"conv2"}
    assert all(rows[name].own_error < 1e-6 for name in after)
    assert {name for name, row in rows.items() if row.departs} == after | {"conv2"}
    assert "bn2" in rows["relu@1"].inputs


def test_two_changed_layers_are_two_origins() -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "conv1.weight", 1.01)
    scale(layered, "fc.weight", 1.03)
    found = drift(source, layered, x)
    assert [row.name for row in found.origins] == ["conv1", "fc"]
    assert by_name(found)["output"].cause == "fc" or by_name(found)["output"].cause == "conv1"
    assert by_name(found)["fc"].own_error == pytest.approx(0.03, rel=0.5)


def test_a_changed_layer_inside_a_nested_keras_model(structure: Callable[[str], Any]) -> None:
    source, layered, x = drawn(resolve(structure("nested"), Opening()))
    scale(layered, "first/kernel", 1.02)
    found = drift(source, layered, x)
    assert [row.name for row in found.origins] == ["encoder/first"]
    assert found.first == found.origins[0]
    assert any(row.verdict == INHERITED for row in found.rows)


def test_both_calls_of_a_shared_layer_depart(structure: Callable[[str], Any]) -> None:
    source, layered, x = drawn(resolve(structure("shared_layer"), Opening()))
    scale(layered, "shared/kernel", 1.02)
    origins = [row.name for row in drift(source, layered, x).origins]
    assert origins == ["shared@0", "shared@1"]


def test_an_epsilon_within_tolerance_is_seen_by_the_noise_floor() -> None:
    source, layered, x = of_torch("residual")
    assert isinstance(layered.graph, ir.Model)
    nodes = [n for n in layered.graph.graph if n.op_type == "BatchNormalization"]
    node = next(n for n in nodes if any(v is not None and v.name == "bn2.weight" for v in n.inputs))
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 3e-5)
    assert drift(source, layered, x).passed  # an error of some 1e-6
    found = drift(source, layered, x, noise_floor=True)
    assert found.first is not None
    assert found.first.name == "bn2"
    assert found.first.verdict == OWN
    row = found.first
    assert row.ort_distance is not None
    assert row.framework_distance is not None
    assert row.limit >= 8 * row.framework_distance
    assert row.framework_distance < 1e-6 < row.ort_distance


def test_a_jump_within_tolerance_departs_unless_a_tolerance_is_given() -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "conv2.weight", 1 + 4e-5)
    found = drift(source, layered, x)
    assert found.first is not None
    assert found.first.name == "conv2"
    assert found.first.error < 2**-14
    assert "times what comes in" in str(found.first.note)
    assert drift(source, layered, x, tolerance=1e-4).passed
    assert not drift(source, layered, x, tolerance=1e-5).passed


def test_errors_that_add_up_have_no_single_origin(tmp_path: Path) -> None:
    text = (
        "net (float[n, 3] x) => (float[n, 3] y) { [one] a = Mul(x, c) [two] b = Mul(a, d) [end] y = Neg(b) }"
    )
    right, wrong = ({"c": np.full(1, c, "f4"), "d": np.full(1, d, "f4")} for c, d in ((2, 3), (2.008, 3.009)))
    (tmp_path / "wrong").mkdir()
    source, _, x = drawn(open_onnx_file(saved(text, tmp_path, weights=right)))
    changed = whole(open_onnx_file(saved(text, tmp_path / "wrong", weights=wrong)))
    found = by_name(drift(source, changed, x, tolerance=5e-3))
    assert [row.verdict for row in found.values()] == [AGREES, ACCUMULATED, INHERITED]
    assert found["one"].error == pytest.approx(0.004, rel=1e-3)
    assert found["two"].own_error == pytest.approx(0.003, rel=1e-3)
    assert found["two"].error == pytest.approx(1.004 * 1.003 - 1, rel=1e-3)
    assert found["two"].cause == "one"
    assert found["end"].cause == "two"


def test_alone_is_what_cutting_the_segment_gives(tmp_path: Path) -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "bn2.bias", 1.5)
    boundaries = {b.name: b for layer in layered.layers for b in layer.boundaries}
    given, end = boundaries["bn2"], boundaries["relu@1"]
    stem = boundaries["stem"]
    answers = source.run(x, [given, end, stem])
    row = by_name(drift(source, layered, x))["relu@1"]
    piece = cut(layered, "segment", (given, stem), (end,))
    TARGETS["onnx"].write(piece, tmp_path / "segment.onnx", {})
    feeds = {**x, given.name: answers[given.value], stem.name: answers[stem.value]}
    out = Session(tmp_path / "segment.onnx").run(feeds)["relu@1"]
    right = answers[end.value]
    assert row.own_error == pytest.approx(np.abs(out - right).max() / np.abs(right).max(), abs=1e-9)
    assert row.verdict == INHERITED


# ---------------------------------------------------------------- samples, kinds of tensors


def test_batches_give_the_worst_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    source, layered, _ = of_torch("residual")
    x = draw(layered.inputs, {}, 0)[-1]["image"]
    many = {"image": np.concatenate([x, 0.5 * x, 2 * x])}
    scale(layered, "conv1.weight", 1.01)
    once = by_name(drift(source, layered, many))
    monkeypatch.setattr(sys.modules["converter.drifting.drift"], "_AT_ONCE", 1)
    told: list[str] = []
    split = drift(source, layered, many, progress=lambda _, text: told.append(text))
    assert len(told) == len(many["image"]) == split.samples
    alone = [by_name(drift(source, layered, {"image": x[None]})) for x in many["image"]]
    for name, row in by_name(split).items():
        assert row.max_abs == pytest.approx(once[name].max_abs, rel=1e-2, abs=1e-5), name
        # Each batch is held to its own scale.
        assert row.error == pytest.approx(max(each[name].error for each in alone), rel=1e-2, abs=1e-6), name


TYPES = """net (float[n, 4] x) => (float[n, 4] y, int64[n, 1] best, bool[n, 4] over) {
    [first] a = MatMul(x, w)
    [choose] best = ArgMax<axis = 1>(a)
    [compare] over = Greater(a, zero)
    [made] c = Mul(w, w)
    [last] y = MatMul(a, c)
}"""


def file_of_types(folder: Path) -> Source:
    w = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
    weights = {"w": w, "zero": np.zeros(1, "f4")}
    return open_onnx_file(saved(TYPES, folder, weights=weights))


def test_integers_booleans_and_constants_of_a_file(tmp_path: Path) -> None:
    source, layered, x = drawn(file_of_types(tmp_path))
    found = drift(source, layered, x)
    assert found.passed
    assert "without its optimisations" in found.judge
    rows = by_name(found)
    assert [row.name for row in found.rows] == ["first", "choose", "compare", "made", "last"]
    assert rows["choose"].dtype == "int64"
    assert rows["choose"].limit == rows["compare"].limit == 0
    assert "constant" in str(rows["made"].note)
    assert rows["first"].note is None
    with pytest.raises(UsageError, match="float64"):
        drift(source, layered, x, noise_floor=True)


def test_integers_and_booleans_are_compared_exactly(tmp_path: Path) -> None:
    source, _, x = drawn(file_of_types(tmp_path))
    (tmp_path / "other").mkdir()
    w = -np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
    other = saved(TYPES, tmp_path / "other", weights={"w": w, "zero": np.zeros(1, "f4")})
    changed = whole(open_onnx_file(other))
    found = drift(source, changed, x, tolerance=10.0)  # no tolerance is for integers
    rows = by_name(found)
    assert rows["compare"].departs
    assert rows["choose"].departs
    assert not rows["first"].departs
    # On the framework's own tensors both are right: they only show what came before.
    assert rows["compare"].verdict == rows["choose"].verdict == ACCUMULATED
    strict = by_name(drift(source, changed, x))
    assert strict["first"].verdict == OWN
    assert strict["compare"].cause == strict["choose"].cause == "first"


def test_nan_departs(tmp_path: Path) -> None:
    source, layered, x = of_torch("residual")
    scale(layered, "fc.weight", float("nan"))
    found = drift(source, layered, x)
    assert [row.name for row in found.origins] == ["fc"]
    assert "NaN" in str(found.origins[0].problem)


def test_same_for_every_sample_is_said(tmp_path: Path) -> None:
    text = "net (float[n, 3] x) => (float[n, 3] y) { [dead] d = Mul(x, zero) [live] y = Add(d, x) }"
    source, layered, x = drawn(open_onnx_file(saved(text, tmp_path, weights={"zero": np.zeros(1, "f4")})))
    rows = by_name(drift(source, layered, x))
    assert "same for every sample" in str(rows["dead"].note)
    assert rows["live"].note is None


def test_infinite_masks_agree(tmp_path: Path) -> None:
    text = "net (float[n, 3] x) => (float[n, 3] y) { [mask] m = Log(zero) [live] y = Max(x, m) }"
    source, layered, x = drawn(open_onnx_file(saved(text, tmp_path, weights={"zero": np.zeros(3, "f4")})))
    found = drift(source, layered, x)
    assert found.passed
    assert {row.name: row.error for row in found.rows}["mask"] == 0


def test_bodies_of_loops_read_what_the_framework_has(tmp_path: Path) -> None:
    text = """net (float[n, 3] x, bool flag) => (float[n, 3] y) {
        [first] a = Mul(x, two)
        [branch] y = If(flag) <
            then_branch = t () => (float[n, 3] u) { u = Add(a, a) },
            else_branch = e () => (float[n, 3] v) { v = Neg(a) }
        >
    }"""
    source, _, _ = drawn(open_onnx_file(saved(text, tmp_path, weights={"two": np.full(1, 2, "f4")})))
    x = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype("f4"), "flag": np.array(True)}
    folder = tmp_path / "other"
    folder.mkdir()
    changed = whole(open_onnx_file(saved(text, folder, weights={"two": np.full(1, 3, "f4")})))
    found = by_name(drift(source, changed, x))
    assert found["first"].verdict == OWN
    assert found["branch"].verdict == INHERITED
    assert found["branch"].own_error == 0
    assert found["branch"].inputs == ("first",)


def test_samples_that_do_not_fit() -> None:
    source, layered, x = of_torch("residual")
    with pytest.raises(UsageError, match="no samples for the inputs image"):
        drift(source, layered, {})
    with pytest.raises(UsageError, match="empty"):
        drift(source, layered, {"image": x["image"][:0]})
    with pytest.raises(UsageError, match="exclude"):
        drift(source, layered, x, tolerance=1.0, noise_floor=True)


# ---------------------------------------------------------------- float64


def test_torch_in_float64_is_torch_in_float64() -> None:
    import torch

    source, layered, x = of_torch("residual")
    boundaries = [b for layer in layered.layers for b in layer.boundaries]
    got = source.run64(x, [*boundaries, *layered.outputs])
    module, _ = torch_models.build("residual")
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x["image"]).double()).numpy()
    assert {array.dtype for array in got.values()} == {np.dtype("float64")}
    assert np.array_equal(got[layered.outputs[0].value], expected)
    assert torch.get_default_dtype() is torch.float32
    again = source.run(x, boundaries)
    assert {array.dtype for array in again.values()} == {np.dtype("float32")}


def test_keras_in_float64_is_numpy_in_float64() -> None:
    import keras

    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="scores")(hidden))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    source, layered, x = drawn(resolve(model, Opening()))
    (output,) = layered.outputs
    got = source.run64(x, [output])[output.value]
    w, b, v, c = (np.asarray(weight, np.float64) for weight in model.get_weights())
    expected = np.maximum(x["x"].astype(np.float64) @ w + b, 0) @ v + c
    assert got.dtype == np.float64
    assert np.allclose(got, expected, rtol=1e-13, atol=1e-13)
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float32", "float32")
    assert {variable.dtype for variable in model.variables} == {"float32"}


def test_what_cannot_be_had_in_float64(structure: Callable[[str], Any]) -> None:
    source, layered, x = drawn(resolve(structure("subclassed"), Opening()))
    with pytest.raises(SourceError, match="float64"):
        drift(source, layered, x, noise_floor=True)
    assert drift(source, layered, x).passed


def test_weights_stay_in_the_graph_that_was_handed_in() -> None:
    source, layered, x = of_torch("residual")
    assert isinstance(layered.graph, ir.Model)
    before = ir.to_proto(layered.graph).SerializeToString()
    drift(source, layered, x)
    after = ir.to_proto(layered.graph)
    assert isinstance(after, onnx.ModelProto)
    assert after.SerializeToString() == before
