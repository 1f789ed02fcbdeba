"""Changed models against what one would have built by hand in the framework; what training does to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import converter
from converter.errors import CutError, TargetError, UsageError
from fixtures.digits import keras_digits, torch_digits
from fixtures.digits.data import digits
from fixtures.onnx_text import saved
from fixtures.torch_models import build


def run(path: Path, *feeds: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((i.name for i in session.get_inputs()), feeds, strict=True)))[0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype("float32")


def agree(got: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    assert expected.std() > 1e-4
    np.testing.assert_allclose(np.asarray(got), expected, atol=1e-5 * np.abs(expected).max())


# ---------------------------------------------------------------- Keras


def test_a_keras_trunk_with_a_new_head(structure: Callable[[str], Any], tmp_path: Path) -> None:
    import keras

    source = structure("residual")
    before = [array.copy() for array in source.get_weights()]
    model = converter.load(source).edit(to="join", head="gap,dropout(0.5),dense(4,softmax)")
    document = model.cut().save(tmp_path, targets=["onnx", "keras"])
    assert document.status == "passed"
    assert {c.piece for c in document.proof.comparisons} == {"model", "model.keras", "unchanged part"}
    made = model.native()
    assert [layer.name for layer in made.layers[-3:]] == ["head_gap", "head_dropout", "head_dense"]
    dense = made.get_layer("head_dense")
    x = noise(5, 16, 16, 3)
    features = np.asarray(keras.Model(source.input, source.get_layer("join").output)(x)).mean((1, 2))
    kernel, bias = (np.asarray(v) for v in dense.weights)
    logits = features @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    agree(run(tmp_path / "model.onnx", x), expected)
    agree(keras.models.load_model(tmp_path / "model.keras")(x), expected)
    assert all(np.array_equal(a, b) for a, b in zip(before, source.get_weights(), strict=True))
    facts = json.loads((tmp_path / "report.json").read_text())["edits"]
    assert facts["head"] == "gap,dropout(0.5),dense(4,softmax)"
    assert facts["weights"]["new"] == ["head_dense/kernel", "head_dense/bias"]


def test_a_keras_layer_replaced_in_the_middle_and_at_the_end(tmp_path: Path) -> None:
    import keras
    from keras import layers

    given = keras.Input((6,), name="given")
    first = layers.Dense(8, activation="relu", name="first")(given)
    middle = layers.Dense(8, name="middle")(first)
    joined = layers.Add(name="joined")([first, middle])
    source = keras.Model(given, layers.Dense(3, name="last")(joined))
    model = converter.load(source).edit(
        replace={"middle": "dense(8,tanh)", "last": "dense(16,relu),dense(2)"}
    )
    model.cut().save(tmp_path)
    made = model.native()
    assert [layer.name for layer in made.layers][1:] == [
        "first",
        "middle",
        "joined",
        "last_dense",
        "last_dense_1",
    ]
    x = noise(5, 6)
    a = np.asarray(keras.Model(given, first)(x))
    kernels = {
        n: [np.asarray(v) for v in made.get_layer(n).weights]
        for n in ("middle", "last_dense", "last_dense_1")
    }
    b = a + np.tanh(a @ kernels["middle"][0] + kernels["middle"][1])
    c = np.maximum(b @ kernels["last_dense"][0] + kernels["last_dense"][1], 0)
    agree(run(tmp_path / "model.onnx", x), c @ kernels["last_dense_1"][0] + kernels["last_dense_1"][1])
    with pytest.raises(CutError, match=r"\[batch, 8\], and what is to replace it float32\[batch, 9\]"):
        converter.load(source).edit(replace={"middle": "dense(9)"})


def test_keras_blocks_are_dropped_as_wholes(tmp_path: Path) -> None:
    import keras
    from keras import layers

    given = value = keras.Input((6,), name="given")
    for block in range(4):
        inner = layers.Dense(9, activation="relu", name=f"block{block}_up")(value)
        inner = layers.Dense(6, name=f"block{block}_down")(inner)
        value = layers.Add(name=f"block{block}_out")([value, inner])
    source = keras.Model(given, layers.Dense(3, name="last")(value))
    model = converter.load(source).edit(drop=["block1..2_*"])
    model.cut().save(tmp_path)
    names = [layer.name for layer in model.native().layers]
    assert names[1:] == [
        "block0_up",
        "block0_down",
        "block0_out",
        "block3_up",
        "block3_down",
        "block3_out",
        "last",
    ]
    x = noise(5, 6)
    expected = x
    for block in (0, 3):
        up = source.get_layer(f"block{block}_up")(expected)
        expected = expected + np.asarray(source.get_layer(f"block{block}_down")(up))
    agree(run(tmp_path / "model.onnx", x), np.asarray(source.get_layer("last")(expected)))
    for pattern, words in [
        ("block1_up", "do not agree"),
        ("block1_out", "any of them could go on"),
        ("block1_[ud]*", None),
        ("block2..1_up", "numbers that go up"),
        ("block9_*", "no layer matches"),
    ]:
        if words is None:
            converter.load(source).edit(drop=[pattern])
            continue
        with pytest.raises(CutError, match=words):
            converter.load(source).edit(drop=[pattern])


@pytest.mark.parametrize(
    ("name", "layer"),
    [("nested", None), ("subclassed", None), ("shared_layer", None), ("sequential", "pool")],
)
def test_heads_on_models_of_all_structures(
    structure: Callable[[str], Any], name: str, layer: str | None, tmp_path: Path
) -> None:
    """A head goes onto every inner layer that puts out one float tensor; our own proof runs Keras itself."""
    model = converter.load(structure(name))
    fitting = [la.name for la in model.layers if len(la.boundaries) == 1]
    tried = 0
    for each in [layer] if layer else fitting[::3]:
        head = (
            "dense(3)"
            if len(next(la for la in model.layers if la.name == each).boundaries[0].spec.shape) < 3
            else "gap,dense(3)"
        )
        document = model.edit(to=each, head=head).cut().save(tmp_path, targets=["onnx", "keras"])
        assert document.status == "passed"
        tried += 1
    assert tried


@pytest.mark.parametrize(("name", "layer"), [("shared_layer", "shared"), ("subclassed", "tail/one")])
def test_a_keras_layer_that_reads_an_input_is_dropped(
    structure: Callable[[str], Any], name: str, layer: str
) -> None:
    """The input of the model, or of a model in it, goes on: without the layer, so does its input."""
    model = converter.load(structure(name)).edit(drop=layer)
    assert model.cut().validate().passed
    assert layer.rpartition("/")[2] not in [each.name for each in model.native().layers]


def _batch_statistics(model: Any) -> list[np.ndarray]:
    return [np.asarray(v) for v in model.non_trainable_variables if "moving" in v.path]


def test_a_keras_model_trains_and_what_is_frozen_does_not_move(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    data = digits()
    model = converter.load(keras_digits.FILE).edit(
        to="pool2", head="flatten,dense(32,relu),dropout(0.2),dense(10,softmax)", freeze="*"
    )
    model.cut().save(tmp_path, targets=["onnx", "keras"])
    made = keras.models.load_model(tmp_path / "model.keras")
    assert {v.path.split("/")[0] for v in made.trainable_variables} == {"head_dense", "head_dense_1"}
    frozen = {
        v.path: np.asarray(v).copy() for v in made.variables if "head" not in v.path and "seed" not in v.path
    }
    statistics = [array.copy() for array in _batch_statistics(made)]
    head = [np.asarray(v).copy() for v in made.trainable_variables]
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    made.fit(data.train_images[..., None], data.train_labels, epochs=4, verbose=0)
    after = {v.path: np.asarray(v) for v in made.variables}
    assert frozen
    assert statistics
    assert all(np.array_equal(array, after[path]) for path, array in frozen.items())
    assert all(np.array_equal(a, b) for a, b in zip(statistics, _batch_statistics(made), strict=True))
    assert all(
        not np.array_equal(a, np.asarray(v)) for a, v in zip(head, made.trainable_variables, strict=True)
    )
    assert made.evaluate(data.test_images[..., None], data.test_labels, verbose=0)[1] > 0.95
    assert converter.load(made).cut().save(tmp_path / "trained").status == "passed"
    answer = run(tmp_path / "trained" / "model.onnx", data.test_images[..., None])
    agree(answer, made.predict(data.test_images[..., None], verbose=0))


def test_all_of_a_keras_trunk_trains_where_nothing_is_frozen() -> None:
    import keras

    made = converter.load(keras_digits.FILE).edit(to="pool2", head="gap,dense(10,softmax)").native()
    made.compile("adam", "sparse_categorical_crossentropy")
    before = [np.asarray(v).copy() for v in made.variables]
    statistics = [array.copy() for array in _batch_statistics(made)]
    data = digits()
    made.fit(data.train_images[:256, ..., None], data.train_labels[:256], epochs=1, verbose=0)
    assert all(
        not np.array_equal(a, np.asarray(v))
        for a, v in zip(before, made.variables, strict=True)
        if a.size > 1
    )
    assert all(not np.array_equal(a, b) for a, b in zip(statistics, _batch_statistics(made), strict=True))
    assert isinstance(made, keras.Model)


def test_keras_freezes_whole_layers(structure: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match="freezes layers as a whole"):
        converter.load(keras_digits.FILE).edit(freeze=["features/kernel"])
    with pytest.raises(CutError, match="no layer or weight"):
        converter.load(keras_digits.FILE).edit(freeze="nothing*")


# ---------------------------------------------------------------- PyTorch


def loaded(name: str = "residual") -> tuple[Any, Any, converter.Model]:
    net, example = build(name)
    return net, example, converter.load(net, example=example)


def test_a_pytorch_trunk_with_a_new_head(tmp_path: Path) -> None:
    import torch

    factory = f"{torch_digits.__file__}:build"
    model = converter.load(factory, weights=str(torch_digits.FILE), example=("1x1x8x8",))
    edited = model.edit(to="trunk.7", head="flatten,dense(16,gelu),dropout(0.3),dense(4)")
    document = edited.cut().save(tmp_path, targets=["onnx", "state_dict", "safetensors", "pt2"])
    assert document.status == "passed"
    net = edited.native()
    assert type(net).__name__ == "Net"
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    original = model.native().state_dict()
    kept = [name for name in state if name in original]
    assert len(kept) == 12
    assert all(torch.equal(state[name], original[name]) for name in kept)
    assert sorted(set(state) - set(kept)) == [
        "head.dense.bias",
        "head.dense.weight",
        "head.dense_1.bias",
        "head.dense_1.weight",
    ]
    assert net.features is None
    x = torch.from_numpy(noise(5, 1, 8, 8))
    with torch.no_grad():
        features = model.native().eval().trunk(x)
        hidden = torch.nn.functional.gelu(features @ state["head.dense.weight"].T + state["head.dense.bias"])
        expected = hidden @ state["head.dense_1.weight"].T + state["head.dense_1.bias"]
        agree(net(x), expected)
        agree(copy.deepcopy(net)(x), expected)
    agree(run(tmp_path / "model.onnx", x.numpy()), expected)


def test_pytorch_modules_replaced_and_dropped(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(self.act(self.up(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(4))
            self.last = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.last(x).softmax(-1)

    torch.manual_seed(0)
    net = Net().eval()
    model = converter.load(net, example=torch.zeros(1, 6))
    edited = model.edit(drop="layers.1..2", replace={"last": "dense(5)", "layers.3.down": "dense(6,tanh)"})
    edited.cut().save(tmp_path, targets=["onnx", "state_dict"])
    made = edited.native()
    x = torch.from_numpy(noise(5, 6))
    with torch.no_grad():
        value = net.layers[0](x)
        block = net.layers[3]
        value = value + torch.tanh(made.layers[3].down.dense(block.act(block.up(value))))
        agree(made(x), made.last(value).softmax(-1))
    agree(run(tmp_path / "model.onnx", x.numpy()), made(x).detach())
    names = set(made.state_dict())
    assert not any(name.startswith(("layers.1.", "layers.2.")) for name in names)
    assert {"layers.0.up.weight", "layers.3.up.weight", "last.weight", "layers.3.down.dense.weight"} <= names
    assert made.last.out_features == 5
    for changes, words in [
        ({"drop": "layers.1.up"}, "do not agree"),
        ({"drop": "last"}, "do not agree"),
        ({"replace": {"layers.1.down": "dense(7)"}}, "does not run"),
        ({"replace": {"layers.1.act": "dense(7)"}}, "same shape"),
        ({"drop": "layers.9"}, "no layer is called"),
        ({"drop": "layers.1..9"}, "no layer is called 'layers.4'"),
    ]:
        with pytest.raises(CutError, match=words):
            model.edit(**changes)


def test_transformer_blocks_are_dropped_by_name_and_by_range() -> None:
    import torch

    from converter.sources.torch import backend

    vision = backend.torchvision()
    torch.manual_seed(0)
    net = vision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    ).eval()
    torch.nn.init.normal_(net.heads.head.weight)
    model = converter.load(net, example=torch.zeros(1, 3, 16, 16))
    edited = model.edit(drop="encoder.layers.encoder_layer_1..2", replace={"heads.head": "dense(7)"})
    assert edited.cut().validate().passed
    layers = [net.encoder.layers[0], net.encoder.layers[3]]
    x = torch.from_numpy(noise(2, 3, 16, 16))
    with torch.no_grad():
        tokens = torch.cat([net.class_token.expand(2, -1, -1), net._process_input(x)], 1)
        tokens = net.encoder.ln(torch.nn.Sequential(*layers)(tokens + net.encoder.pos_embedding))
        agree(edited.native()(x), edited.native().heads.head(tokens[:, 0]))


def test_chains_of_pytorch_modules_are_dropped_together() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6), nn.Linear(6, 2)).eval()
    made = converter.load(net, example=torch.zeros(1, 6)).edit(drop="1..3").native()
    x = torch.from_numpy(noise(5, 6))
    agree(made(x).detach(), net[4](net[0](x)).detach())
    with pytest.raises(CutError, match="do not agree"):
        converter.load(net, example=torch.zeros(1, 6)).edit(drop="2..3")


@pytest.mark.parametrize("name", ["residual", "aliased", "shared", "text", "encoder", "recurrent", "unet"])
def test_heads_on_pytorch_models_of_all_structures(name: str, tmp_path: Path) -> None:
    _, _, model = loaded(name)
    tried = 0
    fitting = [
        la for la in model.layers if len(la.boundaries) == 1 and la.boundaries[0].spec.dtype == "float32"
    ]
    for layer in fitting[:: max(len(fitting) // 5, 1)]:
        rank = len(layer.boundaries[0].spec.shape)
        edited = model.edit(to=layer.name, head="dense(3)" if rank < 4 else "gap,dense(3)", channels="auto")
        document = edited.cut().save(tmp_path, targets=["onnx", "state_dict"])
        assert document.status == "passed", layer.name
        assert edited.native().train() is not None
        tried += 1
    assert tried


def test_a_pytorch_model_trains_and_what_is_frozen_does_not_move(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    data = digits()
    factory = f"{torch_digits.__file__}:build"
    model = converter.load(factory, weights=str(torch_digits.FILE), example=("1x1x8x8",))
    edited = model.edit(to="trunk.7", head="flatten,dense(32,relu),dropout(0.2),dense(10)", freeze="trunk")
    net = edited.native().train()
    assert net.head.dropout.training
    frozen = {n: t.clone() for n, t in net.state_dict().items() if n.startswith("trunk")}
    head = {n: t.clone() for n, t in net.state_dict().items() if n.startswith("head")}
    assert len(frozen) == 12
    assert not any(p.requires_grad for n, p in net.named_parameters() if n.startswith("trunk"))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=2e-3)
    images, labels = torch.from_numpy(data.train_images[:, None]), torch.from_numpy(data.train_labels)
    for _ in range(4):
        for chosen in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    state = net.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in frozen.items())
    assert all(not torch.equal(tensor, state[name]) for name, tensor in head.items())
    net.eval()
    with torch.no_grad():
        answer = net(torch.from_numpy(data.test_images[:, None])).numpy()
    assert (answer.argmax(1) == data.test_labels).mean() > 0.95
    assert converter.load(net, example=torch.zeros(1, 1, 8, 8)).cut().save(tmp_path).status == "passed"
    agree(run(tmp_path / "model.onnx", data.test_images[:, None]), answer)


def test_batch_normalisation_follows_the_data_where_it_is_not_frozen() -> None:
    import torch

    factory = f"{torch_digits.__file__}:build"
    model = converter.load(factory, weights=str(torch_digits.FILE), example=("1x1x8x8",))
    net = model.edit(freeze="trunk.0", to="trunk.7", head="flatten,dense(3)").native().train()
    before = net.trunk[1].running_mean.clone()
    net(torch.from_numpy(noise(8, 1, 8, 8)))
    assert not torch.equal(before, net.trunk[1].running_mean)


def test_the_first_parameters_frozen_and_some_trained_all_the_same() -> None:
    _, _, model = loaded()
    names = [name for name, _ in model.native().named_parameters()]
    net = model.edit(freeze="first:5", train=names[1]).native()
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == [names[0], *names[2:5]]
    ranged = model.edit(freeze="conv1..2").native()
    assert {n for n, p in ranged.named_parameters() if not p.requires_grad} == {
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
    }
    only = model.edit(train=names[-1]).native()
    assert [n for n, p in only.named_parameters() if p.requires_grad] == [names[-1]]


# ---------------------------------------------------------------- ONNX files

NET = """net (float[batch, 6] x) => (float[batch, 3] y) {
    a = Relu(x)
    [up] u = MatMul(a, w1)
    [act] r = Tanh(u)
    [down] d = MatMul(r, w2)
    [join] s = Add(a, d)
    [last] y = MatMul(s, w3)
}"""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=s).astype("f4") for n, s in (("w1", (6, 9)), ("w2", (9, 6)), ("w3", (6, 3)))}


def test_onnx_files_are_changed(tmp_path: Path) -> None:
    w = weights()
    path = saved(NET, tmp_path, weights=w)
    x = noise(5, 6)
    a = np.maximum(x, 0)
    s = a + np.tanh(a @ w["w1"]) @ w["w2"]
    model = converter.load(path)

    def made(**changes: Any) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
        document = model.edit(**changes).cut().save(tmp_path / "out")
        assert document.status == "passed"
        proto = onnx.load(tmp_path / "out/model.onnx")
        onnx.checker.check_model(proto, full_check=True)
        held = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        return run(tmp_path / "out/model.onnx", x), held, document.edits["weights"]

    got, held, facts = made(to="join", head="dense(4,relu)")
    agree(got, np.maximum(s @ held["head/dense.kernel"] + held["head/dense.bias"], 0))
    assert (facts["kept"], facts["removed"]) == (2, 1)
    got, held, facts = made(drop=["up", "act", "down", "join"])
    agree(got, a @ w["w3"])
    assert (facts["kept"], facts["removed"], facts["new"]) == (1, 2, [])
    got, held, _ = made(drop=["up", "act", "down"])
    agree(got, (a + a) @ w["w3"])
    got, held, _ = made(drop="act")
    agree(got, (a + a @ w["w1"] @ w["w2"]) @ w["w3"])
    got, held, _ = made(replace={"act": "relu", "last": "dense(2)"})
    middle = a + np.maximum(a @ w["w1"], 0) @ w["w2"]
    agree(got, middle @ held["last/dense.kernel"] + held["last/dense.bias"])
    got, held, _ = made(drop="act", replace={"down": "dense(6,sigmoid)"}, to="join", head="dense(2)")
    middle = a + 1 / (1 + np.exp(-(a @ w["w1"]) @ held["down/dense.kernel"]))
    agree(got, middle @ held["head/dense.kernel"])


def test_a_scope_with_a_constant_in_it_is_dropped(tmp_path: Path) -> None:
    body = "c = Constant <value_float = 2.0> () [b__scale] s = Mul(a, c) [b__neg] d = Neg(s)"
    path = saved(f"net (float[n, 6] x) => (float[n, 6] y) {{ a = Relu(x) {body} y = Tanh(d) }}", tmp_path)
    model = onnx.load(path)
    model.graph.node[1].name = "b__two"
    for node in model.graph.node:
        node.name = node.name.replace("__", "/")
    onnx.save(model, path)
    assert converter.load(path).edit(drop="b").cut().save(tmp_path / "out").status == "passed"
    x = noise(5, 6)
    agree(run(tmp_path / "out/model.onnx", x), np.tanh(np.maximum(x, 0)))


def test_what_onnx_files_do_not_take(tmp_path: Path) -> None:
    model = converter.load(saved(NET, tmp_path, weights=weights()))
    for changes, kind, words in [
        ({"drop": "up"}, CutError, "do not agree"),
        ({"drop": "join"}, CutError, "any of them could go on"),
        ({"replace": {"act": "dense(7)"}}, CutError, "same shape"),
        ({"replace": {"join": "dense(6)"}}, CutError, "takes 2 tensors"),
        ({"freeze": "*"}, TargetError, "not trained"),
        ({"to": "join", "head": "gap,dense(3)"}, UsageError, "images or sequences"),
        ({"to": "nowhere", "head": "dense(3)"}, CutError, "no layer is called"),
        ({"head": "dense(3)"}, UsageError, "onto one layer"),
        ({}, UsageError, "nothing to change"),
    ]:
        with pytest.raises(kind, match=words):
            model.edit(**changes)
    edited = model.edit(to="join", head="dense(3)")
    with pytest.raises(TargetError, match="no object of a framework"):
        edited.native()


HEAD = (
    "head (float[n, 6] features) => (float[n, 2] scores) { m = MatMul(features, w3)\n scores = Sigmoid(m) }"
)


@pytest.mark.parametrize("kind", ["onnx", "keras", "torch"])
def test_a_head_from_an_onnx_file_goes_onto_any_model(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(6, 2)).astype("f4")
    (tmp_path / "head").mkdir()
    head = saved(HEAD, tmp_path / "head", opsets='"": 15', weights={"w3": kernel})
    x = noise(5, 6)
    if kind == "onnx":
        w = weights()
        model, layer = converter.load(saved(NET, tmp_path, weights=w)), "join"
        a = np.maximum(x, 0)
        features = a + np.tanh(a @ w["w1"]) @ w["w2"]
    elif kind == "keras":
        import keras

        net = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(6, "tanh", name="cut"), keras.layers.Dense(3)]
        )
        model, layer, features = converter.load(net), "cut", np.asarray(net.layers[0](x))
    else:
        import torch

        module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).eval()
        model, layer = converter.load(module, example=torch.zeros(1, 6)), "1"
        features = module[:2](torch.from_numpy(x)).detach().numpy()
    document = model.edit(to=layer, head=str(head)).cut().save(tmp_path / "out")
    assert document.status == "passed"
    agree(run(tmp_path / "out/model.onnx", x), 1 / (1 + np.exp(-features @ kernel)))
    if kind != "onnx":
        with pytest.raises(TargetError, match="no framework besides ONNX"):
            model.edit(to=layer, head=str(head)).cut().save(
                tmp_path / "out", targets=["keras" if kind == "keras" else "state_dict"]
            )


def test_heads_of_the_framework_and_from_files(structure: Callable[[str], Any], tmp_path: Path) -> None:
    import keras
    import torch

    model = converter.load(structure("sequential"))
    given = model.edit(to="pool", head=keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)]))
    assert given.cut().save(tmp_path).status == "passed"
    head = keras.Sequential([keras.Input((7, 7, 8)), keras.layers.Flatten(), keras.layers.Dense(2)])
    head.save(tmp_path / "head.keras")
    from_file = model.edit(to="pool", head=str(tmp_path / "head.keras"))
    assert from_file.cut().save(tmp_path, targets=["onnx", "keras"]).status == "passed"
    x = noise(2, 16, 16, 3)
    pooled = keras.Model(structure("sequential").inputs, structure("sequential").get_layer("pool").output)(x)
    agree(run(tmp_path / "model.onnx", x), head(pooled))
    with pytest.raises(UsageError, match="int is no layers"):
        model.edit(to="pool", head=3)
    with pytest.raises(TargetError, match="is of torch, and the model is one of keras"):
        model.edit(to="pool", head=torch.nn.Linear(3, 2))
    (tmp_path / "heads.py").write_text(
        "from torch import nn\ndef plain():\n    return nn.Sequential(nn.Flatten(), nn.Linear(128, 2))\n"
    )
    net = converter.load(
        f"{torch_digits.__file__}:build", weights=str(torch_digits.FILE), example=("1x1x8x8",)
    )
    edited = net.edit(to="trunk.7", head=f"{tmp_path / 'heads.py'}:plain")
    assert edited.cut().save(tmp_path, targets=["onnx", "state_dict"]).status == "passed"
    assert "head.1.weight" in edited.native().state_dict()


def test_an_edited_model_is_edited_again_and_cut(tmp_path: Path) -> None:
    model = converter.load(keras_digits.FILE).edit(
        to="features", head="dense(6,relu),dense(3)", freeze="conv*"
    )
    again = model.edit(replace={"head_dense_1": "dense(4)"})
    document = again.cut(split="pool1").save(tmp_path, targets=["onnx", "keras"])
    assert document.status == "passed"
    assert not again.native().get_layer("conv1").trainable
    net = converter.load(
        f"{torch_digits.__file__}:build", weights=str(torch_digits.FILE), example=("1x1x8x8",)
    )
    first = net.edit(to="features", head="dense(6,relu),dense(3)")
    second = first.edit(to="head.dense", head="dense(2)")
    assert second.cut(split="trunk.3").save(tmp_path / "two").status == "passed"


def test_the_command_line(converter_command: Any, tmp_path: Path) -> None:
    done = converter_command(
        "convert",
        keras_digits.FILE,
        "--to",
        "pool2",
        "--head",
        "flatten,dense(5)",
        "--freeze",
        "*",
        "--targets",
        "onnx,keras",
        "--output",
        tmp_path / "out",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["edits"]["weights"]["frozen"]
    assert report["source"]["trained"] is False
    for arguments, code, words in [
        (["--head", "dense(5)"], 2, "--head takes one --to"),
        (["--to", "pool2", "--head", "dance(5)"], 2, "is no layer"),
        (["--to", "pool3", "--head", "dense(5)"], 4, "no layer is called"),
        (["--replace", "digit"], 2, "expected LAYER=SPEC"),
        (["--replace", "digit=dense(5)", "--replace", "digit=dense(6)"], 2, "twice"),
        (["--to", "pool2", "--head", "no.onnx"], 3, "no file"),
        (["--channels", "first"], 2, "there is none"),
    ]:
        done = converter_command("convert", keras_digits.FILE, *arguments, "--output", tmp_path / "no")
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert words in done.stderr.replace("\n", " ")
        assert not (tmp_path / "no").exists()


def test_an_edited_module_is_a_module_like_any_other(tmp_path: Path) -> None:
    """It is exported by PyTorch itself, saved whole, copied and cast, and stays the same."""
    import torch

    model = converter.load(
        f"{torch_digits.__file__}:build", weights=str(torch_digits.FILE), example=("1x1x8x8",)
    )
    net = model.edit(to="trunk.7", head="flatten,dense(4)", freeze="trunk").native()
    x = torch.from_numpy(noise(3, 1, 8, 8))
    with torch.no_grad():
        expected = torch.nn.functional.linear(
            model.native().eval().trunk(x), net.head.dense.weight, net.head.dense.bias
        )
        agree(torch.export.export(net, (x,)).module()(x), expected)
        torch.save(net, tmp_path / "net.pth")
        again = torch.load(tmp_path / "net.pth", weights_only=False)
        agree(again(x), expected)
        agree(copy.deepcopy(net).to(torch.float64)(x.double()), expected)
    again.train()
    assert again.head.training
    assert not again.trunk[1].training
    dropped = model.edit(drop="trunk.2").native()
    torch.save(dropped, tmp_path / "net.pth")
    agree(torch.load(tmp_path / "net.pth", weights_only=False)(x).detach(), dropped(x).detach())


# ---------------------------------------------------------------- what users met


def test_native_keras_pieces_have_layers_alone(structure: Callable[[str], Any], tmp_path: Path) -> None:
    """Keras loads them from `.h5`, too, which knows no operations."""
    import keras

    model = converter.load(structure("residual"))
    model.cut(to="join").save(tmp_path, targets=["keras"])
    for made in (keras.models.load_model(tmp_path / "trunk.keras"), model.edit(train="stem").native()):
        assert all(isinstance(layer, keras.layers.Layer) for layer in made._operations)
        made.save(tmp_path / "again.h5")
        x = noise(3, 16, 16, 3)
        agree(keras.models.load_model(tmp_path / "again.h5")(x), made(x))


def test_recurrent_keras_layers_are_frozen_and_compared(structure: Callable[[str], Any]) -> None:
    source = structure("text_lstm")
    names = [layer.name for layer in source.layers if type(layer).__name__ == "LSTM"]
    assert names
    model = converter.load(source)
    last = model.layers[-1].name
    made = model.edit(freeze="*", replace={last: "dense(4)"})
    assert {v.path.split("/")[0] for v in made.native().trainable_variables} == {last}
    facts = made.cut().validate()
    assert facts.passed
    kept = made._edited.facts["weights"]
    assert kept["kept"] >= 3 * len(names)
    assert any(name.startswith(names[0]) for name in kept["frozen"])
    assert not model.edit(freeze=names[0]).native().get_layer(names[0]).trainable


def test_frozen_weights_are_trained_again(structure: Callable[[str], Any]) -> None:
    model = converter.load(structure("sequential")).edit(freeze="*")
    assert not model.native().trainable_variables
    made = model.edit(train="conv").native()
    assert {v.path.split("/")[0] for v in made.trainable_variables} == {"conv"}
    _, _, other = loaded()
    frozen = other.edit(freeze="*")
    net = frozen.edit(train="bn1").native().train()
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"bn1.weight", "bn1.bias"}
    assert net.bn1.training
    assert not net.bn2.training


def test_new_layers_are_not_frozen_with_the_rest() -> None:
    _, _, model = loaded()
    net = model.edit(replace={"fc": "dense(3)"}, freeze="*").native()
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}


def test_a_trained_model_is_no_longer_held_to_the_original(tmp_path: Path) -> None:
    import torch

    _, example, model = loaded()
    edited = model.edit(to="bn2", head="gap,dense(3)")
    before = edited.cut().save(tmp_path)
    assert not before.source.trained
    net = edited.native().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.from_numpy(noise(8, *example.shape[1:]))).square().sum().backward()
    optimizer.step()
    net.eval()
    document = edited.cut().save(tmp_path, targets=["onnx", "state_dict"])
    assert document.status == "passed"
    assert document.source.trained
    x = noise(3, *example.shape[1:])
    agree(run(tmp_path / "model.onnx", x), net(torch.from_numpy(x)).detach())


def test_an_ended_module_in_threads_and_alone() -> None:
    import threading

    import torch
    from torch import nn

    torch.manual_seed(0)
    relu = nn.Tanh()
    net = nn.Sequential(nn.Linear(6, 6), relu, nn.Linear(6, 6), relu, nn.Linear(6, 2)).eval()
    made = converter.load(net, example=torch.zeros(1, 6)).edit(to="1@1", head="dense(3)").native()
    inputs = [torch.from_numpy(noise(4, 6)) * (i + 1) for i in range(8)]
    expected = [made.head(net[:4](x)) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not torch.allclose(made(inputs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(made[1](inputs[0]), torch.tanh(inputs[0]))
    assert None not in list(made)


def test_a_module_that_is_given_stays_the_users_own() -> None:
    from torch import nn

    _, _, model = loaded()
    given = nn.Linear(8, 4).train()
    net = model.edit(replace={"fc": given}, freeze="*").native()
    assert net.fc is not given
    assert given.training
    assert given.weight.requires_grad


def test_a_classifier_before_a_softmax_gets_other_classes(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softmax(1)).eval()
    made = converter.load(net, example=torch.zeros(1, 6)).edit(replace={"2": "dense(5)"})
    assert made.cut().save(tmp_path).status == "passed"
    assert run(tmp_path / "model.onnx", noise(2, 6)).shape == (2, 5)
    w = weights()
    text = NET.replace("[last] y = MatMul(s, w3)", "[last] z = MatMul(s, w3) y = Softmax <axis = 1> (z)")
    model = converter.load(saved(text, tmp_path, weights=w)).edit(replace={"last": "dense(5)"})
    assert model.cut().save(tmp_path / "onnx").status == "passed"
    held = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "onnx/model.onnx").graph.initializer
    }
    x = noise(5, 6)
    a = np.maximum(x, 0)
    logits = (a + np.tanh(a @ w["w1"]) @ w["w2"]) @ held["last/dense.kernel"]
    agree(run(tmp_path / "onnx/model.onnx", x), np.exp(logits) / np.exp(logits).sum(1, keepdims=True))


def test_heads_one_after_the_other_are_told_apart(tmp_path: Path) -> None:
    model = converter.load(saved(NET, tmp_path, weights=weights())).edit(to="join", head="dense(4)")
    model.cut().save(tmp_path / "one")
    again = converter.load(tmp_path / "one/model.onnx").edit(to="down", head="dense(3)")
    document = again.cut().save(tmp_path / "two")
    assert document.status == "passed"
    assert document.edits["weights"]["new"] == ["head_2/dense.kernel", "head_2/dense.bias"]
    _, _, net = loaded()
    first = net.edit(to="bn2", head="gap,dense(5)")
    second = first.edit(to="bn1", head="gap,dense(3)")
    assert second.cut().validate().passed
    assert set(second._edited.facts["weights"]["new"]) == {"head.dense.weight", "head.dense.bias"}


def test_an_end_without_a_head_is_refused() -> None:
    _, _, model = loaded()
    with pytest.raises(UsageError, match="there is none"):
        model.edit(to="bn1", freeze="stem")
    assert model.edit(to=["bn1"], head="gap,dense(2)").native() is not None
