"""Models whose weights are not on the CPU, and PyTorch's settings around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import converter
from fixtures.torch_models import STRUCTURES, build

torch = pytest.importorskip("torch")
backend = pytest.importorskip("converter.sources.torch.backend")


@pytest.mark.parametrize("name", STRUCTURES)
def test_inputs_go_where_the_weights_are(name: str) -> None:
    """Traced on the device `meta`, which every build has and which does not mix with the CPU either."""
    model, example = build(name)
    here = [layer.name for layer in converter.load(model, example=example).layers]
    model.to("meta")
    assert [layer.name for layer in converter.load(model, example=example).layers] == here
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.fixture
def _settings() -> Iterator[None]:
    backends = torch.backends
    parts = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    yield
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = False, True
    for part, precision in zip(parts, before, strict=True):
        part.fp32_precision = precision


def _precisions() -> list[str]:
    backends = torch.backends
    return [p.fp32_precision for p in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]


def _older() -> Any:
    try:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return "mixed"


def _all() -> None:
    torch.backends.fp32_precision = "tf32"


def _older_way() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _newer_way() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("chosen", [lambda: None, _older_way, _newer_way, _all])
def test_no_tf32_whoever_chose_it_and_how(chosen: Any) -> None:
    model, example = build("residual")
    chosen()
    before = _precisions(), _older()
    with backend.as_judge(model):
        assert _precisions() == ["ieee"] * 3
        assert _older() == (False, False)  # torch.export reads it, and fails where both contradict
        assert torch.backends.cudnn.deterministic
    assert (_precisions(), _older()) == before
    assert not torch.backends.cudnn.deterministic
    assert converter.load(model, example=example).layers
