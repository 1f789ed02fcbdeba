"""The command line as a user meets it; bad input of every kind, its message and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from converter.cli import app
from converter.cuda import cuda_problem

SCHEMA = json.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_text())


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(code: int, *arguments: str | Path) -> str:
    """Run a command that must fail with this code, a message and no output folder."""
    result = run(*arguments)
    text = result.output + result.stderr
    assert result.exit_code == code, text
    assert "Traceback" not in text
    return " ".join(text.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model_file(structure: Any, here: Path) -> Path:
    path = here / "small.keras"
    structure("residual").save(path)
    return path


# ---------------------------------------------------------------- what works


def test_trunk_with_report(model_file: Path) -> None:
    result = run("convert", model_file, "--to", "inner1", "--targets", "onnx,keras")
    assert result.exit_code == 0, result.output
    assert "passed" in result.output
    assert "UNTRAINED" not in result.output
    folder = Path("build/small-inner1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "report.json",
        "trunk.keras",
        "trunk.onnx",
    ]
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["pieces"][0]["outputs"] == [
        {"name": "inner1", "shape": ["batch", 16, 16, 8], "dtype": "float32"}
    ]
    for target in report["targets"]:
        assert (folder / target["path"]).stat().st_size == target["bytes"]
    facts = {p.key: p.value for p in onnx.load(folder / "trunk.onnx").metadata_props}
    assert facts["converter.weights"] == report["source"]["weights"]
    assert json.loads(facts["converter.cut"])["to"] == ["inner1"]
    assert facts["converter.validation"].startswith("passed")


def test_json_is_the_report_and_nothing_else(model_file: Path) -> None:
    result = run("convert", model_file, "--from", "join", "--json")
    report = json.loads(result.stdout)
    jsonschema.validate(report, SCHEMA)
    assert report["validation"]["passed"]
    assert report["pieces"][0]["name"] == "head"
    assert result.stderr == ""


def test_the_drift_of_all_layers_and_the_page_are_told(model_file: Path) -> None:
    lines = run("convert", model_file, "--to", "inner1", "--drift").output.splitlines()
    told = [line.split(maxsplit=1)[1] for line in lines if line.startswith("drift ")]
    assert re.fullmatch(
        r"no layer departs: the largest error at \d+ boundaries is \S+e-\d+ of scale", told[-1]
    )
    (page,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith("report ")]
    assert page == "build/small-inner1/report.html"
    assert Path(page).is_file()


def test_every_file_has_the_error_of_its_artifact(model_file: Path) -> None:
    lines = run("convert", model_file, "--split", "gap", "--targets", "onnx,checkpoint").output.splitlines()
    files = [line.split() for line in lines if line.startswith("build/")]
    assert len(files) > 4  # checkpoints are of several files
    assert all(re.fullmatch(r"\d\.\de[+-]\d\d", words[-1]) for words in files), files


def test_split_takes_the_frontier_by_itself(model_file: Path) -> None:
    result = run("convert", model_file, "--split", "inner1", "--json")
    report = json.loads(result.stdout)
    assert report["cut"]["frontier"] == ["inner1", "stem"]
    trunk, head = report["pieces"]
    assert [t["name"] for t in trunk["outputs"]] == [t["name"] for t in head["inputs"]]
    assert {c["piece"] for c in report["validation"]["comparisons"]} == {"trunk", "head", "head∘trunk"}


def test_segment_several_outputs_and_globs(model_file: Path) -> None:
    report = json.loads(run("convert", model_file, "--from", "stem", "--to", "join", "--json").stdout)
    assert report["pieces"][0]["name"] == "segment"
    report = json.loads(run("convert", model_file, "--to", "inner*", "--to", "gap", "--json").stdout)
    assert [t["name"] for t in report["pieces"][0]["outputs"]] == ["inner1", "inner2", "gap"]
    assert Path("build/small-inner_-gap/trunk.onnx").exists()


def test_no_validate_is_marked_everywhere(model_file: Path) -> None:
    result = run("convert", model_file, "--to", "stem", "--no-validate", "--output", "out")
    assert "UNVALIDATED" in result.output
    report = json.loads(Path("out/report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["validation"] == {"status": "UNVALIDATED"}
    facts = {p.key: p.value for p in onnx.load("out/trunk.onnx").metadata_props}
    assert facts["converter.validation"] == "UNVALIDATED"


def test_random_weights_are_marked_everywhere(model_file: Path) -> None:
    arguments = ("--weights", "random", "--seed", "3", "--output", "out")
    result = run("convert", model_file, "--to", "stem", *arguments)
    assert "UNTRAINED: the weights are random(seed=3)" in result.output
    assert json.loads(Path("out/report.json").read_text())["source"]["trained"] is False
    facts = {p.key: p.value for p in onnx.load("out/trunk.onnx").metadata_props}
    assert facts["converter.weights"] == "random(seed=3) UNTRAINED"


def test_samples_of_the_user(model_file: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez("mine.npz", image=rng.normal(size=(4, 16, 16, 3)).astype("float32"))
    report = json.loads(run("convert", model_file, "--samples", "mine.npz", "--json").stdout)
    assert report["validation"]["samples"] == "mine.npz"
    assert {c["batch"] for c in report["validation"]["comparisons"]} == {1, 4}


@pytest.mark.parametrize("opset", [15, 18, 21])
def test_opset(model_file: Path, opset: int) -> None:
    assert run("convert", model_file, "--opset", str(opset), "--output", "out").exit_code == 0
    model = onnx.load("out/model.onnx")
    assert [(i.domain, i.version) for i in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)


def test_a_file_whose_name_is_no_text(model_file: Path) -> None:
    run("convert", model_file, "--to", "gap", "--output", "first")
    path = Path(os.fsdecode(b"m\xff.onnx"))
    shutil.copy("first/trunk.onnx", path)
    run("convert", path, "--output", "second")
    report = json.loads(Path("second/report.json").read_text(encoding="utf-8"))
    assert ascii(report["source"]["name"]) == r"'m\udcff'"


def test_legacy_h5(structure: Any, here: Path) -> None:
    structure("text_lstm").save("old.h5")
    assert run("convert", "old.h5", "--to", "lstm1").exit_code == 0


def test_layers_lists_kind_shape_parameters_and_legality(model_file: Path) -> None:
    listed = {row["name"]: row for row in json.loads(run("layers", model_file, "--json").stdout)}
    assert listed["stem"] | {"outputs": 0} == {
        "name": "stem", "kind": "Conv2D", "outputs": 0, "parameters": 224, "trainable": 224,
        "depth": 0, "trunk": True, "head": True,
    }  # fmt: skip
    assert listed["stem"]["outputs"][0]["shape"] == ["batch", 16, 16, 8]
    assert [name for name, row in listed.items() if not row["head"]] == ["inner1", "inner2"]
    text = run("layers", model_file).stdout
    assert re.search(r"inner1 +Conv2D +float32\[batch, 16, 16, 8\] +584 +yes +frontier", text)


def test_the_same_request_gives_the_same_bytes(model_file: Path) -> None:
    for folder in ("one", "two"):
        assert run("convert", model_file, "--split", "inner1", "--output", folder).exit_code == 0
    for name in ("trunk.onnx", "head.onnx"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_the_same_bytes_from_another_process(model_file: Path, converter_command: Any) -> None:
    assert run("convert", model_file, "--to", "gap", "--output", "one").exit_code == 0
    done = converter_command("convert", model_file, "--to", "gap", "--output", model_file.parent / "two")
    assert done.returncode == 0, done.stderr
    assert Path("one/trunk.onnx").read_bytes() == Path("two/trunk.onnx").read_bytes()


# ---------------------------------------------------------------- bad input: usage (2)


def test_contradictions(model_file: Path) -> None:
    assert "split" in refused(2, "convert", model_file, "--split", "stem", "--to", "gap")
    assert "no target 'tflit'" in refused(2, "convert", model_file, "--targets", "tflit")
    assert "opset 99" in refused(2, "convert", model_file, "--opset", "99")
    assert "device 'tpu'" in refused(2, "convert", model_file, "--device", "tpu")
    assert not Path("build").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 8, 8, 3), "float32"), "x": np.zeros(1)}, "has shape (2, 8, 8, 3), expected"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "no array for the input 'image'"),
        ({"image": np.full((2, 16, 16, 3), np.nan, "float32")}, "NaN"),
        ({"image": np.array([object()] * 2)}, "object arrays are refused"),
    ],
)
def test_samples_that_do_not_fit(model_file: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez("bad.npz", **arrays)
    assert message in refused(2, "convert", model_file, "--samples", "bad.npz")
    assert not Path("build").exists()


def test_what_cannot_work_is_refused_before_the_export(model_file: Path) -> None:
    np.savez("other.npz", picture=np.ones((2, 16, 16, 3), "float32"))
    Path("taken").write_text("mine")
    cases = {
        ("--samples", "other.npz"): (2, "no array for the input 'image', got 'picture'"),
        ("--samples", "absent.npz"): (2, "not a readable"),
        ("--output", "taken/below"): (6, "cannot write to taken/below: Not a directory"),
    }
    if cuda_problem(onnxruntime) is not None:
        cases["--device", "cuda"] = (5, "device cuda")
    for options, (code, message) in cases.items():
        text = refused(code, "convert", model_file, *options)
        assert message in text
        assert "source" in text  # which is the stage before
        assert "export" not in text


def test_samples_that_are_no_samples(model_file: Path) -> None:
    Path("bad.npz").write_bytes(b"not a zip")
    assert "not a readable" in refused(2, "convert", model_file, "--samples", "bad.npz")
    assert "not a readable" in refused(2, "convert", model_file, "--samples", "absent.npz")


# ---------------------------------------------------------------- bad input: source (3)


def test_no_such_model(here: Path) -> None:
    assert "mobilenetv2" in refused(3, "convert", "keras:mobilenet_v2", "--weights", "random")
    assert "no kind of source is called 'jax'" in refused(3, "convert", "jax:thing")
    assert "no file" in refused(3, "convert", "absent.keras")


def test_pretrained_weights_that_cannot_be_had(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise Exception("URL fetch failure on https://example.invalid: no network")

    monkeypatch.setattr(keras.src.applications.mobilenet.file_utils, "get_file", no_network)
    message = refused(3, "convert", "keras:mobilenet", "--to", "conv1")
    assert "cannot be downloaded" in message
    assert "--weights" in message
    assert not Path("build").exists()


def test_files_that_are_not_models(model_file: Path) -> None:
    Path("short.keras").write_bytes(b"x")
    assert "neither a .keras archive nor an HDF5 file" in refused(3, "convert", "short.keras")
    Path("foreign.h5").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "neither" in refused(3, "convert", "foreign.h5")
    with zipfile.ZipFile("other.keras", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "without config.json" in refused(3, "convert", "other.keras")
    Path("thing.onnx").write_bytes(b"x")
    assert "not a readable ONNX file" in refused(3, "convert", "thing.onnx")
    Path("thing.tflite").write_bytes(b"x")
    assert "not a kind of file" in refused(3, "convert", "thing.tflite")


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_truncated_files(structure: Any, here: Path, suffix: str, kept: float) -> None:
    structure("residual").save(f"whole{suffix}")
    content = Path(f"whole{suffix}").read_bytes()
    Path(f"cut{suffix}").write_bytes(content[: int(len(content) * kept)])
    assert "cut" in refused(3, "convert", f"cut{suffix}")
    assert not Path("build").exists()


def test_weights_file_is_no_model(structure: Any, here: Path) -> None:
    structure("residual").save_weights("only.weights.h5")
    assert "weights alone" in refused(3, "convert", "only.weights.h5")


def test_weights_that_do_not_fit(structure: Any, model_file: Path) -> None:
    structure("unet").save_weights("other.weights.h5")
    message = refused(3, "convert", model_file, "--weights", "other.weights.h5")
    assert "do not fit" in message
    assert "no weights file" in refused(3, "convert", model_file, "--weights", "absent.h5")


def test_weights_that_fit_are_taken(structure: Any, model_file: Path) -> None:
    import keras

    other = keras.models.clone_model(structure("residual"))
    other.save_weights("mine.weights.h5")
    assert run("convert", model_file, "--weights", "mine.weights.h5", "--output", "out").exit_code == 0
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load("out/model.onnx").graph.initializer}
    kernel = np.asarray(other.get_layer("out").kernel)
    assert any(np.array_equal(array, kernel) for array in weights.values())


def lambda_model(path: str, canary: str) -> None:
    import keras

    inputs = keras.Input((4,), name="x")
    body = eval(f"lambda x: (__import__('pathlib').Path({canary!r}).touch(), x * 2)[1]")
    outputs = keras.layers.Lambda(body, output_shape=(4,), name="code")(inputs)
    keras.Model(inputs, outputs).save(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_runs_with_trust_alone(here: Path, suffix: str) -> None:
    canary = here / "canary"
    lambda_model(f"code{suffix}", str(canary))
    canary.unlink(missing_ok=True)
    message = refused(3, "convert", f"code{suffix}")
    assert "Lambda" in message
    assert "--trust" in message
    assert not canary.exists()
    assert run("convert", f"code{suffix}", "--trust").exit_code == 0
    assert canary.exists()


CUSTOM = """
import keras

@keras.saving.register_keras_serializable("mine")
class Doubled(keras.layers.Dense):
    def call(self, x):
        return 2 * super().call(x)
"""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_custom_objects_through_trust(here: Path, suffix: str) -> None:
    import keras

    Path("mylayers.py").write_text(CUSTOM)
    space: dict[str, Any] = {"__name__": "mylayers"}
    exec(CUSTOM, space)
    inputs = keras.Input((4,), name="x")
    keras.Model(inputs, space["Doubled"](3, name="d")(inputs)).save(f"custom{suffix}")
    keras.saving.get_custom_objects().clear()
    assert "Doubled" in refused(3, "convert", f"custom{suffix}")
    assert "is code" in refused(3, "convert", f"custom{suffix}", "--custom-objects", "mylayers.py")
    done = run("convert", f"custom{suffix}", "--trust", "--custom-objects", "mylayers.py")
    assert done.exit_code == 0, done.output


def edit_config(source: Path, target: Path, old: str, new: str) -> None:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for item in before.infolist():
            data = before.read(item)
            if item.filename == "config.json":
                assert old in data.decode()
                data = data.decode().replace(old, new).encode()
            after.writestr(item, data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"module": "keras.layers", "class_name": "Add"', '"module": "os", "class_name": "system"'),
        ('"activation": "relu"', '"activation": {"class_name": "function", "module": "keras.utils", '
         '"config": "get_file", "registered_name": "get_file"}'),
        ('"keras.layers", "class_name": "Add"', '"keras.layers", "class_name": "TFSMLayer"'),
        ('"activation": "relu"', '"activation": {"class_name": "__lambda__", "config": {"value": "AA=="}}'),
    ],
)  # fmt: skip
def test_configs_that_name_what_is_not_keras(model_file: Path, old: str, new: str) -> None:
    edit_config(model_file, Path("bad.keras"), old, new)
    assert "would run code" in refused(3, "convert", "bad.keras")


def test_arrays_that_declare_more_than_the_file_has(here: Path) -> None:
    with h5py.File("bomb.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
        file.create_dataset("huge", (1 << 32,), "float32", chunks=(1 << 16,), compression="gzip")
    assert Path("bomb.h5").stat().st_size < 1 << 20
    assert "declares 17,179,869,184 bytes" in refused(3, "convert", "bomb.h5")


def test_links_out_of_the_file(here: Path) -> None:
    with h5py.File("link.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "leads out of the file" in refused(3, "convert", "link.h5")


# ---------------------------------------------------------------- bad input: cut (4)


def test_cuts_that_cannot_be(model_file: Path) -> None:
    assert "the nearest names are inner1" in refused(4, "convert", model_file, "--to", "iner1")
    assert "no layer matches 'conv9*'" in refused(4, "convert", model_file, "--to", "conv9*")
    assert "'image' is an input" in refused(4, "convert", model_file, "--to", "image")
    assert "nothing is computed after out" in refused(4, "convert", model_file, "--from", "out")
    assert "does not depend on" in refused(4, "convert", model_file, "--from", "gap", "--to", "inner1")
    assert not Path("build").exists()


def test_what_crosses_is_named_with_the_nearest_legal_cuts(model_file: Path) -> None:
    message = refused(4, "convert", model_file, "--from", "inner1")
    assert "stem: float32[batch, 16, 16, 8] crosses it, too" in message
    assert "nearest to it: stem and join" in message
    assert run("convert", model_file, "--from", "inner1", "--frontier").exit_code == 0


def test_an_ambiguous_call(structure: Any, here: Path) -> None:
    structure("shared_layer").save("shared.keras")
    assert "shared@0, shared@1" in refused(4, "convert", "shared.keras", "--to", "shared")


# ---------------------------------------------------------------- bad input: validation (5), target (6)


def test_dead_model_proves_nothing(here: Path) -> None:
    import keras

    inputs = keras.Input((4,), name="x")
    dead = keras.layers.Dense(3, kernel_initializer="zeros", name="dead")(inputs)
    keras.Model(inputs, dead).save("dead.keras")
    assert "a constant would pass" in refused(5, "convert", "dead.keras")
    assert not Path("build").exists()


def test_a_wrong_piece_is_not_written(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finish that changes values by a thousandth is caught, reported and leaves nothing behind."""
    import converter.finish.passes as passes
    from converter.finish.affine import fold_affine

    def spoiled(model: Any) -> None:
        fold_affine(model)
        for value in model.graph.initializers.values():
            if value.const_value.size > 1 and value.const_value.dtype.is_floating_point():
                array = value.const_value.numpy()
                value.const_value = type(value.const_value)(array * np.float32(1.001))

    monkeypatch.setattr(passes, "fold_affine", spoiled)
    message = refused(5, "convert", model_file, "--to", "gap")
    assert re.search(r"scaled error 1\.\de-03 > 6\.1e-05", message) or "FAILED" in message
    assert not Path("build").exists()
    report = json.loads(run("convert", model_file, "--to", "gap", "--json").stdout)
    jsonschema.validate(report, SCHEMA)
    assert report["validation"]["passed"] is False


def test_output_that_cannot_be_written(model_file: Path) -> None:
    Path("taken").write_text("a file, not a folder")
    assert "cannot write to taken" in refused(6, "convert", model_file, "--output", "taken")
    assert "cannot write" in refused(6, "convert", model_file, "--output", "/proc/nowhere")


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="needs root and mount")
def test_a_full_disk(model_file: Path, here: Path) -> None:
    disk = here / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=8k tmpfs {disk} 2>/dev/null"):
        pytest.skip("mounting is not allowed here")
    try:
        message = refused(6, "convert", model_file, "--output", disk / "out")
        assert "No space left" in message
        assert list(disk.iterdir()) == []
    finally:
        os.system(f"umount {disk}")


def test_keras_target_inside_a_loop(structure: Any, here: Path) -> None:
    structure("time_distributed").save("video.keras")
    message = refused(6, "convert", "video.keras", "--to", "frames/conv@2", "--targets", "onnx,keras")
    assert "cut at the layer around it" in message
    (folder,) = Path("build").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "trunk.onnx"]
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert [failed["kind"] for failed in report["failures"]] == ["keras"]
    assert report["validation"]["status"] == "passed"
    message = refused(
        6, "convert", "video.keras", "--to", "frames/conv@2", "--targets", "keras", "--output", "k"
    )
    assert "cut at the layer around it" in message
    assert not Path("k").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [("convert", "(default: 18"), ("fit", "(default: the output)"), ("rank", "(default: a few")],
)
def test_help_says_what_is_the_default(command: str, words: str) -> None:
    """Square brackets would be taken for a style and vanish."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert words in result.output
