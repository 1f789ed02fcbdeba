"""What became of each layer, held to what networkx says of the framework's own graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest

import converter
from converter.charting import with_edits
from converter.charting.chart import MOST
from converter.report.chart import Chart
from fixtures.onnx_text import saved
from fixtures.torch_models import build

torch = pytest.importorskip("torch")


def states(chart: Chart | None) -> dict[str, str]:
    assert chart is not None
    return {layer.name: layer.state for layer in chart.layers}


def frontier(chart: Chart | None) -> set[str]:
    assert chart is not None
    return {layer.name for layer in chart.layers if layer.frontier}


def keras_graph(model: Any) -> nx.DiGraph:
    """Layer to layer, by the inbound nodes that Keras keeps."""
    graph = nx.DiGraph()
    for layer in model.layers:
        for node in layer._inbound_nodes:
            for before in node.parent_nodes:
                graph.add_edge(before.operation.name, layer.name)
    return graph


def small() -> Any:
    import keras

    keras.utils.clear_session()
    given = keras.Input((8, 8, 3), name="image")
    one = keras.layers.Conv2D(4, 3, padding="same", name="block1_conv")(given)
    two = keras.layers.Conv2D(4, 3, padding="same", name="block1_side")(given)
    join = keras.layers.Add(name="block1_add")([one, two])
    left = keras.layers.Conv2D(4, 3, padding="same", name="block2_conv")(join)
    right = keras.layers.Conv2D(4, 1, name="block2_skip")(join)
    out = keras.layers.Add(name="block2_add")([left, right])
    flat = keras.layers.Flatten(name="flat")(out)
    return keras.Model(given, keras.layers.Dense(3, name="scores")(flat))


@pytest.fixture(scope="module")
def keras_model() -> Any:
    pytest.importorskip("keras")
    return small()


@pytest.mark.parametrize("layer", ["block1_conv", "block1_add", "block2_skip", "block2_add", "scores"])
def test_a_keras_trunk_keeps_what_its_end_is_computed_from(keras_model: Any, layer: str) -> None:
    chart = converter.load(keras_model).cut(to=layer)._made.chart
    graph = keras_graph(keras_model)
    kept = (nx.ancestors(graph, layer) | {layer}) - {"image"}
    assert {name for name, state in states(chart).items() if state == "kept"} == kept
    assert set(states(chart)) == {each.name for each in keras_model.layers} - {"image"}
    assert frontier(chart) == {layer}


def test_a_keras_split_parts_the_layers(keras_model: Any) -> None:
    chart = converter.load(keras_model).cut(split="block2_conv", frontier=True)._made.chart
    assert chart is not None
    graph = keras_graph(keras_model)
    before = (nx.ancestors(graph, "block2_conv") | {"block2_conv"}) - {"image"}
    roles = {layer.name: layer.pieces for layer in chart.layers}
    assert {name for name, pieces in roles.items() if pieces == ("trunk",)} == before
    rest = set(roles) - before
    assert {name for name, pieces in roles.items() if pieces == ("head",)} == rest
    assert frontier(chart) == {a for a, b in graph.edges if a in before and b in rest}
    edges = {(chart.layers[place].name, layer.name) for layer in chart.layers for place in layer.reads}
    assert edges == {edge for edge in graph.edges if edge[0] != "image"}


def test_a_keras_head_and_a_segment(keras_model: Any) -> None:
    model = converter.load(keras_model)
    head = states(model.cut(from_="block1_add")._made.chart)
    after = nx.descendants(keras_graph(keras_model), "block1_add")
    assert {name for name, state in head.items() if state == "kept"} == after
    segment = model.cut(from_="block1_add", to="block2_add")._made.chart
    between = after & (nx.ancestors(keras_graph(keras_model), "block2_add") | {"block2_add"})
    assert {name for name, state in states(segment).items() if state == "kept"} == between
    assert frontier(segment) == {"block1_add", "block2_add"}


def test_the_whole_model_has_no_frontier(keras_model: Any) -> None:
    chart = converter.load(keras_model).cut()._made.chart
    assert set(states(chart).values()) == {"kept"}
    assert frontier(chart) == set()


def test_a_torch_trunk_knows_what_was_not_traced() -> None:
    model, example = build("residual")
    names = [name for name, _ in model.named_modules() if name]
    last = names[-1]
    whole = converter.load(model, example=example)
    order = [layer.name for layer in whole.layers]
    cut = order[len(order) // 2]
    chart = converter.load(model, example=example).cut(to=cut)._made.chart
    assert chart is not None
    found = states(chart)
    assert {name.partition("@")[0] for name in found} == set(names)
    assert found[cut] == "kept"
    assert found[last] == "cut away"
    assert not next(layer for layer in chart.layers if layer.name == last).outputs


def test_parts_of_torch_modules_share_their_fate() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Identity())
    block = torch.nn.Sequential(inner, torch.nn.ReLU())
    other = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    model = torch.nn.Sequential(block, torch.nn.ReLU(), other).eval()
    chart = converter.load(model, example=torch.ones(2, 4)).cut(to="1")._made.chart
    assert states(chart) == {
        "0.0.0": "kept",
        "0.0.1": "kept",
        "0.0": "kept",
        "0.1": "kept",
        "0": "kept",
        "1": "kept",
        "2": "cut away",
        "2.0": "cut away",
        "2.1": "cut away",
    }
    chart = converter.load(model, example=torch.ones(2, 4)).cut(to="2.0")._made.chart
    found = states(chart)
    assert found["2.0"] == "kept"
    assert found["2.1"] == "cut away"
    assert found.get("2") in (None, "partly")


def test_a_replaced_and_a_dropped_layer(keras_model: Any) -> None:
    changed = converter.load(keras_model).edit(replace={"scores": "dense(5)"}, drop="block2_skip")
    cut = changed.cut()
    edited = cut._edited
    assert edited is not None
    assert cut._made.chart is not None
    chart = with_edits(cut._made.chart, edited.original, edited.source.added, edited.facts)
    found = states(chart)
    assert found["block2_skip"] == "dropped"
    assert [name for name, state in found.items() if state == "new"] != []
    assert found["block2_conv"] == "kept"
    order = list(found)
    assert order.index("block1_add") < order.index("block2_skip") < order.index("block2_add")


NET = """net (float[N, 4] x) => (float[N, 4] y, float[N, 4] side)
{
  one = Constant <value_float = 1.0> ()
  [first] a = Relu (x)
  [left] b = Mul (a, one)
  [right] c = Neg (a)
  d = Add (b, c)
  [last] y = Tanh (d)
  [beside] side = Sigmoid (b)
}"""


def onnx_graph(path: Path) -> nx.DiGraph:
    graph = nx.DiGraph()
    for node in onnx.load(path).graph.node:
        for read in node.input:
            graph.add_edge(read, node.output[0])
    return graph


@pytest.mark.parametrize("tensor", ["b", "d", "side"])
def test_an_onnx_trunk_keeps_what_its_end_is_computed_from(tmp_path: Path, tensor: str) -> None:
    path = saved(NET, tmp_path)
    names = {"a": "first", "b": "left", "c": "right", "d": "d", "y": "last", "side": "beside"}
    chart = converter.load(path).cut(to=tensor)._made.chart
    assert chart is not None
    kept = (nx.ancestors(onnx_graph(path), tensor) | {tensor}) & set(names)
    assert set(states(chart)) == set(names.values())
    assert {n for n, state in states(chart).items() if state == "kept"} == {names[value] for value in kept}
    reads = {layer.name: [chart.layers[place].name for place in layer.reads] for layer in chart.layers}
    assert reads["d"] == ["left", "right"]
    assert reads["first"] == []


def chain(folder: Path, count: int) -> Path:
    nodes = [onnx.helper.make_node("Relu", [f"t{n}"], [f"t{n + 1}"], name=f"node{n}") for n in range(count)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2])
        for name in ("t0", f"t{count}")
    ]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    path = folder / "chain.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


def test_a_huge_file_is_shown_at_its_ends_and_its_cut(tmp_path: Path) -> None:
    count = 3 * MOST
    chart = converter.load(chain(tmp_path, count)).cut(to=f"node{MOST}")._made.chart
    assert chart is not None
    assert len(chart.layers) <= MOST
    assert len(chart.layers) + chart.left_out == count
    found = states(chart)
    assert found["node0"] == found[f"node{MOST}"] == "kept"
    assert found[f"node{MOST + 1}"] == found[f"node{count - 1}"] == "cut away"
    for place, missing in chart.gaps:
        before = -1 if place == 0 else int(chart.layers[place - 1].name.removeprefix("node"))
        assert int(chart.layers[place].name.removeprefix("node")) - before - 1 == missing


def test_errors_and_drift_are_in_the_report(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)).eval()
    document = converter.load(model, example=torch.ones(2, 4)).cut(to="1").save(tmp_path / "plain")
    assert document.chart is not None
    known = {layer.name: layer.error for layer in document.chart.layers}
    worst = max(c.scaled_error for c in document.proof.comparisons)  # type: ignore[union-attr]
    assert known == {"0": None, "1": worst, "2": None}
    document = converter.load(model, example=torch.ones(2, 4)).cut(to="1").save(tmp_path / "all", drift=True)
    report = json.loads((tmp_path / "all" / "report.json").read_text())
    rows = {row["name"]: row for row in report["drift"]["layers"]}
    assert set(rows) >= {"0", "1", "2"}
    for layer in report["layers"]["list"]:
        assert layer["error"] == rows[layer["name"]]["error"]
        assert layer["own_error"] == rows[layer["name"]]["own_error"]
    assert np.isfinite([row["error"] for row in rows.values()]).all()
