"""Every artifact of one cut, each loaded again and compared; what cannot be made takes no other with it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import converter
from converter.errors import TargetError, ValidationError
from converter.rebuilding import keras as to_keras
from converter.rebuilding import torch as to_torch

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())
TARGETS = [
    *("onnx", "ort", "openvino", "keras", "h5", "savedmodel", "checkpoint"),
    *("tflite", "tflite-fp16", "tflite-int8", "torch", "pt2", "state_dict"),
]
MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        return self.head(torch.flatten(self.block(x), 1))


def net():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(MODULE)
    return f"{tmp_path / 'nets.py'}:net"


def loaded(factory: str, **options: Any) -> converter.Model:
    torch = pytest.importorskip("torch")
    return converter.load(factory, example=torch.zeros(2, 3, 16, 16), **options)


def kinds_passed(document: Any) -> set[str]:
    assert document.proof is not None
    return {c.target for c in document.proof.comparisons if c.passed}


@pytest.mark.timeout(900)
def test_every_artifact_of_a_keras_cut(structure: Any, tmp_path: Path) -> None:
    cut = converter.load(structure("residual")).cut(to="inner2")
    document = cut.save(tmp_path / "out", targets=TARGETS)
    assert kinds_passed(document) == set(TARGETS)
    report = json.loads((tmp_path / "out/report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert {target["kind"] for target in report["targets"]} == set(TARGETS)
    assert all((tmp_path / "out" / target["path"]).is_file() for target in report["targets"])
    assert not list((tmp_path / "out").glob(".*"))
    lossy = {c["target"]: c["tolerance"] for c in report["validation"]["comparisons"]}
    assert lossy["tflite"] < lossy["tflite-fp16"] < lossy["tflite-int8"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["source", "native"])
def test_a_split_model_of_pytorch_in_keras(factory: str, tmp_path: Path, layout: str) -> None:
    cut = loaded(factory).cut(split="block.0")
    targets = ["onnx", "keras", "h5", "savedmodel", "torch", "safetensors", "tflite"]
    document = cut.save(tmp_path, targets=targets, layout=layout)
    assert kinds_passed(document) == set(targets)
    joined = {c.target for c in document.proof.comparisons if "∘" in c.piece}  # type: ignore[union-attr]
    assert joined == set(targets)
    turned = {t["path"]: t.get("turned") for t in document.targets}
    if layout == "source":
        assert not any(turned.values())
    else:
        assert turned["trunk.keras"] == {"image": [0, 2, 3, 1], "block.0": [0, 2, 3, 1]}
        assert turned["trunk.py"] is None
        assert turned["trunk.safetensors"] is None
    import keras

    trunk = keras.saving.load_model(tmp_path / "trunk.keras")
    assert [layer.name for layer in trunk.layers if layer.weights] == ["stem", "norm", "block.0"]
    shape = (None, 16, 16, 3) if layout == "native" else (None, 3, 16, 16)
    assert trunk.inputs[0].shape == shape


def test_an_onnx_file_in_both_frameworks(factory: str, tmp_path: Path) -> None:
    loaded(factory).cut().save(tmp_path / "whole")
    cut = converter.load(tmp_path / "whole/model.onnx").cut()
    document = cut.save(tmp_path / "both", targets=["keras", "torch", "pt2", "ort"])
    assert kinds_passed(document) == {"keras", "torch", "pt2", "ort"}
    module = cut.native("torch")
    assert {"stem.weight", "block.0.weight", "head.weight"} <= set(module.state_dict())


def test_the_text_stands_alone(structure: Any, tmp_path: Path) -> None:
    converter.load(structure("residual")).cut(to="inner2").save(tmp_path, targets=["torch"])
    script = (
        "import sys, torch, trunk\n"
        "model = trunk.load()\n"
        "x = torch.ones(2, *map(int, sys.argv[1].split(',')))\n"
        "print(float(model(x).abs().sum()))\n"
        "assert 'converter' not in sys.modules and 'keras' not in sys.modules\n"
    )
    size = ",".join(map(str, structure("residual").input_shape[1:]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.')\n{script}", size],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    assert "converter" not in (tmp_path / "trunk.py").read_text()


def test_pytorch_sources_keep_the_keys_of_their_weights(factory: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    loaded(factory).cut(to="block").save(tmp_path, targets=["torch", "safetensors"])
    paths = sorted(path.name for path in tmp_path.iterdir())
    spec = importlib.util.spec_from_file_location("kept_keys", tmp_path / "trunk.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    state = module.load().state_dict()
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    original = namespace["net"]().state_dict()
    assert set(state) < set(original)
    assert all(torch.equal(state[key], original[key]) for key in state)
    assert "trunk.py" in paths


def test_targets_that_cannot_be_made_are_left_out(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(factory)
    with pytest.raises(TargetError) as caught:
        model.cut(to="block").save(tmp_path / "out", targets=["onnx", "tensorrt", "coreml", "keras"])
    report = json.loads((tmp_path / "out/report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert {failed["kind"] for failed in report["failures"]} >= {"tensorrt"}
    assert caught.value.exit_code == 6
    assert caught.value.report.status == "passed"
    assert {t["kind"] for t in report["targets"]} == {"onnx", "keras"}
    with pytest.raises(TargetError, match="tensorrt"):
        model.cut(to="block").save(tmp_path / "none", targets=["tensorrt"])
    assert not (tmp_path / "none").exists()


def test_what_does_not_load_again_is_left_out(
    structure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.targets import TARGETS as KNOWN

    def broken(*_: Any) -> Any:
        raise TargetError("it does not load")

    monkeypatch.setattr(KNOWN["savedmodel"], "reload", broken)
    cut = converter.load(structure("residual")).cut(to="inner2")
    with pytest.raises(TargetError, match="savedmodel: it does not load"):
        cut.save(tmp_path / "out", targets=["onnx", "savedmodel"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.json",
        "trunk.onnx",
    ]


def test_what_computes_something_else_stops_the_run(
    structure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.targets import TARGETS as KNOWN

    reload = KNOWN["torch"].reload

    def wrong(*given: Any) -> Any:
        run = reload(*given)
        return lambda feeds: {name: array * 1.01 for name, array in run(feeds).items()}

    monkeypatch.setattr(KNOWN["torch"], "reload", wrong)
    cut = converter.load(structure("residual")).cut(to="inner2")
    with pytest.raises(ValidationError, match=r"trunk\.py"):
        cut.save(tmp_path / "out", targets=["onnx", "torch"])
    assert not (tmp_path / "out").exists()


def test_an_operator_without_a_rule_is_named(tmp_path: Path) -> None:
    import onnx

    text = """<ir_version: 9, opset_import: ["" : 18]> agraph (float[N, 4] x) => (float[N, 4] y) {
        [cast] n = Cast <to = 2> (x) [shift] s = BitShift <direction = "LEFT"> (n, n)
        y = Cast <to = 1> (s) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "odd.onnx")
    with pytest.raises(TargetError, match=r"keras: BitShift \(node 'shift.*no rule for BitShift version 11"):
        converter.load(tmp_path / "odd.onnx").cut().save(
            tmp_path / "out", targets=["onnx", "keras", "torch"], validate=False
        )
    assert (tmp_path / "out/model.onnx").exists()


def test_objects_of_both_frameworks(structure: Any) -> None:
    keras = pytest.importorskip("keras")
    cut = converter.load(structure("residual")).cut(split="inner2")
    trunk = cut.native("torch", "trunk", layout="native")
    assert not trunk.training
    assert all(weight.requires_grad for weight in trunk.parameters())
    assert isinstance(cut.native("keras", "head"), keras.Model)
    with pytest.raises(converter.UsageError, match="torch or keras"):
        cut.native("jax")


def test_what_the_source_does_not_train_is_not_trained(factory: str) -> None:
    model = loaded(factory).edit(freeze="stem")
    net = model.cut(to="block").native("keras")
    frozen = {layer.name: layer.trainable for layer in net.layers if layer.weights}
    assert frozen == {"stem": False, "norm": True, "block.0": True}


@pytest.mark.parametrize("tables", [to_torch, to_keras], ids=["torch", "keras"])
def test_a_second_rule_for_an_operator_is_refused(tables: Any) -> None:
    domain, op, version = next(iter(tables.table))
    with pytest.raises(ValueError, match="has a rule already"):
        tables.table(op, version, domain=domain)(lambda *_: None)
    with pytest.raises(ValueError, match="has no version 99"):
        tables.table("Relu", 99)(lambda *_: None)


LAYERS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, signal):
        x = torch.relu(self.norm(self.conv(signal)))
        return self.out(self.gru(self.lstm(x.transpose(1, 2))[0])[0])


def net():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for weight in (model.norm.weight, model.norm.bias):
            weight.uniform_(0.5, 2)
    return model
"""


def test_normalizations_of_groups_and_recurrent_layers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "nets.py").write_text(LAYERS)
    model = converter.load(f"{tmp_path / 'nets.py'}:net", example=torch.zeros(2, 3, 7))
    cut = model.cut()
    rebuilt = cut.native("torch")
    kinds = {name: type(module).__name__ for name, module in rebuilt.named_children()}
    assert kinds == {"conv": "Conv1d", "norm": "GroupNorm", "lstm": "LSTM", "gru": "GRU", "out": "Linear"}
    original = model.native().state_dict()
    state = rebuilt.state_dict()
    assert set(state) == set(original)
    assert all(torch.equal(state[key], original[key]) for key in state)
    network = cut.native("keras")
    kinds = {layer.name: type(layer).__name__ for layer in network.layers if layer.weights}
    assert kinds == {
        "conv": "Conv1D",
        "norm": "GroupNormalization",
        "lstm": "LSTM",
        "gru": "GRU",
        "out": "Dense",
    }


def test_weights_of_two_names_are_trained(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.alias = self.layer

        def forward(self, x: Any) -> Any:
            return self.layer(torch.tanh(self.alias(x)))

    torch.manual_seed(0)
    cut = converter.load(Tied(), example=torch.zeros(2, 4)).cut()
    assert all(weight.requires_grad for weight in cut.native("torch").parameters())
    network = cut.native("keras")
    assert len(network.trainable_weights) == 2
    assert network.count_params() == 20


def test_what_is_new_and_what_was_in_batch_statistics(structure: Any) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, momentum=0.01))
    rebuilt = converter.load(module, example=torch.zeros(2, 3, 8, 8)).cut().native("torch")
    (norm,) = [m for m in rebuilt.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norm.momentum == pytest.approx(0.01)


def test_same_padding_of_images_of_any_size() -> None:
    keras = pytest.importorskip("keras")
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(image)
    model = keras.Model(image, keras.layers.DepthwiseConv2D(5, strides=2, padding="same", name="deep")(x))
    module = converter.load(model).cut().native("torch", layout="native")
    for height, width in ((16, 16), (17, 21), (30, 9)):
        images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
        with torch.no_grad():
            got = module(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(got, np.asarray(model(images)), atol=1e-5)


@pytest.mark.parametrize("name", ["Image", "layer1.0.conv2/Conv:0", "x"])
def test_inputs_of_any_name_in_signatures(name: str, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])
    node = helper.make_node("Conv", [name, "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", [given], [made], [numpy_helper.from_array(kernel, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "odd.onnx")
    document = (
        converter.load(tmp_path / "odd.onnx").cut().save(tmp_path / "out", targets=["tflite", "savedmodel"])
    )
    assert kinds_passed(document) == {"tflite", "savedmodel"}


def test_the_support_page_has_the_tables() -> None:
    """What rules there are stands in docs/support.md, as `python benchmarks/support.py --write` makes it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from support import table_lines
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs/support.md").read_text().splitlines()
    missing = [line for line in table_lines() if not any(each.startswith(line) for each in page)]
    assert not missing
