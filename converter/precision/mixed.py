"""Which layers must stay in float for the outputs to reach a quality: the fewest that measuring finds.

Noise that layers add is nearly independent, so its powers add up: each layer is quantized alone, and its
noise measured at the outputs. Layers are then kept in float from the noisiest on, as few as suffice (found by
bisection, each step measured), and those that turn out to be dispensable are quantized again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["Quality", "choose", "sensitivities"]

# Layers that stay in float → the SNR of the outputs in dB.
Quality = Callable[[frozenset[str]], float]
# Attempts to quantize kept layers again, each of which is a measurement.
_SECOND_THOUGHTS = 24


def sensitivities(layers: Sequence[str], quality: Quality) -> dict[str, float]:
    """Layer → the SNR in dB with this one quantized alone; the most sensitive first."""
    everything = frozenset(layers)
    found = {layer: quality(everything - {layer}) for layer in layers}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def choose(order: Sequence[str], quality: Quality, wanted: float) -> frozenset[str] | None:
    """The layers to keep in float; None where even one quantized layer is too much.

    Args:
        order: the layers, the most sensitive first.
        quality: measures.
        wanted: the SNR to reach, in dB.
    """
    low, high = 0, len(order)  # keeping `high` of them suffices: nothing is quantized then
    while low < high:
        middle = (low + high) // 2
        if quality(frozenset(order[:middle])) >= wanted:
            high = middle
        else:
            low = middle + 1
    if low == len(order):
        return None
    kept = frozenset(order[:low])
    for layer in list(reversed(order[:low]))[:_SECOND_THOUGHTS]:
        if quality(kept - {layer}) >= wanted:
            kept -= {layer}
    return kept


def shown(snr: float) -> float | None:
    """An SNR for a report: a tenth of a dB; None where nothing was off."""
    return round(snr, 1) if math.isfinite(snr) else None
