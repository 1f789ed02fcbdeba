"""Seeded initial weights with which a deep network still answers to its input."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from converter.samples import draw
from converter.sources.keras import backend
from converter.sources.keras.recorder import LayerCall, recording
from converter.sources.keras.signature import signature

__all__ = ["keep_signal", "seeded"]

_VARIANCE = 1 / 16


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
    gives the same bytes. After Mishkin and Matas, "All you need is a good init" (arXiv:1511.06422), but
    to a deviation of 1/4: at 1, swish amplifies what is large and damps what is small, and over the
    depth of an EfficientNetB6 a sample a little brighter than the batch grows without bound.
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
                power = 2.0 ** round(math.log2(variance / _VARIANCE))
                layer.moving_variance.assign(np.full(layer.moving_variance.shape, power))
        return proceed(*args, **kwargs)

    specs = [dataclasses.replace(spec, value_range=value_range) for spec in called.inputs]
    feeds = draw(specs, {}, seed)[-1]
    with recording(model, around):
        called.call(model, [keras.ops.convert_to_tensor(feeds[spec.name]) for spec in specs])
