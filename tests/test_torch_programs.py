"""Programs of PyTorch: pieces written as `.pt2`, and `.pt2` files as sources."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import converter
from fixtures.torch_models import STRUCTURES, build
from tests.test_torch_structures import LAYERS

AUTO = torch.export.Dim.AUTO


def exported(name: str, path: Path) -> torch.nn.Module:
    """A structure as its owner would export it: every axis 0 symbolic that can be."""
    module, example = build(name)
    if isinstance(example, dict):
        args, kwargs = (), {key: torch.cat([value, value]) for key, value in example.items()}
    else:
        values = example if isinstance(example, tuple) else (example,)
        args, kwargs = torch.utils._pytree.tree_map(lambda t: torch.cat([t, t]), tuple(values)), {}
    names = list(inspect.signature(module.forward).parameters)
    shapes = {**dict(zip(names, args, strict=False)), **kwargs}
    symbolic = torch.utils._pytree.tree_map(lambda _: {0: AUTO}, shapes)
    if name == "fixed_batch":
        args, symbolic = (example,), None
    torch.export.save(torch.export.export(module, args, kwargs, dynamic_shapes=symbolic), path)
    return module


@pytest.mark.parametrize("name", STRUCTURES)
def test_pieces_as_programs(name: str, tmp_path: Path) -> None:
    module, example = build(name)
    model = converter.load(module, example=example)
    proven = []
    layers = LAYERS[name].split()
    for number, layer in enumerate(layers[:: 1 + len(layers) // 6]):
        try:
            cut = model.cut(split=layer)
        except converter.CutError:
            continue
        proof = cut.save(tmp_path / str(number), targets=["pt2"]).proof
        assert {c.piece for c in proof.comparisons} == {"trunk.pt2", "head.pt2", "head.pt2∘trunk.pt2"}
        assert proof.passed
        proven.append(layer)
    assert proven


READER = """
import sys, torch
assert not any(name.split(".")[0] in ("fixtures", "converter") for name in sys.modules)
torch.manual_seed(0)
trunk, head = (torch.export.load(f"{sys.argv[1]}/{role}.pt2").module() for role in ("trunk", "head"))
assert not any(name.split(".")[0] in ("fixtures", "converter") for name in sys.modules)
print(*(name for name, _ in trunk.named_parameters()))
optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], 1e-2)
y = torch.arange(16) % 4
x = torch.randn(16, 3, 12, 12) + y[:, None, None, None]
before = [p.detach().clone() for p in [*trunk.parameters(), *head.parameters()]]
losses = []
for _ in range(60):
    loss = torch.nn.functional.cross_entropy(head(trunk(x)).flatten(1)[:, :4], y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] / 2, losses
assert all((a != b).any() for a, b in zip(before, [*trunk.parameters(), *head.parameters()]))
"""


def test_programs_load_without_the_models_code_and_train(tmp_path: Path) -> None:
    module, example = build("residual")
    converter.load(module, example=example).cut(split="stem").save(tmp_path, targets=["pt2"])
    reader = [sys.executable, "-c", READER, str(tmp_path)]
    done = subprocess.run(reader, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) < {name for name, _ in module.named_parameters()}


def test_programs_are_the_same_bytes_each_time_and_tell_no_paths(tmp_path: Path) -> None:
    written = []
    for number in range(2):
        module, example = build("residual")
        converter.load(module, example=example).cut(to="bn1").save(tmp_path / str(number), targets=["pt2"])
        written.append((tmp_path / str(number) / "trunk.pt2").read_bytes())
    assert written[0] == written[1]
    assert b"fixtures/" not in written[0]


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_program_as_a_source(name: str, tmp_path: Path) -> None:
    """The same layers as the module has, but for those that compute nothing; cuts stand against PyTorch."""
    module = exported(name, tmp_path / "model.pt2")
    model = converter.load(tmp_path / "model.pt2", trust=True)
    silent = {"aliased": {"same"}}.get(name, set())
    assert [layer.name for layer in model.layers] == [n for n in LAYERS[name].split() if n not in silent]
    middle = {"text": "mlp.0", "fixed_batch": "first@1"}.get(name) or next(
        layer for layer in LAYERS[name].split()[1:] if layer not in ("pair", "relu@1")
    )
    cut = model.cut(split=middle if middle not in silent else "first")
    assert cut.save(tmp_path / "out", targets=["onnx", "pt2", "state_dict"]).proof.passed
    state = torch.load(tmp_path / "out" / "trunk.pth", weights_only=True)
    assert not module.load_state_dict(state, strict=False).unexpected_keys


def test_a_piece_can_be_cut_again_at_its_layers(tmp_path: Path) -> None:
    module, example = build("residual")
    converter.load(module, example=example).cut(to="bn1").save(tmp_path, targets=["pt2"])
    again = converter.load(tmp_path / "trunk.pt2", trust=True)
    assert "stem.0" in [layer.name for layer in again.layers]
    assert again.cut(to="stem").validate().passed


def test_what_is_wrong_with_a_program_is_said(converter_command: Callable[..., Any], tmp_path: Path) -> None:
    exported("sequential", tmp_path / "good.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"PK\x03\x04" + bytes(99))
    module, example = build("sequential")
    example = torch.cat([example, example])
    torch.export.save(torch.export.export(module.train(), (example,)), tmp_path / "training.pt2")
    for file, options, says in (
        ("good.pt2", [], "loading one can run code from the file"),
        ("gone.pt2", ["--trust"], "no file"),
        ("bad.pt2", ["--trust"], "is not a readable program of PyTorch"),
        ("training.pt2", ["--trust"], "was exported in training mode"),
        ("good.pt2", ["--trust", "--example", "1x3x16x16"], "neither example nor dynamic apply"),
        ("good.pt2", ["--trust", "--weights", "random"], "brings its own weights"),
    ):
        done = converter_command("convert", file, *options, "--output", tmp_path / "out")
        assert done.returncode == 3, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_live_program(tmp_path: Path) -> None:
    exported("shared", tmp_path / "model.pt2")
    program: Any = torch.export.load(tmp_path / "model.pt2")
    assert converter.load(program).cut(to="relu@1").validate().passed
