"""SavedModels, loaded again by TensorFlow without Keras."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import TargetError
from converter.targets import keras_calls, savedmodel


@pytest.fixture(scope="module")
def written(two_ended: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "trunk.savedmodel"
    files = savedmodel.write(two_ended.model, path, two_ended.brief)
    assert set(files) == {file for file in path.rglob("*") if file.is_file()}
    return path


def test_what_is_loaded_again_computes_the_same(two_ended: Any, written: Path) -> None:
    two_ended.check(savedmodel.reload(written, two_ended.model, two_ended.brief))


def test_it_loads_without_keras_under_the_names_of_the_piece(written: Path) -> None:
    code = (
        "import sys, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "signature = loaded.signatures['serving_default']\n"
        "print(sorted(signature.structured_input_signature[1]), sorted(signature.structured_outputs))\n"
        "print(all(s.shape[0] is None for s in signature.structured_input_signature[1].values()))\n"
        "print(len(loaded.trainable_variables), all(v.trainable for v in loaded.trainable_variables))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, written], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['picture', 'side_info_0'] ['a.head/dense@1', 'block5_pool']",
        "True",
        "8 True",
    ]


def test_a_changed_weight_is_seen(two_ended: Any, tmp_path: Path, flip: Callable[..., None]) -> None:
    path = tmp_path / "trunk.savedmodel"
    savedmodel.write(two_ended.model, path, two_ended.brief)
    flip(path / "variables" / "variables.data-00000-of-00001")
    with pytest.raises((AssertionError, TargetError)):
        two_ended.check(savedmodel.reload(path, two_ended.model, two_ended.brief))


def test_a_folder_without_its_graph_does_not_load(two_ended: Any, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot load trunk\.savedmodel again"):
        savedmodel.reload(tmp_path / "trunk.savedmodel", two_ended.model, two_ended.brief)


def test_names_are_kept_where_they_are_legal_and_never_taken_twice() -> None:
    names = ["block5_pool", "a_b", "a/b", "a.b", "1st", "_x", "class", "é"]
    made = keras_calls.arguments(names)
    assert list(made) == names
    assert len(set(made.values())) == len(names)
    assert made["block5_pool"] == "block5_pool"
    assert made["a_b"] == "a_b"
    assert all(argument.isidentifier() and argument.isascii() for argument in made.values())
