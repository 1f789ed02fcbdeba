"""`converter fit`: heads on frozen features of trained trunks, judged by running what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import converter
from converter.fitting import solve, split
from converter.heads import Head
from converter.training import Training
from fixtures.digits import keras_digits, torch_digits
from fixtures.digits.data import digits
from fixtures.onnx_text import saved


def run(path: Path, *feeds: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((i.name for i in session.get_inputs()), feeds, strict=True)))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that the trained nets have not seen, as arrays in both layouts and as images."""
    from PIL import Image

    path = tmp_path_factory.mktemp("digits")
    data = digits()
    np.savez(path / "last.npz", x=data.test_images[..., None], y=data.test_labels)
    np.savez(path / "first.npz", x=data.test_images[:, None], y=data.test_labels)
    for number, (image, label) in enumerate(zip(data.test_images, data.test_labels, strict=True)):
        (path / f"images/digit {label}").mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().astype("uint8")
        Image.fromarray(pixels).save(path / f"images/digit {label}/{number:03}.png")
    return path


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trunk")
    converter.load(keras_digits.FILE).cut(to="pool2").save(path)
    return path / "trunk.onnx"


def judged(path: Path, data: Path) -> tuple[float, list[list[int]]]:
    """Accuracy and confusion of a written model on the samples that the fit held out."""
    with np.load(data) as file:
        x, y = file["x"], file["y"]
    _, held = split(y, tuple(map(str, range(10))), seed=0, share=0.2)
    predicted = run(path, x[held]).argmax(1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (y[held], predicted), 1)
    return float((predicted == y[held]).mean()), confusion.tolist()


@pytest.mark.parametrize(
    ("head", "solver", "bar"),  # scikit-learn's own estimators reach the bar on these features
    [
        ("flatten,dense(10,softmax)", "logistic", 0.95),
        ("gap,dense(10)", "ridge", 0.9),
        ("flatten,dense(24,relu),dropout(0.1),dense(10,softmax)", "adam", 0.93),
    ],
)
def test_a_trunk_of_onnx(
    head: str, solver: str, bar: float, folder: Path, trunk: Path, tmp_path: Path, converter_command: Any
) -> None:
    done = converter_command(
        "fit", trunk, "--data", folder / "last.npz", "--head", head, "--output", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    fit = report["edits"]["fit"]
    assert fit["solver"] == solver
    assert (fit["fitted_on"], fit["held_out"]) == (290, 70)
    assert fit["accuracy"] > bar
    accuracy, confusion = judged(tmp_path / "out/model.onnx", folder / "last.npz")
    assert fit["accuracy"] == accuracy
    assert fit["confusion"] == confusion
    assert report["validation"]["status"] == "passed"
    assert report["source"]["weights"] == "file, head fitted on last.npz"
    assert "UNTRAINED" not in done.stdout
    assert f"accuracy {accuracy:.2%} on 70 held-out samples" in done.stdout


@pytest.mark.parametrize("head", ["flatten,dense(10,softmax)", "flatten,dense(24,relu),dense(10)"])
def test_the_native_artifacts_of_both_frameworks(head: str, folder: Path, tmp_path: Path) -> None:
    import keras
    import torch

    settings = Training(epochs=20, rate=3e-3)
    document = converter.load(keras_digits.FILE).fit(
        folder / "last.npz",
        head,
        tmp_path / "keras",
        to="pool2",
        targets=["onnx", "keras"],
        training=settings,
    )
    assert document.edits["fit"]["accuracy"] > 0.93
    assert judged(tmp_path / "keras/model.onnx", folder / "last.npz")[0] == document.edits["fit"]["accuracy"]
    images = digits().test_images[:20]
    net = keras.models.load_model(tmp_path / "keras/model.keras")
    got = run(tmp_path / "keras/model.onnx", images[..., None])
    np.testing.assert_allclose(got, np.asarray(net(images[..., None])), atol=1e-5 * np.abs(got).max())

    model = converter.load(
        f"{torch_digits.__file__}:build", weights=str(torch_digits.FILE), example=("1x1x8x8",)
    )
    document = model.fit(
        folder / "first.npz",
        head,
        tmp_path / "torch",
        to="trunk.7",
        targets=["onnx", "state_dict"],
        training=settings,
    )
    assert document.edits["fit"]["accuracy"] > 0.93
    assert judged(tmp_path / "torch/model.onnx", folder / "first.npz")[0] == document.edits["fit"]["accuracy"]
    state = torch.load(tmp_path / "torch/model.pth", weights_only=True)
    trunk, x = model.native().eval().trunk, torch.from_numpy(images[:, None])
    with torch.no_grad():
        value = torch.nn.functional.linear(trunk(x), state["head.dense.weight"], state["head.dense.bias"])
        if "dense_1" in str(state.keys()):
            value = torch.relu(value) @ state["head.dense_1.weight"].T + state["head.dense_1.bias"]
        else:
            value = value.softmax(1)
    got = run(tmp_path / "torch/model.onnx", images[:, None])
    np.testing.assert_allclose(got, value.numpy(), atol=1e-5 * np.abs(got).max())


def test_a_folder_of_images(folder: Path, trunk: Path, tmp_path: Path, converter_command: Any) -> None:
    arguments = [
        "fit",
        trunk,
        "--data",
        folder / "images",
        "--preprocess",
        "scale",
        "--head",
        "flatten,dense(10)",
    ]
    done = converter_command(*arguments, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    fit = json.loads((tmp_path / "out/report.json").read_text())["edits"]["fit"]
    assert fit["classes"] == [f"digit {number}" for number in range(10)]
    assert fit["accuracy"] > 0.9
    assert "features  360 of 360" in done.stdout
    # The second time the features are there: another head costs no pass over the data.
    again = converter_command(*arguments[:-1], "gap,dense(10)", "--output", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("features ") == 1


def test_a_head_fitted_on_channels_last_serves_a_piece_with_channels_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    body = "net (float[n, 4, 5, 6] x) => (float[n, {shape}] y) {{ a = Relu(x) {rest} }}"
    last = saved(body.format(shape="4, 5, 6", rest="[out] y = Neg(a)"), tmp_path)
    (tmp_path / "other").mkdir()
    rest = "b = Neg(a) [out] y = Transpose <perm = [0, 3, 1, 2]> (b)"
    first = saved(body.format(shape="6, 4, 5", rest=rest), tmp_path / "other")
    x, labels = rng.normal(size=(60, 4, 5, 6)).astype("f4"), np.arange(60) % 3
    head = Head.parse("flatten,dense(3,softmax)")
    shape = ("n", 4, 5, 6)
    head = head.onto(shape, channels_last=True, usual=True)
    head = solve(head, run(last, x), labels, 3, 1.0)
    answers = []
    for path, channels in ((last, "last"), (first, "first")):
        model = converter.load(path).edit(to="out", head=head, channels=channels)
        assert model.cut().save(tmp_path / channels).status == "passed"
        answers.append(run(tmp_path / channels / "model.onnx", x))
    assert (answers[0].argmax(1) == labels).mean() > 0.6
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"--head": "flatten,dense(9,softmax)"}, 2, "the data have 10 classes"),
        ({"--head": "conv1x1(10)"}, 2, "expected one vector a sample"),
        ({"--head": "flatten,dense(10,relu)"}, 2, "does not end in scores of classes"),
        ({"--head": "flatten,dance(10)"}, 2, "is no layer"),
        ({"--data": "missing.npz"}, 2, "missing.npz"),
        ({"--preprocess": "keras:vgg61"}, 2, "keras:vgg16"),
        ({"--to": "nowhere"}, 4, "no layer is called"),
        ({"--holdout": "1.5"}, 2, "between 0 and 1"),
        ({"--l2": "0"}, 2, "above 0"),
        ({"--epochs": "0"}, 2, "1 or more"),
        ({"--targets": "tensorrt"}, 6, "pip install 'converter[tensorrt]'"),
    ],
)
def test_what_cannot_be_fitted(
    changes: dict[str, str],
    code: int,
    words: str,
    folder: Path,
    trunk: Path,
    tmp_path: Path,
    converter_command: Any,
) -> None:
    options = {"--data": str(folder / "last.npz"), "--head": "flatten,dense(10,softmax)", **changes}
    arguments = [part for pair in options.items() for part in pair]
    done = converter_command("fit", trunk, *arguments, "--output", tmp_path / "out")
    assert done.returncode == code, (done.stdout, done.stderr)
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_numbers_are_named(tmp_path: Path, converter_command: Any) -> None:
    path = saved("net (float[n, 4] x) => (float[n, 4] y) { [out] y = Log(x) }", tmp_path)
    np.savez(tmp_path / "data.npz", x=-np.ones((20, 4), "f4"), y=np.arange(20) % 2)
    done = converter_command("fit", path, "--data", tmp_path / "data.npz", "--head", "dense(2)")
    assert done.returncode == 5
    assert "sample 0" in done.stderr
    assert onnx.load(path).graph.name


def test_a_trunk_of_a_fixed_batch(folder: Path, tmp_path: Path) -> None:
    body = "s = Constant <value_ints = [7, 64]> () y = Reshape(x, s)"
    path = saved(f"net (float[7, 8, 8, 1] x) => (float[7, 64] y) {{ {body} }}", tmp_path)
    document = converter.load(path).fit(folder / "last.npz", "dense(10,softmax)", tmp_path / "out")
    assert document.edits["fit"]["accuracy"] > 0.9
    x = digits().test_images[:7, ..., None]
    assert run(tmp_path / "out/model.onnx", x).shape == (7, 10)
