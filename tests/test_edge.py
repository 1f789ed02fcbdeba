"""Models made for devices, as a user asks for them: precision, layout, sizes, images in and classes out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from converter.cli import app
from fixtures.digits import keras_digits
from fixtures.digits.data import digits

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_text())


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(*arguments: str | Path) -> tuple[dict[str, Any], Path]:
    """Convert, which has to pass; the report, held to its schema, and the folder."""
    result = run("convert", *arguments, "--output", "out")
    assert result.exit_code == 0, result.output + result.stderr
    report = json.loads(Path("out/report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report, Path("out")


def refused(code: int, *arguments: str | Path) -> str:
    """Convert, which has to fail with this code and write nothing; the message."""
    result = run("convert", *arguments, "--output", "refused")
    text = " ".join((result.output + result.stderr).split())
    assert result.exit_code == code, text
    assert "Traceback" not in text
    assert not Path("refused").exists()
    return text


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(structure: Any, here: Path) -> Path:
    structure("residual").save(here / "net.keras")
    return here / "net.keras"


@pytest.fixture
def sized(structure: Any, here: Path) -> Path:
    structure("any_size").save(here / "sized.keras")
    return here / "sized.keras"


@pytest.fixture
def photographs(here: Path) -> Path:
    """40 images of three sizes, which differ from one another."""
    rng, folder = np.random.default_rng(0), here / "photographs"
    folder.mkdir()
    for number in range(40):
        height = 20 + 2 * (number % 3)
        colours = rng.uniform(0, 255, (1, 1, 3)) * rng.uniform(0, 1, (height, 24, 1))
        Image.fromarray(colours.astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


# ---------------------------------------------------------------- everything together


def test_a_digits_network_for_a_device(here: Path) -> None:
    """uint8 pixels in, the best class out, int8 inside, one image at a time."""
    data = digits()
    train, test = (
        np.rint(part * 255).astype(np.uint8)[..., None] for part in (data.train_images, data.test_images)
    )
    np.savez("train.npz", image=train[:200])
    report, folder = written(
        keras_digits.FILE,
        "--precision",
        "int8",
        "--samples",
        "train.npz",
        "--preprocess",
        "scale(1/255)",
        "--postprocess",
        "digit=argmax",
        "--batch",
        "1",
        "--rename",
        "image=pixels",
        "--rename",
        "digit_class=number",
    )
    assert report["pieces"][0]["inputs"] == [{"name": "pixels", "shape": [1, 8, 8, 1], "dtype": "uint8"}]
    assert report["pieces"][0]["outputs"] == [{"name": "number", "shape": [1], "dtype": "int64"}]
    assert report["around"]["preprocess"]
    assert report["precision"][0]["precision"] == "int8"
    assert {c["top1"] for c in report["validation"]["comparisons"] if c["output"] == "number"} <= {0.0, 1.0}
    proto = onnx.load(folder / "model.onnx")
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["QuantizeLinear"]
    assert not kinds["Shape"]
    ours = session(folder / "model.onnx")
    judged = [int(ours.run(None, {"pixels": image[None]})[0][0]) for image in test]
    import keras

    reference = (
        keras.models.load_model(keras_digits.FILE).predict(test / np.float32(255), verbose=0).argmax(1)
    )
    labels = data.test_labels
    assert (np.array(judged) == labels).mean() >= (reference == labels).mean() - 0.01


def test_what_surrounds_a_model_stays_as_it_is_in_half(model: Path) -> None:
    report, folder = written(
        model,
        "--precision",
        "fp16",
        "--layout",
        "nchw",
        "--preprocess",
        "resize(16),scale(1/127.5,-1)",
        "--postprocess",
        "softmax",
        "--batch",
        "2",
    )
    assert report["precision"][0]["kept"] == {}
    proto = onnx.load(folder / "model.onnx")
    stored = {tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    assert stored == {onnx.TensorProto.FLOAT16}
    types = [value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]


def test_a_split_in_integers(model: Path) -> None:
    report, folder = written(
        model, "--split", "inner1", "--precision", "int8", "--io", "int8", "--layout", "nchw"
    )
    trunk, head = report["precision"]
    assert (trunk["piece"], head["piece"]) == ("trunk", "head")
    assert set(trunk["scales"]) == {"image", "inner1", "stem"}
    assert set(head["scales"]) == {"inner1", "stem", "out"}
    inputs = {value.name: value.type for value in session(folder / "head.onnx").get_inputs()}
    assert inputs == {"inner1": "tensor(uint8)", "stem": "tensor(uint8)"}
    metadata = {p.key: p.value for p in onnx.load(folder / "head.onnx").metadata_props}
    assert json.loads(metadata["converter.precision"])["scales"] == head["scales"]


def test_a_zoo_trunk_in_half(here: Path) -> None:
    report, folder = written(
        "keras:MobileNetV2",
        "--weights",
        "random",
        "--to",
        "block_3_expand",
        "--precision",
        "fp16",
        "--batch",
        "1",
        "--layout",
        "nchw",
    )
    assert report["source"]["trained"] is False
    proto = onnx.load(folder / "trunk.onnx")
    assert {t.data_type for t in proto.graph.initializer if len(t.dims) == 4} == {onnx.TensorProto.FLOAT16}
    assert not {"Transpose", "Shape"} & {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize(("precision", "targets"), [("int8", ["ort"]), ("fp16", ["ort", "openvino"])])
def test_targets_that_are_made_of_onnx(precision: str, targets: list[str], model: Path) -> None:
    if "openvino" in targets:
        pytest.importorskip("openvino")
    report, _ = written(model, "--precision", precision, "--targets", ",".join(targets))
    assert {target["kind"] for target in report["targets"]} == set(targets)
    assert {c["target"] for c in report["validation"]["comparisons"]} == set(targets)


# ---------------------------------------------------------------- samples


def test_images_of_several_sizes(sized: Path, photographs: Path) -> None:
    assert "what is to be done to images" in refused(2, sized, "--samples", photographs)
    report, _ = written(sized, "--samples", photographs, "--images", "scale(1/255)")
    assert sorted(c["batch"] for c in report["validation"]["comparisons"])[-3:] == [13, 13, 14]
    report, folder = written(sized, "--samples", photographs, "--preprocess", "scale(1/255)")
    (taken,) = session(folder / "model.onnx").get_inputs()
    assert taken.type == "tensor(uint8)"


def test_words_that_fix_the_size(model: Path, photographs: Path) -> None:
    report, _ = written(model, "--samples", photographs, "--preprocess", "resize(16),scale(1/255)")
    assert report["pieces"][0]["inputs"][0]["shape"] == ["batch", "height", "width", 3]
    pieces = {c["piece"] for c in report["validation"]["comparisons"]}
    assert pieces == {"model", "preprocess"}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((9, 16, 16, 1), np.float32),
            "image has shape (9, 16, 16, 1), expected image: float32[batch, 16, 16, 3]",
        ),
        (np.full((9, 16, 16, 3), np.nan, np.float32), "NaN or infinity"),
        (np.zeros((9, 16, 16, 3), np.complex64), "image is complex64, expected float32"),
        (np.zeros((16, 16, 3), np.float32), "expected image: float32[batch, 16, 16, 3]"),
    ],
)
@pytest.mark.parametrize("precision", ["int8", None])
def test_wrong_samples(array: Any, message: str, precision: str | None, model: Path) -> None:
    np.savez("bad.npz", image=array)
    options = ["--precision", precision] if precision else []
    assert message in refused(2, model, "--samples", "bad.npz", *options)


def test_too_few_samples(model: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 3)).astype(np.float32)
    np.savez("few.npz", image=x)
    assert "calibration auto wants 8 samples to set ranges by, got 2" in refused(
        2, model, "--samples", "few.npz", "--precision", "int8"
    )
    assert "6 samples, but a batch has 7" in refused(2, model, "--samples", "few.npz", "--batch", "7")
    x *= np.linspace(0, 4, 6, dtype=np.float32)[:, None, None, None] ** 2
    np.savez("few.npz", image=np.concatenate([x, x[::-1]]))
    report, _ = written(model, "--samples", "few.npz", "--precision", "int8", "--calibration", "minmax")
    assert report["validation"]["samples"] == "few.npz, every other sample"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--precision int7", "precision 'int7': expected fp16, bf16"),
        ("--precision mixed", "--min-snr 30, in dB"),
        ("--keep-float out", "go with --precision"),
        ("--io int8", "go with --precision"),
        ("--precision fp16 --io int8", "io int8 does not go with precision fp16"),
        ("--precision fp16 --calibration mse", "calibration mse is for int8 and mixed"),
        ("--precision int8 --keep-float iner1", "the nearest names are inner1"),
        ("--precision int4-weights --opset 18", "expected 21 at least"),
        ("--precision fp16 --targets keras", "target keras would not have it"),
        ("--precision int8 --targets onnx,torch", "target torch would not have it"),
        ("--precision fp16 --link", "--link leaves weights where they are"),
        ("--layout nchws", "layout 'nchws': expected source, native, nchw, nhwc"),
        ("--batch 0", "batch 0"),
        ("--batch 99999999999", "batch 99999999999"),
        ("--shape image=abc", "expected NAME=1x3x224x224"),
        ("--shape image=1x17x16x3", "the model takes image: float32[batch, 16, 16, 3]"),
        ("--rename image=", "expected OLD=NEW"),
        ("--rename a=b --rename a=c", "'a' is renamed twice"),
        ("--preprocess blur(3)", "no such word"),
        ("--preprocess scale(1/255) --preprocess bgr", "is given twice"),
        ("--preprocess crop(12)", "the model takes 16×16"),
        ("--postprocess top9", "top9 of 3 classes"),
    ],
)
def test_usage(arguments: str, message: str, model: Path) -> None:
    assert message in refused(2, model, *arguments.split())


def test_a_quality_that_is_not_reached(model: Path) -> None:
    assert "expected 80 at least" in refused(
        5, model, "--precision", "int8", "--calibration", "minmax", "--min-snr", "80"
    )
    assert "no layer of the model can be in int8 at 150 dB" in refused(
        6, model, "--precision", "mixed", "--calibration", "minmax", "--min-snr", "150"
    )
