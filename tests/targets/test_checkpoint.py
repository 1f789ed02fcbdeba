"""TensorFlow checkpoints, restored into the same architecture built anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import TargetError
from converter.targets import checkpoint


def test_what_is_restored_computes_the_same(two_ended: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.ckpt"
    files = checkpoint.write(two_ended.model, path, two_ended.brief)
    assert [file.name for file in files] == ["trunk.ckpt.data-00000-of-00001", "trunk.ckpt.index"]
    assert sorted(tmp_path.iterdir()) == files
    two_ended.check(checkpoint.reload(path, two_ended.model, two_ended.brief), 0)


def test_a_user_restores_it_in_the_usual_way(two_ended: Any, tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    checkpoint.write(two_ended.model, tmp_path / "trunk.ckpt", two_ended.brief)
    trunk = keras.models.clone_model(two_ended.model)
    tf.train.Checkpoint(model=trunk).restore(str(tmp_path / "trunk.ckpt")).assert_consumed()
    for variable, original in zip(trunk.variables, two_ended.model.variables, strict=True):
        assert np.array_equal(variable, original)


def test_changed_bytes_are_seen(two_ended: Any, tmp_path: Path, flip: Callable[..., None]) -> None:
    path = tmp_path / "trunk.ckpt"
    data, _ = checkpoint.write(two_ended.model, path, two_ended.brief)
    flip(data)
    with pytest.raises((AssertionError, TargetError)):
        two_ended.check(checkpoint.reload(path, two_ended.model, two_ended.brief))


def test_a_weight_that_is_missing_is_seen(of_keras: Callable[..., Any], tmp_path: Path) -> None:
    import keras

    given = keras.Input((4,))
    hidden = keras.layers.Dense(3)(given)
    short = of_keras({"x": given}, {"y": hidden})
    long = of_keras({"x": given}, {"y": keras.layers.Dense(3)(hidden)})
    checkpoint.write(short.model, tmp_path / "trunk.ckpt", short.brief)
    with pytest.raises(TargetError, match="does not go into the architecture"):
        checkpoint.reload(tmp_path / "trunk.ckpt", long.model, long.brief)


def test_a_piece_without_weights_is_refused(of_keras: Callable[..., Any], tmp_path: Path) -> None:
    import keras

    given = keras.Input((4,))
    made = of_keras({"x": given}, {"y": keras.layers.ReLU()(given)})
    with pytest.raises(TargetError, match="no weights"):
        checkpoint.write(made.model, tmp_path / "trunk.ckpt", made.brief)
