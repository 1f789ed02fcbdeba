"""What PyTorch models do besides layers: branches, state, other dtypes, weights with two names."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import converter
from converter.errors import UsageError
from converter.sources.cache import Store


def weights_of(folder: Path, role: str) -> set[str]:
    return set(torch.load(folder / f"{role}.pth", weights_only=True))


class Branches(nn.Module):
    """torch.cond, one branch with a layer in it, the other with an integer buffer."""

    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("order", torch.tensor([4, 2, 0, 1, 3]))
            self.inner = nn.Linear(5, 5)

        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda t: t[:, self.order], lambda t: self.inner(t), (x,))

    def __init__(self) -> None:
        super().__init__()
        self.a, self.choice, self.b = nn.Linear(4, 5), self.Choice(), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.b(self.choice(self.a(x)))


def test_branches_and_the_weights_in_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = converter.load(Branches(), example=torch.zeros(1, 4))
    assert [layer.name for layer in model.layers] == ["a", "choice", "b"]
    assert model.cut(to="choice").save(tmp_path, targets=["onnx", "pt2", "state_dict"]).proof.passed
    named = {"a.weight", "a.bias", "choice.order", "choice.inner.weight", "choice.inner.bias"}
    assert weights_of(tmp_path, "trunk") == named


def test_an_integer_that_is_missing_is_seen() -> None:
    torch.manual_seed(0)
    model = converter.load(Branches(), example=torch.zeros(1, 4))
    cut = model.cut(to="choice")
    native = model._source.native(["x"], (), cut.pieces[0].ends)
    feeds = {"x": torch.full((2, 4), 50.0).numpy() * native.state["a.weight"].sum(0).sign().numpy()}
    expected = native.restored(native.state)(feeds)["choice"]
    less = {key: value for key, value in native.state.items() if key != "choice.order"}
    assert (native.restored(less)(feeds)["choice"] != expected).any()


class Unrolled(nn.Module):
    """The batch is a constant after `pre`, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.post = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        x = self.pre(x)
        return torch.stack([self.post(x[i]) for i in range(x.shape[0])])


def test_a_trunk_is_the_same_whatever_was_looked_at_before(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from tests.test_torch_edges import Unrolled as net\n")
    for cache in (False, True):
        model = converter.load(f"{tmp_path}/nets.py:net", example=("1x4",), cache=cache)
        cut = model.cut(to="pre")
        assert len(model.layers) == 2
        proof = cut.save(tmp_path / "1", targets=["onnx", "pt2"]).proof
        assert {comparison.batch for comparison in proof.comparisons} == {1, 3}
        assert model.cut(to="pre").pieces[0].inputs[0].shape == ("batch", 4)
    whole = converter.load(f"{tmp_path}/nets.py:net", example=("1x4",)).cut()
    assert whole.pieces[0].inputs[0].shape == (1, 4)
    later = converter.load(f"{tmp_path}/nets.py:net", example=("1x4",)).cut(to="pre")
    assert later.pieces[0].inputs[0].shape == ("batch", 4)


class Later(nn.Module):
    """What follows `mid` cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.end = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        x = self.mid(self.stem(x))
        return self.end(x) if x.sum() > 0 else x


def test_native_pieces_of_trunks_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from tests.test_torch_edges import Later as net\n")
    for number in range(2):
        model = converter.load(f"{tmp_path}/nets.py:net", example=("1x4",))
        document = model.cut(to="mid").save(tmp_path / str(number), targets=["onnx", "pt2", "state_dict"])
        assert document.proof.passed
    early, late = model.cut(to="stem"), model.cut(to="mid")
    assert early.save(tmp_path / "2", targets=["pt2"]).proof.passed
    assert late.save(tmp_path / "3", targets=["pt2"]).proof.passed


def test_bfloat16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(torch.bfloat16)
    model = converter.load(module, example=torch.zeros(1, 4, dtype=torch.bfloat16))
    document = model.cut(split="1").save(tmp_path, targets=["pt2", "safetensors"])
    assert document.proof.passed
    assert {c.piece for c in document.proof.comparisons} >= {"trunk.pt2", "head.safetensors"}


class Counting(nn.Module):
    """Writes to a buffer each time it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(()))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        self.n.add_(1)
        return self.fc(x) * self.n


def test_models_that_write_to_their_buffers_are_left_as_they_were(tmp_path: Path) -> None:
    module = Counting()
    model = converter.load(module, example=torch.zeros(1, 4))
    for number in range(2):
        assert model.cut().save(tmp_path / str(number)).proof.passed
    assert float(module.n) == 0
    first, second = ((tmp_path / str(number) / "model.onnx").read_bytes() for number in range(2))
    assert first == second


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        return self.out(self.mix(self.embed(ids)))


def test_tied_weights_go_by_their_first_name(tmp_path: Path) -> None:
    model = converter.load(Tied(), example=torch.zeros(1, 5, dtype=torch.int64))
    assert model.cut(split="mix").save(tmp_path, targets=["pt2", "state_dict"]).proof.passed
    for role in ("trunk", "head"):
        program = torch.export.load(tmp_path / f"{role}.pt2")
        assert {name for name, _ in program.named_parameters()} == weights_of(tmp_path, role)


class Takes(nn.Module):
    def forward(self, x: Any, mode: str = "a") -> Any:
        return torch.relu(x) if mode == "a" else -x


def test_programs_that_are_no_sources() -> None:
    program = torch.export.export(Takes(), (torch.zeros(2, 3), "b"))
    with pytest.raises(converter.SourceError, match="takes 'b' among its inputs"):
        converter.load(program)
    training = torch.export.export(nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train(), (torch.zeros(2, 3),))
    with pytest.raises(converter.SourceError, match="training mode"):
        converter.load(training)
    good = torch.export.export(Takes(), (torch.zeros(2, 3),))
    with pytest.raises(converter.SourceError, match="knows its inputs"):
        converter.load(good, dynamic=["sequence"])


def test_an_example_where_none_is_taken() -> None:
    with pytest.raises(converter.SourceError, match="takes no example"):
        converter.load("torchvision:resnet18", weights="random", example=torch.zeros(1, 3, 64, 64))


def test_the_size_of_the_cache_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERTER_CACHE_MB", "1GB")
    with pytest.raises(UsageError, match="whole number of megabytes"):
        Store()


def test_patches_become_an_image() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 192)

        def forward(self, x: Any) -> Any:
            patches = self.fc(x).view(-1, 2, 2, 4, 4, 3)
            return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, 8, 8)

    assert converter.load(Image(), example=torch.zeros(1, 8)).cut().validate().passed


class SameNames(nn.Module):
    """A weight called like the input, and one called like the output."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.output = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.inner(x * self.x) + self.output


def test_weights_with_the_names_of_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = converter.load(SameNames(), example=torch.zeros(1, 3))
    assert [spec.name for spec in model.inputs] == ["x_input"]
    assert model.cut(split="inner").save(tmp_path, targets=["onnx", "pt2"]).proof.passed
    assert model.cut(to="inner").save(tmp_path, targets=["onnx", "state_dict"]).proof.passed
    assert weights_of(tmp_path, "trunk") == {"x", "output", "inner.weight", "inner.bias"}


def test_such_a_model_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.x = nn.Parameter(torch.ones(3))\n"
        "        self.inner = nn.Linear(3, 3)\n"
        "    def forward(self, x):\n        return self.inner(x * self.x)\n"
    )
    for _ in range(2):
        model = converter.load(f"{tmp_path / 'net.py'}:Net", example=["1x3"], weights="random")
        assert model.cut(to="inner").validate().passed


class Pair(NamedTuple):
    left: Any
    right: Any


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, pair: Any, more: Any) -> Any:
        return self.inner(pair.left * pair.right + more["k"])


def test_inputs_in_named_tuples_and_ordered_dicts() -> None:
    torch.manual_seed(0)
    x = torch.zeros(2, 3)
    arguments = (Pair(x, x), OrderedDict(k=x))
    assert converter.load(Packed(), example=arguments).cut(to="inner").validate().passed
    program = torch.export.export(Packed(), arguments)
    assert converter.load(program).cut(to="inner").validate().passed


class Modern(nn.Module):
    """Operators that opsets before 18 say differently or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.last = nn.LayerNorm(6), nn.GELU(approximate="tanh"), nn.Linear(7, 3)

    def forward(self, x: Any) -> Any:
        x = self.act(self.norm(x).roll(1, dims=-1))
        left, middle, right = nn.functional.pad(x, (1, 0)).split((3, 2, 2), dim=-1)
        return self.last(torch.cat([left, middle, right], -1)).amax(1)


@pytest.mark.parametrize("opset", [15, 16, 17, 23])
def test_any_opset(opset: int) -> None:
    torch.manual_seed(0)
    cut = converter.load(Modern(), example=torch.zeros(1, 5, 6)).cut(opset=opset)
    assert cut.piece("model").graph.opset_imports == {"": opset}
    assert cut.validate().passed
