"""The modules of a PyTorch model, as far as they are known without calling it."""

from __future__ import annotations

import itertools
from typing import Any

from converter.model import Layer, Outline

__all__ = ["outline_of"]


def outline_of(model: Any, most: int) -> Outline:
    """The modules in the order in which they were registered, without shapes.

    Args:
        model: the `torch.nn.Module`.
        most: how many at most; what comes after them is left out.
    """
    found = list(itertools.islice(model.named_modules(), 1, None))
    layers = []
    for path, module in found[:most]:
        weights = list(module.parameters())
        count = sum(weight.numel() for weight in weights)
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        layers.append(Layer(path, type(module).__name__, (), count, trained, path.count(".")))
    return Outline(tuple(layers), gaps=((most, len(found) - most),) if len(found) > most else ())
