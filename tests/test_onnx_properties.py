"""Random graphs, cut at random places: frontiers as brute force finds them, values as the whole has them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from converter.sources.onnx import open_onnx_file
from converter.surgery import cut, frontier, legal_cuts, select
from fixtures.onnx_corpus import Case, cut_in_two, examine, intermediate

UNARY, BINARY = ("Relu", "Neg", "Tanh", "Abs"), ("Add", "Sub", "Mul")
SHAPE = [2, 3]


class Builder:
    """A random graph of tensors of one shape, so that anything may read anything before it."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.names = itertools.count()
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {
            "w0": np.full(SHAPE, 0.5, np.float32),
            "w1": np.eye(2, 3, dtype="f4"),
        }
        self.values = ["x0", "x1", *self.weights]

    def one_of(self, values: list[str]) -> str:
        return self.draw(st.sampled_from(values))

    def node(self, values: list[str], depth: int = 0) -> list[onnx.NodeProto]:
        before: list[onnx.NodeProto] = []
        kinds = ["unary", "binary", "split", "constant"] + (["if"] if depth < 2 else [])
        kind = self.draw(st.sampled_from(kinds))
        name = self.draw(st.sampled_from(["", f"node_{next(self.names)}"]))
        out = f"t{next(self.names)}"
        if kind == "unary":
            made = helper.make_node(self.one_of(list(UNARY)), [self.one_of(values)], [out], name=name)
        elif kind == "binary":
            reads = [self.one_of(values), self.one_of(values)]
            made = helper.make_node(self.one_of(list(BINARY)), reads, [out], name=name)
        elif kind == "constant":
            array = numpy_helper.from_array(np.full(SHAPE, self.draw(st.integers(-2, 2)), np.float32))
            made = helper.make_node("Constant", [], [out], name=name, value=array)
        elif kind == "split":
            both, second = f"t{next(self.names)}", f"t{next(self.names)}"
            reads = [self.one_of(values), self.one_of(values)]
            before.append(helper.make_node("Concat", reads, [both], axis=0))
            made = helper.make_node("Split", [both], [out, second], name=name, axis=0, num_outputs=2)
        else:
            made = helper.make_node("If", ["q"], [out], name=name, then_branch=self.body(values, depth),
                                    else_branch=self.body(values, depth))  # fmt: skip
        return [*before, made]

    def body(self, values: list[str], depth: int) -> onnx.GraphProto:
        """A branch with names of its own; `local` stands in every branch, as scopes allow."""
        local = f"local{depth}"
        nodes = [helper.make_node("Neg", [self.one_of(values)], [local])]
        inner = [*values, local]
        for _ in range(self.draw(st.integers(0, 2))):
            nodes += self.node(inner, depth + 1)
            inner += nodes[-1].output
        end = f"end{depth}_{next(self.names)}"
        nodes.append(helper.make_node("Identity", [self.one_of(inner)], [end]))
        return helper.make_graph(nodes, f"body{depth}", [], [info(end)])

    def model(self) -> onnx.ModelProto:
        for _ in range(self.draw(st.integers(2, 12))):
            self.nodes += self.node(self.values)
            self.values += self.nodes[-1].output
        made = [name for name in self.values if name not in self.weights and name[0] == "t"]
        ends = self.draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
        constants = {**self.weights, "unused": np.zeros(7, "f4")}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [info("x0"), info("x1"), helper.make_tensor_value_info("q", onnx.TensorProto.BOOL, [])],
            [info(name) for name in ends],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE)


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    return Builder(draw).model()


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node needs from its graph, by the rule of scopes: free names of its bodies."""
    found = set(node.input) - {""}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            own: set[str] = set()
            for inner in attribute.g.node:
                found |= reads(inner) - own
                own |= set(inner.output)
            found |= {value.name for value in attribute.g.output} - own
    return found


def oracle(model: onnx.ModelProto, start: str) -> tuple[set[str], set[str]]:
    """What crosses a cut at one tensor, by reachability over all pairs: (tensors, inputs of the model)."""
    nodes = list(model.graph.node)
    inputs = {value.name for value in model.graph.input}
    varying = set(inputs) | {start}
    for node in nodes:
        if reads(node) & varying:
            varying |= set(node.output) - {""}
    names = sorted(varying)
    edge = np.zeros((len(names), len(names)), bool)
    place = {name: index for index, name in enumerate(names)}
    for node in nodes:
        for a in reads(node) & varying:
            for b in set(node.output) & varying:
                edge[place[a], place[b]] = True
    reach = np.linalg.matrix_power(edge.astype(float) + np.eye(len(names)), len(names)) > 0
    near = {name for name in names if reach[place[name], place[start]]}
    far = [name for name in names if name not in near]
    ends = {value.name for value in model.graph.output} & varying
    index = [place[name] for name in far]
    inner = edge[np.ix_(index, index)]
    within = np.linalg.matrix_power(inner.astype(float) + np.eye(len(far)), max(len(far), 1)) > 0
    needed = {a for i, a in enumerate(far) if any(within[i, j] and b in ends for j, b in enumerate(far))}
    crossing = {name for name in near if name in ends or any(edge[place[name], place[n]] for n in needed)}
    return crossing - inputs, crossing & inputs


@settings(max_examples=150, deadline=None)
@given(model=models(), data=st.data())
def test_frontiers_are_those_of_the_oracle(model: onnx.ModelProto, data: Any, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("g") / "net.onnx"
    path.write_bytes(model.SerializeToString())
    source = open_onnx_file(path)
    start = data.draw(st.sampled_from([name for node in model.graph.node for name in node.output]))
    starts = select([start], source.layers)
    edge = frontier(source.export([], None), starts, source.outputs)
    tensors, inputs = oracle(model, start)
    assert {b.name for b in (*edge.cut, *edge.crossing)} == tensors
    assert set(edge.inputs) == inputs
    assert bool(edge.idle) == (start not in tensors)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(model=models(), q=st.booleans())
def test_pieces_give_what_the_whole_gives(model: onnx.ModelProto, q: bool, tmp_path_factory: Any) -> None:
    onnx.checker.check_model(model, full_check=True)
    assume(intermediate(model))
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=SHAPE).astype(np.float32) for name in ("x0", "x1")}
    case = Case("random", "graph", model, {**feeds, "q": np.array(q)})
    folder: Path = tmp_path_factory.mktemp("g")
    # Not joined: add_prefix of onnx.compose does not reach what inner branches of branches capture.
    outcomes = examine(case, cut_in_two, folder)
    assert outcomes
    assert [outcome for outcome in outcomes if outcome.result != "right"] == []


@settings(max_examples=60, deadline=None)
@given(model=models())
def test_legal_cuts_are_those_with_a_frontier_of_one(model: onnx.ModelProto, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("g") / "net.onnx"
    path.write_bytes(model.SerializeToString())
    source = open_onnx_file(path)
    layered = source.export([], None)
    legal = legal_cuts(layered, source.outputs)
    for layer in (layer for layer in layered.layers if len(layer.boundaries) == 1):
        tensors, inputs = oracle(model, layer.boundaries[0].name)
        one = tensors == {layer.boundaries[0].name} and not inputs
        varying = any(b.name in tensors for b in layer.boundaries) and _depends(
            model, layer.boundaries[0].name
        )
        assert (layer.name in legal) == (one and varying)


def _depends(model: onnx.ModelProto, name: str) -> bool:
    """Whether an input has a part in this tensor."""
    found = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if reads(node) & found:
            found |= set(node.output)
    return name in found


def test_pieces_of_pieces(tmp_path: Path) -> None:
    """A trunk is a file like any other: cut again, it gives what the first file's shorter trunk is."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2, 3] x) => (float[2, 3] y)
    { a = Relu(x) b = Tanh(a) c = Abs(b) y = Neg(c) }"""
    whole = tmp_path / "whole.onnx"
    whole.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    long, _, _ = cut_in_two(whole, "c", tmp_path)
    again = long.rename(tmp_path / "long.onnx")
    source = open_onnx_file(again)
    piece = cut(source.export([], None), "trunk", (), select(["b"], source.layers))
    assert piece.nodes == 2
    with pytest.raises(Exception, match="no layer is called"):
        select(["y"], source.layers)
