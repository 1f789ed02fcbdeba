"""Artifacts held to what is claimed of them: honest ones pass, and whatever is done to one is found."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import converter
from converter.cli import app
from converter.errors import SourceError, UsageError, ValidationError
from converter.recording import Answer, read_seal, seal

KINDS = ["onnx", "ort", "keras", "h5", "savedmodel", "tflite", "tflite-int8", "torch", "checkpoint"]


def small() -> Any:
    keras.utils.set_random_seed(5)
    image = keras.Input((9, 8, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv")(image)
    x = keras.layers.Conv2D(4, 3, name="features")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(image, keras.layers.Dense(5, name="scores")(x), name="small")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verified") / "small.keras"
    small().save(path)
    return path


@pytest.fixture(scope="module")
def written(source: Path) -> Path:
    """A folder with every kind of artifact of the trunk and the head."""
    cut = converter.load(source).cut(split="features")
    cut.save(source.parent / "out", targets=KINDS)
    return source.parent / "out"


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "out"))


@pytest.fixture
def alone(written: Path, tmp_path: Path) -> Path:
    """The trunk by itself, as a receiver gets it."""
    return Path(shutil.copy(written / "trunk.onnx", tmp_path / "received.onnx"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def failed(path: Path, **options: Any) -> dict[str, str]:
    """What does not hold, by check."""
    found = converter.verify(path, **options)
    assert not found.passed
    return {check.what: check.detail for check in found.failures}


def noted(path: Path, change: Any) -> None:
    """Change the record inside a file, and seal it again."""
    model = onnx.load(path)
    record = next(entry for entry in model.metadata_props if entry.key == "converter.trunk.samples")
    note = json.loads(record.value)
    change(note)
    record.value = json.dumps(note)
    for entry in list(model.metadata_props):
        if entry.key == "converter.trunk.sha256":
            model.metadata_props.remove(entry)
    onnx.save(model, path)
    seal(path, "trunk", None, [])


# ---------------------------------------------------------------- honest artifacts


def test_a_file_by_itself_is_verified_without_its_source(alone: Path) -> None:
    found = converter.verify(alone)
    assert found.passed
    assert {check.what for check in found.checks if check.passed} == {"bytes", "proof", "samples"}
    assert [(name, match.output) for name, match in found.matches] == [("received.onnx", "features")]
    done = run(alone)
    assert done.exit_code == 0
    assert "verified" in done.stdout
    assert "bit for bit" in done.stdout


def test_what_is_recorded_is_what_the_framework_answers(alone: Path, source: Path) -> None:
    """The recorded figures are ONNX Runtime's; Keras itself is the reference."""
    sealed = read_seal(alone)
    assert sealed is not None
    assert sealed.record is not None
    feeds = sealed.record.feeds()
    model = keras.models.load_model(source)
    trunk = keras.Model(model.input, model.get_layer("features").output)
    answer = np.asarray(trunk(feeds["image"]))
    noted = sealed.record.answers["features"]
    assert noted.shape == answer.shape == (3, 7, 6, 4)
    figures = [answer.mean(), answer.std(), answer.min(), answer.max(), answer.flat[0], answer.flat[-1]]
    said = [noted.mean, noted.std, noted.low, noted.high, noted.probes[0], noted.probes[-1]]
    np.testing.assert_allclose(said, figures, rtol=0, atol=1e-5 * np.abs(answer).max())


def test_every_artifact_of_a_folder_is_looked_at(written: Path) -> None:
    found = converter.verify(written)
    assert found.passed
    ran = {check.artifact for check in found.checks if check.what == "samples" and check.passed}
    assert ran == {
        f"{role}.{suffix}"
        for role in ("trunk", "head")
        for suffix in ("onnx", "ort", "keras", "h5", "tflite", "int8.tflite")
    }
    trusted = converter.verify(written, trust=True)
    assert trusted.passed
    more = {check.artifact for check in trusted.checks if check.what == "samples" and check.passed} - ran
    assert more == {"trunk.savedmodel", "head.savedmodel", "trunk.py", "head.py"}


@pytest.mark.parametrize("name", ["head.keras", "head.tflite", "trunk.ort"])
def test_one_artifact_beside_its_report(written: Path, name: str) -> None:
    found = converter.verify(written / name)
    assert found.passed
    assert {check.artifact for check in found.checks} == {name}


def test_an_artifact_that_can_run_code_is_not_run_without_trust(written: Path) -> None:
    with pytest.raises(SourceError, match="SavedModel"):
        converter.verify(written / "trunk.savedmodel")
    assert converter.verify(written / "trunk.savedmodel", trust=True).passed


def test_against_the_source_the_proof_is_made_again(written: Path, source: Path) -> None:
    found = converter.verify(written, against=converter.load(source))
    assert found.passed
    compared = {(c.target, c.piece.partition(" ")[0]) for c in found.comparisons}
    assert compared >= {(kind, role) for kind in ("onnx", "keras", "tflite") for role in ("trunk", "head")}
    done = run(written / "trunk.onnx", "--against", source, "--json")
    facts = json.loads(done.stdout)
    assert facts["status"] == "verified"
    assert [check["what"] for check in facts["checks"]] == ["bytes", "proof", "versions", "samples", "source"]


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "nchw"},
        {"batch": 2},
        {"preprocess": "scale(1/255)", "rename": {"features": "f"}},
        {"precision": "int8"},
        {"precision": "fp16"},
    ],
)
def test_what_stands_around_a_piece_is_put_around_again(
    source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    converter.load(source).cut(to="features", **options).save(tmp_path)
    found = converter.verify(tmp_path / "trunk.onnx", against=converter.load(source))
    assert found.passed, found.failures
    assert any(check.what == "source" and check.passed for check in found.checks)


def test_external_data_belong_to_the_digest(source: Path, tmp_path: Path) -> None:
    command = ["convert", str(source), "--to", "features", "--external-data", "always"]
    assert CliRunner().invoke(app, [*command, "--output", str(tmp_path)]).exit_code == 0
    (tmp_path / "report.json").unlink()
    assert converter.verify(tmp_path / "trunk.onnx").passed
    (data,) = tmp_path.glob("*.data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x40
    data.write_bytes(content)
    assert data.name in failed(tmp_path / "trunk.onnx")["bytes"]
    data.unlink()
    with pytest.raises(SourceError):  # the file cannot even be loaded
        converter.verify(tmp_path / "trunk.onnx")


def test_the_same_cut_gives_the_same_bytes_with_its_record(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        converter.load(source).cut(to="features").save(tmp_path / name)
    first, second = ((tmp_path / name / "trunk.onnx").read_bytes() for name in ("a", "b"))
    assert first == second


def test_sealed_files_are_read_by_others(written: Path) -> None:
    model = onnx.load(written / "trunk.onnx")
    onnx.checker.check_model(model, full_check=True)
    notes = {entry.key for entry in model.metadata_props}
    assert {"converter.trunk.samples", "converter.trunk.sha256"} <= notes


# ---------------------------------------------------------------- what was done to them


def test_a_byte_is_found(alone: Path) -> None:
    content = bytearray(alone.read_bytes())
    weight = onnx.load(alone).graph.initializer[0].raw_data
    content[bytes(content).index(weight) + len(weight) // 2] ^= 0x01
    alone.write_bytes(content)
    assert "other bytes" in failed(alone)["bytes"]
    assert run(alone).exit_code == 5


def test_other_weights_under_a_good_digest_are_found_by_the_samples(alone: Path) -> None:
    model = onnx.load(alone)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    changed = weight.copy()
    changed.flat[0] += 0.05 * np.abs(weight).max()
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(changed, model.graph.initializer[0].name)
    )
    kept = [entry for entry in model.metadata_props if not entry.key.endswith(".sha256")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, alone)
    seal(alone, "trunk", None, [])
    found = failed(alone)
    assert set(found) == {"samples"}
    assert "features: off by" in found["samples"]


def test_a_file_that_was_saved_by_something_else_is_told(alone: Path) -> None:
    model = onnx.load(alone)
    model.doc_string = "mine now"
    onnx.save(model, alone)
    assert "other bytes" in failed(alone)["bytes"]
    model.metadata_props.add(key="owner", value="me")
    onnx.save(model, alone)
    assert "written anew" in failed(alone)["bytes"]


def test_composed_pieces_have_no_digest_of_their_own(written: Path, tmp_path: Path) -> None:
    pieces = [onnx.load(written / f"{role}.onnx") for role in ("trunk", "head")]
    onnx.save(onnx.compose.merge_models(*pieces, io_map=[("features", "features")]), tmp_path / "both.onnx")
    assert "composed" in failed(tmp_path / "both.onnx")["bytes"]


def test_an_artifact_that_was_exchanged_is_found(copied: Path, source: Path) -> None:
    model = keras.models.load_model(copied / "trunk.keras")
    weights = model.get_layer("features").get_weights()
    model.get_layer("features").set_weights([weights[0] * 1.01, weights[1]])
    model.save(copied / "trunk.keras")
    found = converter.verify(copied)
    assert {(check.artifact, check.what) for check in found.failures} == {
        ("trunk.keras", "bytes"),
        ("trunk.keras", "samples"),
    }


def test_a_missing_file_is_found(copied: Path) -> None:
    (copied / "head.h5").unlink()
    found = converter.verify(copied)
    assert ("head.h5", "bytes") in {(check.artifact, check.what) for check in found.failures}


def test_another_model_is_not_the_source(alone: Path, tmp_path: Path) -> None:
    other = small()
    other.get_layer("conv").set_weights([w + 0.01 for w in other.get_layer("conv").get_weights()])
    other.save(tmp_path / "other.keras")
    found = failed(alone, against=converter.load(tmp_path / "other.keras"))
    assert set(found) == {"source"}
    assert run(alone, "--against", tmp_path / "other.keras").exit_code == 5


def test_a_source_without_the_layer_is_another_model(alone: Path) -> None:
    other = keras.Sequential([keras.Input((9, 8, 3)), keras.layers.Flatten(name="flat")])
    found = failed(alone, against=other)
    assert found == {"source": found["source"]}
    assert "another model: no layer is called 'features'" in found["source"]


def test_a_lost_seal_is_told_and_the_samples_run(alone: Path) -> None:
    model = onnx.load(alone)
    for entry in list(model.metadata_props):
        if entry.key.endswith(".sha256"):
            model.metadata_props.remove(entry)
    onnx.save(model, alone)
    found = converter.verify(alone)
    assert {check.what: check.passed for check in found.checks} == {
        "bytes": False,
        "proof": True,
        "versions": None,
        "samples": True,
    }
    assert "lost its seal" in found.failures[0].detail


def test_what_no_report_speaks_of_is_listed(copied: Path) -> None:
    (copied / "old.onnx").write_bytes(b"junk")
    found = converter.verify(copied)
    assert found.passed
    assert [check.passed for check in found.checks if check.artifact == "old.onnx"] == [None]
    assert "old.onnx" in run(copied).stdout


def test_the_weights_of_a_module_are_checked_by_their_bytes(copied: Path) -> None:
    assert converter.verify(copied / "trunk.safetensors").passed
    content = bytearray((copied / "trunk.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "trunk.safetensors").write_bytes(content)
    assert "trunk.safetensors has other bytes" in failed(copied / "trunk.safetensors")["bytes"]


def test_a_folder_of_sealed_files_needs_no_report(written: Path, tmp_path: Path) -> None:
    for role in ("trunk", "head"):
        shutil.copy(written / f"{role}.onnx", tmp_path)
    found = converter.verify(tmp_path)
    assert found.passed
    assert {claim.role for claim in found.claims} == {"trunk", "head"}


def test_unproven_artifacts_are_not_verified(source: Path, tmp_path: Path) -> None:
    command = ["convert", str(source), "--to", "features", "--no-validate", "--output", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "UNVALIDATED" in failed(tmp_path)["proof"]
    (tmp_path / "report.json").unlink()
    with pytest.raises(ValidationError, match="no certificate"):
        converter.verify(tmp_path / "trunk.onnx")
    assert run(tmp_path / "trunk.onnx").exit_code == 5


def test_a_changed_model_is_verified_without_its_source_alone(source: Path, tmp_path: Path) -> None:
    converter.load(source).edit(replace={"scores": "dense(3,softmax)"}).cut().save(tmp_path)
    assert converter.verify(tmp_path).passed
    with pytest.raises(UsageError, match="changed before it was cut"):
        converter.verify(tmp_path, against=converter.load(source))


# ---------------------------------------------------------------- claims that make no sense


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda report: report.update(targets=[{"kind": "onnx"}]), "no report of this package"),
        (lambda report: report["targets"][0].update(path="../../etc/passwd"), "outside of its folder"),
        (lambda report: report["targets"][0].update(path="/etc/passwd"), "outside of its folder"),
        (lambda report: report["pieces"][0]["samples"]["inputs"][0].update(shape=[1 << 40]), "absurd"),
        (lambda report: report["pieces"][0]["samples"]["inputs"][0].update(shape=[-1, 3]), "cannot be read"),
        (lambda report: report["pieces"][0]["samples"]["inputs"][0].update(sha256="0" * 64), "drawn again"),
        (lambda report: report["pieces"][0]["samples"].update(outputs=[1]), "cannot be read"),
        (lambda report: report["pieces"][0].update(samples={"seed": "x"}), "cannot be read"),
    ],
)
def test_reports_are_hostile_until_shown_otherwise(copied: Path, change: Any, words: str) -> None:
    report = json.loads((copied / "report.json").read_text())
    change(report)
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(SourceError, match=words):
        converter.verify(copied)
    done = run(copied)
    assert done.exit_code == 3
    assert "Traceback" not in done.output


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\0"])
def test_reports_that_are_none(copied: Path, text: str) -> None:
    (copied / "report.json").write_text(text)
    with pytest.raises(SourceError):
        converter.verify(copied)


def test_a_file_with_a_seal_speaks_for_itself_beside_a_broken_report(copied: Path) -> None:
    (copied / "report.json").write_text("{")
    found = converter.verify(copied / "trunk.onnx")
    assert found.passed
    assert repr(found) == f"<Verification of {copied}/trunk.onnx: verified, 5 checks>"
    (note,) = [check for check in found.checks if check.artifact == "report.json"]
    assert note.passed is None
    assert "cannot be read" in note.detail
    with pytest.raises(SourceError, match=r"report\.json cannot be read"):
        converter.verify(copied / "trunk.py", trust=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.update(precision="foo"),
        lambda note: note.update(precision=["int8"]),
        lambda note: note.update(seed=-1),
        lambda note: note.update(seed=math.inf),
        lambda note: note["inputs"].append(note["inputs"][0]),
        lambda note: note["inputs"][0].update(rows=0),
        lambda note: note["inputs"][0].update(rows=-5),
        lambda note: note["inputs"][0].update(range=[5, 1]),
        lambda note: note["inputs"][0].update(range=[math.nan, 1]),
        lambda note: note["inputs"][0].update(range=[0, 1e300], dtype="int32"),
        lambda note: note["inputs"][0].update(dtype="foo"),
        lambda note: note["inputs"][0].update(dtype="object"),
        lambda note: note["inputs"][0].update(shape=[True, 64]),
        lambda note: next(iter(note["outputs"].values())).update(shape=[math.inf]),
        lambda note: next(iter(note["outputs"].values())).update(finite=math.inf),
    ],
)
def test_records_of_what_cannot_be(alone: Path, change: Any) -> None:
    noted(alone, change)
    with pytest.raises(SourceError, match="cannot be read"):
        converter.verify(alone)


def test_a_record_with_fewer_elements_does_not_match(alone: Path) -> None:
    noted(alone, lambda note: next(iter(note["outputs"].values())).update(probes=[1.0], sha256="0"))
    assert "1 elements were recorded, expected 16" in failed(alone)["samples"]


def test_what_an_artifact_claims_to_compute_in_widens_no_tolerance(alone: Path, source: Path) -> None:
    model = onnx.load(alone)
    rng = np.random.default_rng(0)
    for weight in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.size > 1:
            moved = array * (1 + 0.1 * rng.standard_normal(array.shape)).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(moved, weight.name))
    onnx.save(model, alone)
    noted(alone, lambda note: note.update(precision="int4"))
    found = failed(alone, against=source)["source"]
    assert "6.1e-05 passes" in found


def test_words_alone_verify_nothing(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    for target in report["targets"]:
        target.pop("sha256")
    report["targets"] = [target for target in report["targets"] if target["kind"] == "torch"]
    (copied / "report.json").write_text(json.dumps(report))
    found = converter.verify(copied)
    assert not found.failures
    assert not found.passed
    done = run(copied)
    assert done.exit_code == 5
    assert "nothing could be checked" in done.output


@pytest.mark.parametrize("key", ["samples", "data"])
def test_notes_that_are_none(alone: Path, key: str) -> None:
    model = onnx.load(alone)
    for entry in list(model.metadata_props):
        if entry.key in (f"converter.trunk.{key}", "converter.trunk.sha256"):
            model.metadata_props.remove(entry)
    model.metadata_props.add(key=f"converter.trunk.{key}", value="{" * 10)
    onnx.save(model, alone)
    seal(alone, "trunk", None, [])
    with pytest.raises(SourceError, match="cannot be read"):
        converter.verify(alone)


def test_no_such_thing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        converter.verify(tmp_path / "none.onnx")
    with pytest.raises(ValidationError, match="no certificate"):
        converter.verify(tmp_path)


# ---------------------------------------------------------------- records


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4),
        np.array([np.nan, 1.0, -np.inf, 2.5], np.float32),
        np.zeros((0, 3), np.float32),
        np.array(3.5),
        np.array(["a", "b"], object),
        np.array([True, False]),
    ],
    ids=["integers", "not finite", "empty", "scalar", "strings", "booleans"],
)
def test_answers_go_through_json(array: np.ndarray[Any, Any]) -> None:
    from converter.recording import Record

    answer = Answer.of(array)
    record = Record(0, (), {}, {}, {"y": answer}, "test")
    again = Record.from_dict(json.loads(json.dumps(record.as_dict())))
    (match,) = again.match({"y": array})
    assert match.passed
    assert match.exact
    if array.size and array.dtype.kind != "O":
        other = array.copy()
        other.flat[-1] = not other.flat[-1] if array.dtype.kind == "b" else other.flat[-1] + 3
        (match,) = again.match({"y": other})
        assert not match.passed


def test_a_receiver_needs_no_framework(alone: Path) -> None:
    code = (
        "import sys, converter; from pathlib import Path\n"
        f"assert converter.verify(Path({str(alone)!r})).passed\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
