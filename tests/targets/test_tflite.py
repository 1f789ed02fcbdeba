"""TensorFlow Lite files, run by its interpreter."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import TargetError, ValidationError
from converter.targets import tflite, tflite_fp16, tflite_int8


@pytest.fixture(scope="module")
def plain(two_ended: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "trunk.tflite"
    assert tflite.write(two_ended.model, path, two_ended.brief) == [path]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path


def test_float32_computes_the_same_at_any_batch_size(two_ended: Any, plain: Path) -> None:
    two_ended.check(tflite.reload(plain, two_ended.model, two_ended.brief))


def test_a_changed_weight_is_seen(
    two_ended: Any, plain: Path, tmp_path: Path, flip: Callable[..., None]
) -> None:
    whole = plain.read_bytes()
    dense = next(
        np.asarray(v) for v in two_ended.model.variables if v.path.startswith("dense") and v.name == "kernel"
    )
    place = whole.index(np.ascontiguousarray(dense.T).tobytes()[:32])
    path = tmp_path / "trunk.tflite"
    path.write_bytes(whole)
    flip(path, place / len(whole) + 1e-6)
    with pytest.raises((AssertionError, ValidationError)):
        two_ended.check(tflite.reload(path, two_ended.model, two_ended.brief))


def test_what_is_no_model_does_not_load(two_ended: Any, tmp_path: Path) -> None:
    (tmp_path / "trunk.tflite").write_bytes(b"no model" * 100)
    with pytest.raises(TargetError, match=r"cannot load trunk\.tflite again"):
        tflite.reload(tmp_path / "trunk.tflite", two_ended.model, two_ended.brief)


def test_half_precision(two_ended: Any, plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "trunk.fp16.tflite"
    assert tflite_fp16.write(two_ended.model, path, two_ended.brief) == [path]
    run = tflite_fp16.reload(path, two_ended.model, two_ended.brief)
    two_ended.check(run, 2**-8)
    assert max(two_ended.errors(run, 3).values()) > 2**-16  # it is no float32 file


def test_integers(two_ended: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.int8.tflite"
    assert tflite_int8.write(two_ended.model, path, two_ended.brief) == [path]
    run = tflite_int8.reload(path, two_ended.model, two_ended.brief)
    two_ended.check(run, 0.15)
    assert max(two_ended.errors(run, 3).values()) > 2**-12
    without = dataclasses.replace(two_ended.brief, calibration=list)
    with pytest.raises(TargetError, match="samples"):
        tflite_int8.write(two_ended.model, path, without)


def test_operators_that_it_does_not_have_are_named(of_keras: Callable[..., Any], tmp_path: Path) -> None:
    import keras

    given = keras.Input((4, 4))
    made = of_keras({"x": given}, {"y": keras.ops.erfinv(keras.layers.Dense(4, activation="tanh")(given))})
    with pytest.raises(TargetError, match=r"no operators of its own for.*Erfinv"):
        tflite.write(made.model, tmp_path / "trunk.tflite", made.brief)
    assert list(tmp_path.iterdir()) == []


def test_recurrent_layers_want_a_fixed_batch(of_keras: Callable[..., Any], tmp_path: Path) -> None:
    import keras

    given = keras.Input((5, 3))
    made = of_keras({"x": given}, {"y": keras.layers.LSTM(4)(given)})
    with pytest.raises(TargetError, match=r"as recurrent layers and(?s:.*)unroll=True"):
        tflite.write(made.model, tmp_path / "trunk.tflite", made.brief)


def test_a_converter_that_aborts_is_reported(
    two_ended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys; sys.stderr.write('LLVM ERROR: out of luck'); sys.stderr.flush(); os.abort()"
    )
    monkeypatch.setattr(tflite, "_CHILD", child)
    with pytest.raises(TargetError, match=r"crashed \(SIGABRT\): LLVM ERROR: out of luck"):
        tflite.write(two_ended.model, tmp_path / "trunk.tflite", two_ended.brief)


def test_what_is_too_large_is_refused(
    two_ended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "_LIMIT", 1000)
    with pytest.raises(TargetError, match="2 GB at most"):
        tflite.write(two_ended.model, tmp_path / "trunk.tflite", two_ended.brief)


def test_litert_takes_over_where_tensorflow_has_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tflite.importlib, "import_module", _without_interpreter(tf))
    with pytest.raises(TargetError, match="ai-edge-litert"):
        tflite._interpreter()


def _without_interpreter(tf: Any) -> Callable[[str], Any]:
    class Bare:
        lite = object()

    def find(name: str) -> Any:
        if name == "tensorflow":
            return Bare
        raise ImportError(name)

    assert sys.modules["tensorflow"] is tf
    return find
