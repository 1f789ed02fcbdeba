"""How heads with more than one layer to train are trained: the settings, and the choice of a framework."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from converter.errors import TargetError
from converter.heads import Head
from converter.model import Array
from converter.training import Training

__all__ = ["train"]

_FRAMEWORKS = ("torch", "keras")


def train(
    head: Head,
    kind: str,
    features: Array,
    labels: Array,
    rows: Array,
    settings: Training,
    progress: Callable[[int, float], None],
) -> tuple[Head, int]:
    """Train a head in its source's framework; one for an ONNX file in whichever is installed.

    A tenth of `rows` is kept apart to stop by.

    Args:
        head: with initial weights.
        kind: the source's framework.
        features: float32 of (samples, ...).
        labels: int64 of (samples,).
        rows: indices of the samples to train on.
        settings: how to train.
        progress: called with the number of epochs done and the loss on what was kept apart.

    Returns:
        The trained head, and the number of epochs.

    Raises:
        TargetError: no framework is installed.
    """
    names = [kind] if kind in _FRAMEWORKS else [n for n in _FRAMEWORKS if importlib.util.find_spec(n)]
    if not names:
        raise TargetError(
            f"training the head {head} needs PyTorch or Keras, and neither is installed",
            hint="a head with one dense layer behind flatten or gap is fitted without: gap,dense(5,softmax)",
        )
    module = importlib.import_module(f"converter.sources.{names[0]}.training")
    trained: tuple[Head, int] = module.train(head, features, labels, rows, settings, progress)
    return trained
