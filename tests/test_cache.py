"""Exports kept between runs: found, proven, the same bytes, bounded, and made again when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.sources.cache import CachedSource, Store
from converter.sources.keras.source import KerasSource
from converter.sources.torch.source import TorchSource
from tests.conftest import ROOT

# A model, a deep cut, a cut inside that one's trunk, a cut that needs the whole.
MODELS = {
    "torchvision:resnet18": ("layer3", "layer2", "layer1"),
    "keras:mobilenetv2": ("block_6_expand", "block_2_add", "block_4_add"),
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CONVERTER_CACHE_DIR", str(tmp_path / "cache"))
    return Store()


class Exports:
    """Counts what the frameworks are really asked to export."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for cls in (KerasSource, TorchSource):
            monkeypatch.setattr(cls, "export", self._counting(cls.export))

    def _counting(self, export: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.count += 1
            return export(*args)

        return counted


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    return Exports(monkeypatch)


def opened(name: str, **options: Any) -> converter.Model:
    return converter.load(name, weights="random", **options)


def written(cut: converter.Cut, folder: Path) -> dict[str, bytes]:
    assert cut.save(folder).proof.passed
    return {path.name: path.read_bytes() for path in folder.glob("*.onnx")}


@pytest.mark.parametrize("name", MODELS)
def test_later_cuts_come_from_the_cache_as_the_same_bytes(
    name: str, tmp_path: Path, store: Store, exports: Exports
) -> None:
    deep, inner, middle = MODELS[name]
    fresh = opened(name, cache=False)
    expected = {
        key: written(fresh.cut(**cut), tmp_path / "fresh" / key)
        for key, cut in (("deep", {"to": deep}), ("inner", {"to": inner}), ("split", {"split": middle}))
    }
    assert not store.entries()
    exports.count = 0
    assert written(opened(name).cut(to=deep), tmp_path / "1") == expected["deep"]
    assert exports.count == 1
    assert written(opened(name).cut(to=inner), tmp_path / "2") == expected["inner"]
    assert exports.count == 1
    assert written(opened(name).cut(split=middle), tmp_path / "3") == expected["split"]
    assert exports.count == 2  # a head needs what a trunk's export does not have
    assert written(opened(name).cut(split=middle), tmp_path / "4") == expected["split"]
    assert exports.count == 2
    assert max(len(entry.graph) for entry in store.entries()) < 1 << 20  # no weights


def test_a_whole_export_serves_every_cut(
    converter_command: Callable[..., Any], tmp_path: Path, store: Store, exports: Exports
) -> None:
    options = ("convert", "torchvision:resnet18", "--weights", "random", "--to")
    done = converter_command(*options, "layer1", "--cache-whole", "--output", tmp_path / "1")
    assert done.returncode == 0, done.stderr
    (entry,) = store.entries()
    assert entry.header["whole"]
    model = opened("torchvision:resnet18")
    assert [layer.name for layer in model.layers].count("layer1.0.relu@1") == 1
    assert exports.count == 0
    for number, cut in enumerate(({"to": "layer2.0.conv1"}, {"split": "layer3"}, {"from_": "layer4"})):
        assert model.cut(**cut).save(tmp_path / f"cut{number}", targets=["onnx", "safetensors"]).proof.passed
    assert exports.count == 0
    assert len(store.entries()) == 1


def test_no_cache(converter_command: Callable[..., Any], tmp_path: Path, store: Store) -> None:
    options = ("convert", "torchvision:resnet18", "--weights", "random", "--to", "layer1")
    assert converter_command(*options, "--no-cache", "--output", tmp_path / "1").returncode == 0
    assert not store.entries()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_entry_is_made_again(
    damage: str, tmp_path: Path, store: Store, exports: Exports, caplog: pytest.LogCaptureFixture
) -> None:
    expected = written(opened("torchvision:resnet18").cut(to="layer1"), tmp_path / "1")
    (entry,) = store.entries()
    data = bytearray(entry.path.read_bytes())
    data[len(data) // 2] ^= 1
    broken = {"truncated": data[: len(data) // 2], "flipped": data, "empty": b"", "other": b"banana"}
    entry.path.write_bytes(broken[damage])
    assert written(opened("torchvision:resnet18").cut(to="layer1"), tmp_path / "2") == expected
    assert exports.count == 2
    assert "is damaged" in caplog.text
    (again,) = store.entries()
    assert again.graph == entry.graph


def test_what_an_export_depends_on_is_in_its_key(tmp_path: Path, store: Store, exports: Exports) -> None:
    nets = tmp_path / "nets.py"
    code = (
        "import torch\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.{}())\n"
    )
    nets.write_text(code.format("ReLU"))
    example = ("2x4",)

    def run(**options: Any) -> int:
        opening = {"example": example, "weights": "random", **options}
        cut = converter.load(f"{nets}:net", **opening).cut()
        assert cut.validate().passed
        return exports.count

    assert [run(), run()] == [1, 1]
    assert [run(seed=1), run(seed=1)] == [2, 2]
    assert run(example=("2x5x4",)) == 3
    nets.write_text(code.format("Tanh"))
    sys.modules.pop("converter_factory_nets", None)
    assert run() == 4


def test_live_models_are_not_cached(store: Store) -> None:
    import torch

    model = converter.load(torch.nn.Linear(3, 2), example=torch.zeros(1, 3))
    assert not isinstance(model._source, CachedSource)
    assert model.cut().validate().passed
    assert not store.entries()


def test_the_cache_is_bounded_and_what_was_used_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERTER_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CONVERTER_CACHE_MB", "1")
    store = Store()
    for number in range(4):
        store.put(f"{number}" * 64, {"n": number}, np.random.default_rng(number).bytes(300_000))
        for age, entry in enumerate(sorted(store.entries(), key=lambda e: e.header["n"])):
            os.utime(entry.path, (age, age))
    (first,) = store.find("1" * 64)
    store.touch(first)
    store.put("f" * 64, {"n": 9}, bytes(300_000))
    assert sorted(entry.header["n"] for entry in store.entries()) == [1, 3, 9]


WRITER = """
import sys
from converter.sources.cache import Store
store = Store()
for number in range(200):
    store.put(f"{number % 5}" * 64, {"n": number % 5}, bytes([number % 5]) * 100_000)
    for entry in store.find(f"{number % 5}" * 64):
        assert entry.graph == bytes([number % 5]) * 100_000
    if number % 40 == 39:
        store.clear()
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CONVERTER_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WRITER]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(4)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        assert not errors
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_costs_only_the_cache(
    converter_command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    options = ("convert", "torchvision:resnet18", "--weights", "random", "--to", "layer1")
    environment = {"CONVERTER_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = converter_command(*options, "--output", tmp_path / "1", env=environment)
    assert done.returncode == 0, done.stderr
    assert "the export was not cached" in done.stderr


def test_the_command(converter_command: Callable[..., Any], store: Store) -> None:
    store.put("0" * 64, {"source": "keras:vgg16", "cut": "block5_pool"}, bytes(10_000))
    shown = converter_command("cache").stdout
    assert "1 exports, 10.1 kB of at most 1.07 GB" in shown
    assert "keras:vgg16" in shown
    assert "block5_pool" in shown
    assert "removed 1 exports" in converter_command("cache", "--clear").stdout
    assert not store.entries()
    assert "0 exports" in converter_command("cache").stdout
