"""ONNX Runtime's own format, loaded again by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from converter.errors import TargetError, ValidationError
from converter.targets import ort


def test_what_is_loaded_again_computes_the_same(onnx_made: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.ort"
    assert ort.write(onnx_made.model, path, onnx_made.brief) == [path]
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes()[4:8] == b"ORTM"
    assert b"Reorder" not in path.read_bytes()  # into the layout of this machine's vectors
    onnx_made.check(ort.reload(path, onnx_made.model, onnx_made.brief))


def test_data_beside_the_onnx_file_go_in(onnx_made: Any, tmp_path: Path) -> None:
    beside = tmp_path / "beside.onnx"
    onnx.save(
        onnx.load(onnx_made.model),
        beside,
        save_as_external_data=True,
        location="beside.onnx.data",
        size_threshold=0,
    )
    path = tmp_path / "trunk.ort"
    assert ort.write(beside, path, onnx_made.brief) == [path]
    (tmp_path / "beside.onnx.data").unlink()
    onnx_made.check(ort.reload(path, beside, onnx_made.brief))


def test_changed_bytes_are_seen(onnx_made: Any, tmp_path: Path, flip: Callable[..., None]) -> None:
    path = tmp_path / "trunk.ort"
    ort.write(onnx_made.model, path, onnx_made.brief)
    whole = path.read_bytes()
    place = whole.index(onnx.numpy_helper.to_array(_dense(onnx_made.model)).tobytes()[:16]) / len(whole)
    flip(path, place + 1e-4)
    with pytest.raises((AssertionError, ValidationError)):
        onnx_made.check(ort.reload(path, onnx_made.model, onnx_made.brief))
    path.write_bytes(whole[:500])
    with pytest.raises(TargetError, match=r"cannot load trunk\.ort"):
        ort.reload(path, onnx_made.model, onnx_made.brief)


def _dense(path: Path) -> onnx.TensorProto:
    return next(tensor for tensor in onnx.load(path).graph.initializer if tensor.name == "dense")


def test_what_is_too_large_is_refused(
    onnx_made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "_LIMIT", 1000)
    with pytest.raises(TargetError, match="2 GB at most"):
        ort.write(onnx_made.model, tmp_path / "trunk.ort", onnx_made.brief)


def test_what_it_cannot_read_is_refused(onnx_made: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(TargetError, match=r"cannot convert broken\.onnx"):
        ort.write(tmp_path / "broken.onnx", tmp_path / "trunk.ort", onnx_made.brief)
