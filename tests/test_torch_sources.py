"""PyTorch models from names, from the user's own function, and from files of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import converter
from fixtures.transformers_models import save

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.dense = nn.Linear(8, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, ids, scale):
        return self.out(torch.relu(self.dense(self.embed(ids).mean(1))) * scale)

def net():
    return Net()

def nothing():
    return 3

def broken():
    return Net().gone
"""
EXAMPLES = ("--example", "ids=1x5:int64", "--example", "scale=1x1")


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


def _net(factory: Path) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(factory.read_text(), factory, "exec"), scope)
    torch.manual_seed(3)
    return scope["net"]()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_factory_with_weights_from_a_file(
    converter_command: Callable[..., Any], factory: Path, tmp_path: Path, suffix: str
) -> None:
    from safetensors.torch import save_file

    net = _net(factory)
    weights = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), weights)
    done = converter_command(
        "convert",
        f"{factory}:net",
        *EXAMPLES,
        "--weights",
        weights,
        "--to",
        "dense",
        "--output",
        tmp_path / "out",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["source"]["weights"].startswith("sha256:")
    assert report["validation"]["passed"]
    ids = np.random.default_rng(0).integers(0, 20, (4, 5))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "trunk.onnx")
    assert [value.name for value in session.get_inputs()] == ["ids"]
    with torch.no_grad():
        expected = net.dense(net.embed(torch.from_numpy(ids)).mean(1)).numpy()
    np.testing.assert_allclose(session.run(None, {"ids": ids})[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{factory}:net"], 3, "inputs of Net are not known"),
        (
            ["{factory}:net", "--example", "1x5:int64"],
            3,
            "does not take this example: missing a required argument",
        ),
        (["{factory}:net", "--example", "banana"], 2, "expected sizes like 1x3x224x224"),
        (["{factory}:gone", *EXAMPLES], 3, "has no function 'gone'"),
        (["{factory}:nothing", *EXAMPLES], 3, "returns a int, expected a torch.nn.Module"),
        (["{factory}:broken", *EXAMPLES], 3, "has no attribute 'gone'"),
        (["{factory}:net", *EXAMPLES, "--to", "dens"], 4, "the nearest names are dense"),
        (["{factory}:net", *EXAMPLES, "--dynamic", "ids:7=x"], 2, "expected image, sequence or INPUT:AXIS"),
        (["{factory}:net", *EXAMPLES, "--targets", "tensorrt"], 6, "pip install 'converter[tensorrt]'"),
        (["{factory}:net", *EXAMPLES, "--weights", "{other}"], 3, "do not fit Net: no embed.weight"),
        (["{factory}:net", *EXAMPLES, "--weights", "{factory}"], 3, "not a readable file of PyTorch"),
        (["{other}"], 3, "holds weights without the model"),
        (["{module}", *EXAMPLES], 3, "loading it would run code from the file"),
        (["torchvision:resnet5"], 3, "the nearest names are"),
        (["torchvision:resnet18", "--example", "1x3x64x64"], 3, "it takes no example"),
        (["nosuchmodel"], 3, "torchvision has no model 'nosuchmodel'"),
    ],
)
def test_what_is_wrong_is_said(
    converter_command: Callable[..., Any],
    factory: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    other, module = tmp_path / "other.pth", tmp_path / "module.pt"
    torch.save({"x": torch.zeros(2)}, other)
    torch.save(torch.nn.Linear(2, 2), module)
    filled = [text.format(factory=factory, other=other, module=module) for text in arguments]
    done = converter_command("convert", *filled, "--output", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_pickled_module_with_trust(converter_command: Callable[..., Any], tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()), tmp_path / "module.pt")
    done = converter_command("convert", tmp_path / "module.pt", "--trust", "--example", "1x4", "--to", "0")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout


def test_torchvision_by_name_is_seeded_and_repeatable(tmp_path: Path) -> None:
    files = []
    for number in range(2):
        model = converter.load("torchvision:mobilenet_v3_small", weights="random", seed=5)
        assert not model.info.trained
        cut = model.cut(split="features.4.block.2.fc1")
        assert len(cut.frontier) > 1
        document = cut.save(tmp_path / str(number))
        assert document.proof.passed
        files.append([(tmp_path / str(number) / f"{role}.onnx").read_bytes() for role in ("trunk", "head")])
    assert files[0] == files[1]


def test_pretrained_weights_that_cannot_be_had(converter_command: Callable[..., Any], tmp_path: Path) -> None:
    environment = {
        "TORCH_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = converter_command("convert", "torchvision:resnet18", env=environment)
    assert done.returncode == 3, done.stderr
    assert "neither cached nor to be downloaded" in done.stderr
    assert "--weights auto" in done.stderr


@pytest.mark.parametrize(
    ("kind", "layer", "dynamic"),
    [
        ("bert", "encoder.layer.0", ["sequence"]),
        ("vit", "vit.layers.0", []),
        ("t5", "encoder.block.0", ["sequence"]),
        ("llama", "model.layers.0", ["sequence"]),
    ],
)
def test_transformers_from_a_folder(tmp_path: Path, kind: str, layer: str, dynamic: list[str]) -> None:
    save(kind, tmp_path)
    model = converter.load(f"transformers:{tmp_path}", dynamic=dynamic)
    certificate = model.cut(split=layer).validate()
    assert certificate.passed, certificate.failures()


def test_timm_by_name() -> None:
    model = converter.load("timm:test_vit", weights="random")
    layer = next(la.name for la in model.layers if la.name.endswith("blocks.1.attn"))
    certificate = model.cut(split=layer).validate()
    assert certificate.passed, certificate.failures()


def test_seeded_weights_carry_a_signal_through_every_batchnorm() -> None:
    """GoogLeNet's own initial weights, as they are, make the same of every image."""
    model = converter.load("torchvision:resnet18", weights="random", cache=False)
    norms = [m for m in model._source.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    deviations = []
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: deviations.append(float(output.std())))
    with torch.no_grad():
        outputs = model._source.model.eval()(torch.randn(4, 3, 224, 224))
    assert len(deviations) == len(norms)
    assert all(1 / 32 < deviation < 2 for deviation in deviations), deviations
    assert float(outputs.std(0).mean()) > 1e-3 * float(outputs.abs().max())
