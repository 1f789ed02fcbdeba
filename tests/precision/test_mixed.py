"""Which layers stay in float: on noise whose best answer is known, and where one layer is worse."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import TargetError, UsageError
from converter.precision import Precision
from converter.precision.mixed import choose, sensitivities


def additive(noise: dict[str, float]) -> Any:
    """SNR of outputs of power 1 to which each quantized layer adds noise of a power."""

    def quality(kept: frozenset[str]) -> float:
        total = sum(power for layer, power in noise.items() if layer not in kept)
        return -10 * math.log10(total) if total else math.inf

    return quality


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("wanted", [5.0, 15.0, 25.0])
def test_the_fewest_layers_of_additive_noise(seed: int, wanted: float) -> None:
    rng = np.random.default_rng(seed)
    noise = {f"layer{i}": float(10 ** rng.uniform(-5, -0.5)) for i in range(9)}
    quality = additive(noise)
    alone = sensitivities(list(noise), quality)
    assert list(alone) == sorted(noise, key=lambda layer: -noise[layer])
    found = choose(list(alone), quality, wanted)
    fewest = next(
        count
        for count in range(len(noise) + 1)
        if any(quality(frozenset(kept)) >= wanted for kept in itertools.combinations(noise, count))
    )
    assert found is not None
    assert len(found) == fewest
    assert quality(found) >= wanted


def test_what_is_dispensable_is_quantized_again() -> None:
    """Alone `b` looks worse than `c`, but its noise is cancelled by `a`'s."""

    def quality(kept: frozenset[str]) -> float:
        return 30.0 if "a" in kept and "c" in kept else 10.0

    assert choose(["a", "b", "c", "d"], quality, 20.0) == {"a", "c"}


def test_none_where_one_layer_is_too_much() -> None:
    assert choose(["a", "b"], additive({"a": 0.1, "b": 0.01}), 40.0) is None
    assert choose(["a", "b"], additive({"a": 1e-9, "b": 1e-9}), 40.0) == frozenset()


@pytest.fixture(scope="module")
def uneven() -> Any:
    """A network with one layer whose values are spread over several orders of magnitude."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.odd, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8 * 36, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.odd(torch.relu(self.mid(torch.relu(self.stem(x)))))
            return self.head((x * self.scale).flatten(1))

    torch.manual_seed(0)
    net = Net().eval()
    factors = torch.tensor([300.0, 0.5, 1, 1, 1, 1, 1, 1]).reshape(8, 1, 1, 1)
    net.register_buffer("scale", 1 / factors.reshape(1, 8, 1, 1))
    with torch.no_grad():
        net.odd.weight *= factors
        net.odd.bias *= factors.reshape(8)
    return converter.load(net, example=torch.zeros(1, 3, 6, 6))


def test_the_layers_that_need_it_stay_in_float(uneven: Any, lowered: Any) -> None:
    counts = {}
    for wanted in (20.0, 44.0, 46.0):
        written = lowered(uneven, "mixed", method="minmax", min_snr=wanted)
        sensitive = {layer for layer, why in written.kept.items() if why == "sensitive"}
        counts[wanted] = len(sensitive)
        assert min(c.snr_db for c in written.document.proof.comparisons) >= wanted  # on held-out samples
        if sensitive:
            assert next(iter(written.facts["sensitivity"])) in sensitive
    assert counts[20.0] < counts[44.0] <= counts[46.0] < 4


def test_a_quality_that_no_layer_allows(uneven: Any, lowered: Any) -> None:
    with pytest.raises(TargetError, match="no layer of the model can be in int8 at 120 dB"):
        lowered(uneven, "mixed", method="minmax", min_snr=120.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mixed",), "which one"),
        (("int7",), "precision 'int7': expected fp16"),
        (("int8", "median"), "calibration 'median'"),
        (("fp16", "mse"), "calibration mse is for int8"),
        (("fp16", "auto", (), "int8"), "io int8 does not go with precision fp16"),
        (("int8", "auto", (), "fp16"), "io fp16 does not go with precision int8"),
        (("int8", "auto", (), "int4"), "io 'int4'"),
        (("mixed", "auto", (), "float", math.nan), "an SNR of nan dB: expected more than 0"),
        (("mixed", "auto", (), "float", -3.0), "an SNR of -3 dB"),
        (("int8", "auto", (), "float", math.inf), "an SNR of inf dB"),
    ],
)
def test_what_does_not_go_together(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Precision(*arguments)
