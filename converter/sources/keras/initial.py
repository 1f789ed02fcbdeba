"""Seeded initial weights with which a deep network still answers to its input."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from converter.sources.keras import backend
from converter.sources.keras.recorder import LayerCall, recording
from converter.sources.keras.signature import signature

__all__ = ["keep_signal", "seeded"]

_ROWS, _UNKNOWN_SIZE = 2, 64


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Keras's initializers draw their seeds from Python's generator: fix it for the block."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def keep_signal(model: Any, seed: int, value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
    """Set the variance of each BatchNorm to what a seeded batch has there, layer after layer.

    Fresh statistics (mean 0, variance 1) normalise nothing: in MobileNetV2 the signal fades to the last bit
    within fifty layers, the output is one constant, and no comparison can fail. One power of two a layer
    is enough, and unlike a finer figure it does not depend on how a machine rounds, so the same seed
    gives the same bytes. After Mishkin and Matas, "All you need is a good init" (arXiv:1511.06422).
    """
    keras = backend.keras()
    called = signature(model)
    if any(not spec.dtype.startswith("float") for spec in called.inputs):
        return

    def around(call: LayerCall, proceed: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        layer = call.operation
        if isinstance(layer, keras.layers.BatchNormalization) and call.index == 0 and args:
            variance = float(np.var(np.asarray(args[0]), dtype=np.float64))
            if variance > 0 and math.isfinite(variance):
                power = 2.0 ** round(math.log2(variance))
                layer.moving_variance.assign(np.full(layer.moving_variance.shape, power))
        return proceed(*args, **kwargs)

    rng = np.random.default_rng(seed)
    low, high = value_range
    feeds = []
    for spec in called.inputs:
        sizes = [d if isinstance(d, int) else _UNKNOWN_SIZE for d in spec.shape[1:]]
        values = rng.random((_ROWS, *sizes))
        feeds.append(keras.ops.convert_to_tensor(low + (high - low) * values, dtype=spec.dtype))
    with recording(model, around):
        called.call(model, feeds)
