"""--surgery: the user's own rewrite of a piece, and what is said of its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from fixtures.digits import keras_digits
from fixtures.digits.data import digits
from fixtures.onnx_text import saved

REWRITES = '''
import numpy as np
import onnx_graphsurgeon as gs

def probabilities(graph):
    """Put a Softmax behind the piece, under a name of its own."""
    old = graph.outputs[0]
    new = gs.Variable("probabilities", dtype=np.float32, shape=old.shape)
    graph.nodes.append(gs.Node("Softmax", "softmax", {"axis": 1}, [old], [new]))
    graph.outputs = [new]

def constants(graph):
    return graph.fold_constants()

def squared(graph):
    """Claims to change nothing, and does."""
    node = next(node for node in graph.nodes if node.op == "Relu")
    node.op = "Tanh"

def renamed(graph):
    graph.outputs[0].name = "another"

def nothing(graph):
    return "no graph"

def failing(graph):
    raise ValueError("of the user's own")

def invalid(graph):
    graph.nodes[-1].op = "NoSuchOperator"

def not_a_number(graph):
    old = graph.outputs[0]
    new = gs.Variable("root", dtype=np.float32, shape=old.shape)
    minus = gs.Constant("minus", np.array(-1, np.float32))
    negative = gs.Variable("negative", dtype=np.float32)
    graph.nodes.append(gs.Node("Mul", "mul", {}, [old, minus], [negative]))
    graph.nodes.append(gs.Node("Log", "log", {}, [negative], [new]))
    graph.outputs = [new]
'''


@pytest.fixture
def convert(converter_command: Any, tmp_path: Path) -> Any:
    (tmp_path / "rewrites.py").write_text(REWRITES)

    def run(source: Path, *arguments: Any, rewrite: str) -> Any:
        place = f"{tmp_path / 'rewrites.py'}:{rewrite}"
        return converter_command(
            "convert", source, *arguments, "--surgery", place, "--output", tmp_path / "out"
        )

    return run


def test_a_rewrite_that_changes_values_is_checked_by_shape(convert: Any, tmp_path: Path) -> None:
    import keras

    done = convert(keras_digits.FILE, "--to", "features", rewrite="probabilities")
    assert done.returncode == 0, done.stderr
    assert "SHAPES ONLY" in done.stdout
    images = digits().test_images[:9, ..., None]
    session = onnxruntime.InferenceSession(tmp_path / "out/trunk.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["probabilities"], {"image": images})
    net = keras.models.load_model(keras_digits.FILE)
    features = np.asarray(keras.Model(net.input, net.get_layer("features").output)(images))
    exp = np.exp(features - features.max(1, keepdims=True))
    np.testing.assert_allclose(got, exp / exp.sum(1, keepdims=True), atol=1e-5)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["validation"]["status"] == "SHAPES ONLY"
    model = onnx.load(tmp_path / "out/trunk.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["converter.validation"] == "shapes only: CPUExecutionProvider"
    layers = {p.value for node in model.graph.node for p in node.metadata_props if p.key == "converter.layer"}
    assert {"conv1", "conv2", "features"} <= layers  # graphsurgeon itself drops them


def test_a_rewrite_that_claims_to_preserve_values_is_held_to_it(convert: Any, tmp_path: Path) -> None:
    done = convert(keras_digits.FILE, "--to", "features", "--surgery-preserves", rewrite="constants")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    before = (tmp_path / "out/trunk.onnx").read_bytes()
    done = convert(keras_digits.FILE, "--to", "features", "--surgery-preserves", rewrite="squared")
    assert done.returncode == 5
    assert "comparisons failed" in done.stderr
    done = convert(keras_digits.FILE, "--to", "features", "--surgery-preserves", rewrite="renamed")
    assert done.returncode == 6
    assert "cannot preserve values" in done.stderr
    assert (tmp_path / "out/trunk.onnx").read_bytes() == before


NET = "net (float[n, 4] x) => (float[n, 4] y) { [first] a = Relu(x) [second] b = Neg(a) [third] y = Relu(b) }"


def test_an_onnx_file_keeps_its_opset_and_notes(convert: Any, tmp_path: Path) -> None:
    path = saved(NET.replace("y) {", "y) {"), tmp_path, opsets='"": 11')
    model = onnx.load(path)
    model.doc_string = "a note"
    model.graph.node[0].doc_string = "of the first"
    model.graph.node[1].metadata_props.add(key="scope", value="middle")
    onnx.save(model, path)
    done = convert(path, "--to", "b", rewrite="probabilities")
    assert done.returncode == 0, done.stderr
    made = onnx.load(tmp_path / "out/trunk.onnx")
    assert made.opset_import[0].version == 11
    assert made.doc_string == "a note"
    assert made.graph.node[0].doc_string == "of the first"
    assert [p.value for p in made.graph.node[1].metadata_props] == ["middle"]
    assert [node.op_type for node in made.graph.node] == ["Relu", "Neg", "Softmax"]


@pytest.mark.parametrize(
    ("rewrite", "options", "code", "words"),
    [
        ("nothing", (), 6, "expected an onnx_graphsurgeon.Graph"),
        ("failing", (), 3, "of the user's own"),
        ("invalid", (), 6, "no valid model"),
        ("missing", (), 3, "has no function 'missing'"),
        ("not_a_number", (), 5, "NaN or infinity"),
        ("constants", ("--targets", "onnx,keras"), 2, "target keras would not have it"),
    ],
)
def test_rewrites_that_go_wrong(
    convert: Any, tmp_path: Path, rewrite: str, options: Any, code: int, words: str
) -> None:
    done = convert(keras_digits.FILE, "--to", "features", *options, rewrite=rewrite)
    assert done.returncode == code, done.stderr
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_graphsurgeon_cannot_carry_is_refused(convert: Any, tmp_path: Path) -> None:
    body = "s = SequenceConstruct(x, x) i = Constant <value_int = 0> () y = SequenceAt(s, i)"
    text = f"net (float[4] x) => (float[4] y) {{ {body} }}"
    path = saved(text, tmp_path)
    done = convert(path, "--to", "s", rewrite="constants")
    assert done.returncode == 6
    assert "carries tensors alone" in done.stderr
    done = convert(keras_digits.FILE, "--to", "features", rewrite="constants")
    assert done.returncode == 0
    bare = convert(keras_digits.FILE, rewrite="constants")
    assert bare.returncode == 0, bare.stderr


def test_the_same_in_python(tmp_path: Path) -> None:
    import onnx_graphsurgeon as gs

    import converter

    def tanh(graph: gs.Graph) -> None:
        graph.nodes[-1].op = "Tanh"

    model = converter.load(saved(NET, tmp_path))
    assert model.cut(to="b", surgery=tanh).save(tmp_path / "out").status == "SHAPES ONLY"
    with pytest.raises(converter.ValidationError, match="comparisons failed"):
        model.cut(to="b", surgery=tanh, surgery_preserves=True).save(tmp_path / "no")
