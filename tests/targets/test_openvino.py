"""OpenVINO's files, run by OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from converter.errors import TargetError
from converter.targets import openvino as target

pytest.importorskip("openvino")


def test_what_is_loaded_again_computes_the_same(onnx_made: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.xml"
    files = target.write(onnx_made.model, path, onnx_made.brief)
    assert [file.name for file in files] == ["trunk.xml", "trunk.bin"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert files[1].stat().st_size > 4 * 16 * 3 * 3 * 3  # float32, not half of it
    onnx_made.check(target.reload(path, onnx_made.model, onnx_made.brief))


def test_data_beside_the_onnx_file_are_read(onnx_made: Any, tmp_path: Path) -> None:
    beside = tmp_path / "beside.onnx"
    onnx.save(
        onnx.load(onnx_made.model),
        beside,
        save_as_external_data=True,
        location="beside.onnx.data",
        size_threshold=0,
    )
    target.write(beside, tmp_path / "trunk.xml", onnx_made.brief)
    (tmp_path / "beside.onnx.data").unlink()
    onnx_made.check(target.reload(tmp_path / "trunk.xml", beside, onnx_made.brief))


def test_changed_weights_are_seen(onnx_made: Any, tmp_path: Path, flip: Callable[..., None]) -> None:
    path = tmp_path / "trunk.xml"
    _, weights = target.write(onnx_made.model, path, onnx_made.brief)
    flip(weights, 0.3)
    with pytest.raises(AssertionError):
        onnx_made.check(target.reload(path, onnx_made.model, onnx_made.brief))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TargetError, match=r"cannot load trunk\.xml again"):
        target.reload(path, onnx_made.model, onnx_made.brief)


def test_what_it_cannot_read_is_refused(onnx_made: Any, tmp_path: Path) -> None:
    strange = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18, "my.own": 1]> g (float[batch, 4] x) => (float[batch, 4] y)'
        " { y = my.own.Strange(x) }"
    )
    onnx.save(strange, tmp_path / "strange.onnx")
    with pytest.raises(TargetError, match=r"(?s)cannot convert strange\.onnx.*Strange"):
        target.write(tmp_path / "strange.onnx", tmp_path / "trunk.xml", onnx_made.brief)


def test_without_the_package_the_message_says_what_to_install(
    onnx_made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TargetError, match=r"converter\[openvino\]"):
        target.write(onnx_made.model, tmp_path / "trunk.xml", onnx_made.brief)
