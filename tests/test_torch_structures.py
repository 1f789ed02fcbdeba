"""Every PyTorch structure, cut at every layer: trunk, head, and both joined, against PyTorch itself."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import converter
from converter.handles import Model
from fixtures.torch_models import STRUCTURES, build

# The module calls of each structure in order: what a user may name.
LAYERS = {
    "sequential": "0.0 0.1 0.2 0 1 2 3 4 5",
    "residual": "stem.0 stem.1 stem.2 stem conv1 bn1 relu@0 conv2 bn2 relu@1 fc",
    "aliased": "first same last",
    "shared": "dense@0 relu@0 dense@1 relu@1 out",
    "structured": "halves.inner halves pair head",
    "text": "embed attention norm mlp.0 mlp.1 mlp.2 mlp out",
    "encoder": "layers.0.self_attn layers.0.dropout1 layers.0.norm1 layers.0.linear1 layers.0.dropout "
    "layers.0.linear2 layers.0.dropout2 layers.0.norm2 layers.0 layers.1.self_attn layers.1.dropout1 "
    "layers.1.norm1 layers.1.linear1 layers.1.dropout layers.1.linear2 layers.1.dropout2 layers.1.norm2 "
    "layers.1",
    "recurrent": "lstm gru out",
    "unet": "fine.0 fine.1 fine.2 fine down coarse.0 coarse.1 coarse.2 coarse up mask",
    "volumes": "conv3d bn conv1d",
    "fixed_batch": "first@0 first@1 last",
}


@functools.cache
def opened(name: str) -> Model:
    module, example = build(name)
    return converter.load(module, example=example)


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_module_call_is_listed_in_order(name: str) -> None:
    assert [layer.name for layer in opened(name).layers] == LAYERS[name].split()


@pytest.mark.parametrize("name", STRUCTURES)
def test_whole_model_computes_what_pytorch_computes(name: str) -> None:
    certificate = opened(name).cut().validate()
    assert certificate.passed, certificate.failures()
    assert len({c.batch for c in certificate.comparisons}) == (1 if name == "fixed_batch" else 2)


@pytest.mark.parametrize("name", STRUCTURES)
def test_trunk_and_head_at_every_layer(name: str) -> None:
    model = opened(name)
    split, ends = [], []
    for layer in model.layers:
        try:
            cut = model.cut(split=layer.name)
        except converter.CutError as error:
            assert "nothing is computed after" in str(error) or "does not depend on" in str(error)
            ends.append(layer.name)
            continue
        certificate = cut.validate()
        assert certificate.passed, (layer.name, certificate.failures())
        assert {c.piece for c in certificate.comparisons} == {"trunk", "head", "head∘trunk"}
        trunk, head = cut.pieces
        fed = {spec.name for spec in (*trunk.outputs, *model.inputs)}
        assert {spec.name for spec in head.inputs} <= fed
        split.append(layer.name)
    assert len(ends) <= 3, ends
    assert split


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_trunk_is_traced_for_its_cut_alone(name: str) -> None:
    module, example = build(name)
    model = converter.load(module, example=example)
    middle = LAYERS[name].split()[len(LAYERS[name].split()) // 2]
    cut = model.cut(to=middle)
    assert cut.validate().passed
    listed = [layer.name for layer in model._source.layers]
    beside = [n for n in LAYERS[name].split() if middle.startswith(n.rpartition(".")[0])]
    assert listed == beside[: beside.index(middle) + 1]
    assert [s.name.partition(":")[0] for s in cut.pieces[0].outputs] == [middle] * len(cut.pieces[0].outputs)


def test_the_source_model_is_left_as_it_was() -> None:
    module, example = build("residual")
    module.train()
    module.fc.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert converter.load(module, example=example).cut(split="bn1").validate().passed
    assert module.training
    assert not module.fc.training
    assert "forward" not in vars(module)
    assert not any(m._forward_hooks for m in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_of_structures_bear_their_keys() -> None:
    model = opened("structured")
    names = {b.name for layer in model.layers for b in layer.boundaries}
    assert {"halves:low", "halves:high", "pair:0", "pair:2"} <= names
    assert [spec.name for spec in model.outputs] == ["logits", "side"]
    cut = model.cut(to=["halves:high", "pair:2"])
    assert [spec.name for spec in cut.pieces[0].outputs] == ["halves:high", "pair:2"]
    assert cut.validate().passed


def test_symbolic_sizes(tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime

    module, example = build("unet")
    model = converter.load(module, example=example, dynamic=["image"])
    assert model.inputs[0].shape == ("batch", 3, "height", "width")
    cut = model.cut(to="coarse")
    cut.save(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "trunk.onnx")
    image = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        expected = module.coarse(module.down(module.fine(image))).numpy()
    (got,) = session.run(None, {"x": image.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_an_axis_that_the_model_fixes_cannot_be_symbolic() -> None:
    module, example = build("sequential")
    with pytest.raises(converter.SourceError, match="asked to be symbolic is fixed"):
        converter.load(module, example=example, dynamic=["image"]).cut()


class Decides(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            return x * 2
        return x


def test_a_decision_by_values_is_refused_with_its_line() -> None:
    model = converter.load(Decides(), example=torch.zeros(1, 3))
    with pytest.raises(converter.SourceError, match=r"test_torch_structures.py:\d+: `if x.sum\(\) > 0:`"):
        model.cut()


def test_a_live_module_needs_an_example() -> None:
    with pytest.raises(converter.SourceError, match=r"inputs of Linear are not known[\s\S]*--example"):
        converter.load(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", STRUCTURES)
def test_weights_under_their_original_names(name: str, tmp_path: Path) -> None:
    """Both targets, reloaded into the original architecture by our check and by hand."""
    from safetensors.torch import load_file

    model = opened(name)
    middle = {"text": "mlp.0", "fixed_batch": "first@1"}.get(name) or next(
        layer for layer in LAYERS[name].split()[1:] if layer not in ("pair", "relu@1")
    )
    document = model.cut(split=middle).save(tmp_path, targets=["onnx", "state_dict", "safetensors"])
    judged = {c.piece for c in document.proof.comparisons}
    assert {"trunk.pth", "head.pth", "head.safetensors∘trunk.safetensors"} <= judged
    module, _ = build(name)
    original = module.state_dict()
    restored: set[str] = set()
    for role in ("trunk", "head"):
        state = torch.load(tmp_path / f"{role}.pth", weights_only=True)
        same = load_file(tmp_path / f"{role}.safetensors")
        assert set(state) == set(same) <= set(original)
        assert all(torch.equal(tensor, original[key]) for key, tensor in same.items())
        assert not module.load_state_dict(state, strict=False).unexpected_keys
        restored |= set(state)
    assert restored == set(original)


def test_a_weight_that_is_missing_is_seen() -> None:
    model = opened("residual")
    cut = model.cut(split="bn1")
    source, piece = model._source, cut.piece("trunk")
    native = source.native(["image"], piece.starts, piece.ends)
    feeds = {"image": torch.rand(2, 3, 12, 12).numpy()}
    expected = source.run(feeds, piece.ends)
    got = native.restored(native.state)(feeds)
    assert all((got[b.name] == expected[b.value]).all() for b in piece.ends)
    for key, tensor in native.state.items():
        if tensor.is_floating_point():
            less = {name: value for name, value in native.state.items() if name != key}
            assert any((array != array).any() for array in native.restored(less)(feeds).values()), key
    with pytest.raises(converter.TargetError, match="does not know gone"):
        native.restored({**native.state, "gone": torch.zeros(1)})


def test_cuts_of_one_model_do_not_disturb_each_other(tmp_path: Path) -> None:
    module, example = build("residual")
    model = converter.load(module, example=example)
    late, early = model.cut(to="relu@1"), model.cut(to="conv1")
    for number, cut in enumerate((late, early, model.cut(), late)):
        assert cut.save(tmp_path / str(number), targets=["onnx", "state_dict"]).proof.passed


class Unfinished(torch.nn.Module):
    """What follows the trunk cannot run here, like detection without its compiled operators."""

    def __init__(self) -> None:
        super().__init__()
        norm = torch.nn.BatchNorm2d(4)
        self.trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), norm, torch.nn.ReLU(inplace=True))

    def forward(self, x: Any) -> Any:
        self.trunk(x)
        raise RuntimeError("no kernel")


def test_a_trunk_does_not_need_what_follows(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from tests.test_torch_structures import Unfinished as net\n")
    for weights in ("pretrained", "random"):
        model = converter.load(f"{tmp_path}/nets.py:net", weights=weights, example=("1x3x9x9",))
        assert model.cut(to="trunk").validate().passed
    with pytest.raises(converter.SourceError, match="no kernel"):
        model.cut()


def test_layers_that_begin_closed_are_opened(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.bn = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)\n"
        "        torch.nn.init.zeros_(self.bn.weight)\n"
        "        self.scale = torch.nn.Parameter(torch.full((4, ), 1e-6))\n\n"
        "    def forward(self, x):\n"
        "        return self.bn(self.conv(x)).mean((2, 3)) * self.scale\n"
    )
    place = f"{tmp_path}/nets.py:Net"
    closed = converter.load(place, example=("1x3x9x9",)).cut().validate()
    assert "all but constant" in str(closed.failures())
    assert converter.load(place, weights="random", example=("1x3x9x9",)).cut().validate().passed
