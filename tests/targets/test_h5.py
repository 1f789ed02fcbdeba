"""Keras's HDF5 files, loaded again by Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from converter.errors import TargetError
from converter.targets import h5


def test_what_is_loaded_again_computes_the_same(two_ended: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.h5"
    assert h5.write(two_ended.model, path, two_ended.brief) == [path]
    two_ended.check(h5.reload(path, two_ended.model, two_ended.brief), 0)


def test_a_changed_weight_is_seen(two_ended: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.h5"
    h5.write(two_ended.model, path, two_ended.brief)
    with h5py.File(path, "r+") as file:
        found: list[Any] = []
        file["model_weights"].visititems(lambda name, item: found.append(item) if "kernel" in name else None)
        found[0][..., 0] += 0.01
    with pytest.raises(AssertionError):
        two_ended.check(h5.reload(path, two_ended.model, two_ended.brief))


def test_a_file_cut_short_does_not_load(two_ended: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.h5"
    h5.write(two_ended.model, path, two_ended.brief)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TargetError, match=r"cannot load trunk\.h5 again"):
        h5.reload(path, two_ended.model, two_ended.brief)


def test_operations_that_are_no_layers_are_refused(of_keras: Callable[..., Any], tmp_path: Path) -> None:
    import keras

    given = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    made = of_keras({"x": given}, {"y": keras.ops.add(inner(given), given)})
    with pytest.raises(TargetError, match=r"layers only.*Add 'add"):
        h5.write(made.model, tmp_path / "trunk.h5", made.brief)
    assert list(tmp_path.iterdir()) == []
