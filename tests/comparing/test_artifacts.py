"""Real artifacts of every kind, opened and compared; the reference is Keras itself, or numbers by hand."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converter.comparing import Asked, Bounds, Means, Outcome, compare_artifacts, open_artifact
from converter.errors import SourceError, TargetError, UsageError
from converter.targets.tflite_tensors import dequantized, quantized
from fixtures.onnx_text import saved

TRUSTING = Means(trust=True)
RUNNING = (
    "onnx",
    "ort",
    "xml",
    "keras",
    "h5",
    "savedmodel",
    "tflite",
    "fp16.tflite",
    "int8.tflite",
    "py",
    "pt2",
)
WEIGHTS = {"fp16.tflite": "float16", "int8.tflite": "int8"}


def compared(a: Path, b: Path, **asked: Any) -> Outcome:
    opened = (open_artifact(path, TRUSTING) for path in (a, b))
    return compare_artifacts(*opened, asked=Asked(**asked), bounds=Bounds(), samples=None, seed=0)


@pytest.mark.parametrize("suffix", RUNNING)
def test_every_kind_computes_what_keras_computes(artifacts: Path, suffix: str) -> None:
    import keras

    artifact = open_artifact(artifacts / f"model.{suffix}", TRUSTING)
    assert artifact.precision == WEIGHTS.get(suffix)
    (taken,) = artifact.inputs
    assert (taken.name, taken.shape[1:], taken.dtype) == ("image", (12, 10, 3), "float32")
    x = np.load(artifacts.parent / "samples.npz")["image"][:2]
    model = keras.saving.load_model(artifacts.parent / "small.keras")
    wanted = dict(zip(("features", "scores"), map(np.asarray, model(x)), strict=True))
    found = artifact.run({"image": x})
    assert [spec.name for spec in artifact.outputs] == list(found)
    if suffix == "pt2":  # programs have no names for what they return
        found = dict(zip(wanted, found.values(), strict=True))
    assert set(found) == {"features", "scores"}
    allowed = {"float16": 2.0**-7, "int8": 2.0**-3, None: 2.0**-14}[artifact.precision]
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name] - array).max() <= allowed * np.abs(array).max()


@pytest.mark.parametrize("suffix", RUNNING)
def test_every_kind_agrees_with_the_onnx_file_and_not_with_one_of_another_weight(
    artifacts: Path, suffix: str, tmp_path: Path
) -> None:
    right, other = artifacts / "model.onnx", artifacts / f"model.{suffix}"
    outcome = compared(right, other)
    assert outcome.agree, str(outcome)
    assert outcome.batches == (1, 3)
    assert len(outcome.results) == 4
    assert compared(other, right).agree
    model = onnx.load(right)
    biggest = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    array = onnx.numpy_helper.to_array(biggest).copy()
    array.flat[np.abs(array).argmax()] *= -3
    biggest.CopyFrom(onnx.numpy_helper.from_array(array, biggest.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    assert not compared(other, tmp_path / "wrong.onnx").agree


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("model.safetensors", UsageError, "weights alone"),
        ("model.ckpt", UsageError, "checkpoint"),
        ("model.ckpt.index", UsageError, "checkpoint"),
        ("model.bin", UsageError, "weights alone"),
        ("report.json", UsageError, "not a kind"),
        (".", UsageError, "not a kind"),
        ("none.onnx", SourceError, "no file or folder"),
        ("model.savedmodel", SourceError, "can write files"),
        ("model.py", SourceError, "Python code"),
        ("model.pt2", SourceError, "can run code"),
    ],
)
def test_what_is_not_opened_without_trust_or_at_all(
    artifacts: Path, name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as refused:
        open_artifact(artifacts / name, Means())
    assert refused.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [s for s in RUNNING if s != "savedmodel"])
def test_half_a_file_is_refused(artifacts: Path, suffix: str, tmp_path: Path) -> None:
    data = (artifacts / f"model.{suffix}").read_bytes()
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError):
        open_artifact(path, TRUSTING)


def test_packages_and_machines_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.engine").write_bytes(b"plan")
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(SourceError, match="machine code"):
        open_artifact(tmp_path / "x.engine", Means())
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TargetError, match="tensorrt"):
        open_artifact(tmp_path / "x.engine", TRUSTING)
    if sys.platform != "darwin":
        with pytest.raises(TargetError, match="macOS"):
            open_artifact(tmp_path / "x.mlpackage", Means())


def test_a_lambda_layer_needs_trust(tmp_path: Path) -> None:
    import keras

    x = keras.Input((3,))
    keras.Model(x, keras.layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "net.keras")
    with pytest.raises(SourceError, match="Lambda"):
        open_artifact(tmp_path / "net.keras", Means())


# ---------------------------------------------------------------- TensorFlow Lite


def test_quantized_numbers_by_hand() -> None:
    # Scale 0.5, zero point -3: 1.25 is 2.5 steps from 0, rounded to even 2, so q = -1, which stands for 1.
    values = np.array([1.25, -100, 100, 0], "f4")
    q = quantized(values, 0.5, -3, np.dtype("int8"))
    assert q.tolist() == [-1, -128, 127, -3]
    assert dequantized(q, 0.5, -3).tolist() == [1.0, -62.5, 65.0, 0.0]


@pytest.fixture(scope="module")
def integers(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model in integers throughout, inputs and outputs too."""
    import tensorflow as tf

    model = tf.keras.models.load_model(artifacts.parent / "small.keras")
    samples = np.load(artifacts.parent / "samples.npz")["image"]
    made = tf.lite.TFLiteConverter.from_saved_model(str(artifacts / "model.savedmodel"))
    del model
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    made.inference_input_type = made.inference_output_type = tf.int8
    made.representative_dataset = lambda: ({"image": sample[None]} for sample in samples)
    path = tmp_path_factory.mktemp("integers") / "int8.tflite"
    path.write_bytes(made.convert())
    return path


def test_integers_at_both_ends_are_taken_and_given_as_real_numbers(artifacts: Path, integers: Path) -> None:
    import tensorflow as tf

    artifact = open_artifact(integers, Means())
    (taken,) = artifact.inputs
    assert taken.dtype == "float32"
    raw = tf.lite.Interpreter(model_path=str(integers))
    raw.allocate_tensors()
    (detail,) = raw.get_input_details()
    scale, zero = detail["quantization"]
    assert taken.value_range == (scale * (-128 - zero), scale * (127 - zero))
    assert any("image is int8" in note for note in artifact.notes)
    x = np.random.default_rng(0).uniform(*taken.value_range, (1, 12, 10, 3)).astype("f4")
    raw.set_tensor(detail["index"], (np.round(x / scale) + zero).astype("int8"))
    raw.invoke()
    found = artifact.run({"image": x})
    for end in raw.get_output_details():
        real = (raw.get_tensor(end["index"]).astype("f4") - end["quantization"][1]) * end["quantization"][0]
        name = "scores" if real.ndim == 2 else "features"
        assert np.allclose(found[name], real, atol=1e-6)
    opened = open_artifact(artifacts / "model.onnx", Means())
    samples = artifacts.parent / "samples.npz"
    outcome = compare_artifacts(opened, artifact, asked=Asked(), bounds=Bounds(), samples=samples, seed=0)
    assert outcome.agree, str(outcome)
    assert {result.comparison.tolerance for result in outcome.results} == {2.0**-3}


def test_a_file_without_signatures_goes_by_its_tensors(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])  # type: ignore[untyped-decorator]
    def double(x: Any) -> Any:
        return x * 2.0

    made = tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()])
    path = tmp_path / "bare.tflite"
    path.write_bytes(made.convert())
    artifact = open_artifact(path, Means())
    x = np.arange(12, dtype="f4").reshape(3, 4)
    (found,) = artifact.run({artifact.inputs[0].name: x}).values()
    assert np.array_equal(found, 2 * x)


def test_operators_of_tensorflow_need_trust(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.string)])  # type: ignore[untyped-decorator]
    def write(name: Any, content: Any) -> Any:
        tf.io.write_file(name, content)
        return tf.strings.join([name, content])

    made = tf.lite.TFLiteConverter.from_concrete_functions([write.get_concrete_function()])
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path = tmp_path / "writes.tflite"
    path.write_bytes(made.convert())
    with pytest.raises(SourceError, match="FlexWriteFile"):
        open_artifact(path, Means())


def test_a_file_that_ends_the_interpreter_is_refused(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.targets import tflite

    script = tmp_path / "crash.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(tflite, "_PROBE", script)
    with pytest.raises(SourceError, match="SIGSEGV"):
        open_artifact(artifacts / "model.tflite", Means())


# ---------------------------------------------------------------- files of others


@pytest.mark.parametrize(
    ("body", "types", "precision"),
    [
        ("y = Mul(x, w)", ("float", "float"), None),
        ("w32 = Cast<to = 1>(w)\n y = Mul(x, w32)", ("float", "float16"), "float16"),
    ],
)
def test_the_precision_of_onnx_files(
    tmp_path: Path, body: str, types: tuple[str, str], precision: str | None
) -> None:
    weight = np.array([2], "f2" if types[1] == "float16" else "f4")
    path = saved(f"net (float[n, 2] x) => (float[n, 2] y) {{ {body} }}", tmp_path, weights={"w": weight})
    assert open_artifact(path, Means()).precision == precision


def test_quantised_onnx_files_are_of_eight_bits(tmp_path: Path) -> None:
    body = "q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z)"
    weights = {"s": np.float32(0.5), "z": np.int8(0)}
    path = saved(f"net (float[n, 2] x) => (float[n, 2] y) {{ {body} }}", tmp_path, weights=weights)
    assert open_artifact(path, Means()).precision == "int8"


def test_indices_stay_inside_of_their_table(tmp_path: Path) -> None:
    path = saved(
        "net (int64[n, 3] ids) => (float[n, 3, 2] y) { y = Gather(table, ids) }",
        tmp_path,
        weights={"table": np.arange(6, dtype="f4").reshape(3, 2)},
    )
    assert open_artifact(path, Means()).inputs[0].value_range == (0, 2)
    shutil.copy(path, tmp_path / "other.onnx")
    assert compared(path, tmp_path / "other.onnx").agree


def test_a_module_of_the_users_own(tmp_path: Path) -> None:
    text = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x * 2, x.sum(1)
def load():
    return Net()
"""
    (tmp_path / "net.py").write_text(text)
    body = "y = Mul(x, two)\n axes = Constant<value_ints = [1]>()\n s = ReduceSum<keepdims = 0>(x, axes)"
    onnx_file = saved(
        f"net (float[n, 4] x) => (float[n, 4] y, float[n] s) {{ {body} }}",
        tmp_path,
        weights={"two": np.float32(2)},
    )
    outcome = compared(onnx_file, tmp_path / "net.py")
    assert outcome.agree
    assert [(pair.a.name, pair.b.name) for pair in outcome.outputs] == [("y", "output_0"), ("s", "output_1")]


@pytest.fixture
def command(converter_command: Callable[..., Any], artifacts: Path) -> Callable[..., Any]:
    def run(a: str, b: str, *options: str | Path) -> Any:
        return converter_command("compare", artifacts / a, artifacts / b, *options)

    return run


def test_the_command_as_a_user_runs_it(command: Callable[..., Any], artifacts: Path, tmp_path: Path) -> None:
    import json

    done = command("model.onnx", "model.ort", "--samples", artifacts.parent / "samples.npz")
    assert done.returncode == 0, done.stderr
    assert "agree: 4 comparisons" in done.stdout
    assert "(by name)" in done.stdout
    assert "samples.npz, batch 1 and 8" in done.stdout
    assert "100.0%" in done.stdout  # the same class for every sample
    done = command("model.onnx", "model.ort", "--min-snr", "1000", "--json", "--output", "scores=scores")
    assert done.returncode == 5
    report = json.loads(done.stdout)
    assert report["status"] == "differ"
    assert {row["a"] for row in report["comparisons"]} == {"scores"}
    assert "do not agree" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--tolerance", "-1"], 2, "0 or more"),
        (["--min-snr", "inf"], 2, "decibels"),
        (["--input", "image"], 2, "A_NAME=B_NAME"),
        (["--output", "scores=scores", "--output", "scores=features"], 2, "paired twice"),
        (["--turn", "nobody"], 2, "nobody"),
        (["--samples", "nothing.npz"], 2, "nothing.npz"),
        (["--output", "features=scores"], 5, "shape"),
    ],
)
def test_wrong_options(command: Callable[..., Any], options: list[str], code: int, words: str) -> None:
    done = command("model.onnx", "model.ort", *options)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
