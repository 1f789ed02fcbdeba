"""Seeded initial weights with which a deep network still answers to its input."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from converter.samples import draw
from converter.sources.torch import backend
from converter.sources.torch.signature import Signature

__all__ = ["keep_signal", "seeded"]

_VARIANCE = 1 / 16
_DEVIATION = 1 / 32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's generator at a seed for the length of a block."""
    torch = backend.torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def keep_signal(model: Any, signature: Signature, seed: int) -> None:
    """Let initial weights carry a signal from the inputs to the outputs, in place.

    Matrices that their authors initialise with zeros (the last layer of a vision transformer) make the
    output one constant, which nothing can be compared with; they get seeded values. And each BatchNorm's
    variance is set to what a seeded batch has there, layer after layer, to a power of two, which does not
    depend on how a machine rounds. After Mishkin and Matas, "All you need is a good init"
    (arXiv:1511.06422), to a deviation of 1/4.
    """
    torch = backend.torch()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():
                parameter.normal_(0, _DEVIATION, generator=generator)
    if any(not spec.dtype.startswith("float") for spec in signature.inputs):
        return
    done: set[int] = set()

    def measure(module: Any, arguments: Any) -> None:
        if id(module) in done or module.running_var is None or not arguments:
            return
        done.add(id(module))
        variance = float(arguments[0].double().var(correction=0))
        if variance > 0 and math.isfinite(variance):
            module.running_var.fill_(2.0 ** round(math.log2(variance / _VARIANCE)))

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    handles = [module.register_forward_pre_hook(measure) for module in norms]
    sizes = [
        dataclasses.replace(spec, shape=(spec.shape[0], *fixed[1:]))
        for spec, fixed in zip(signature.inputs, signature.example, strict=True)
    ]
    feeds = draw(sizes, {}, seed)[-1]
    try:
        if norms:
            with backend.as_judge(model):
                signature.call(model, [torch.from_numpy(feeds[spec.name]) for spec in sizes])
    finally:
        for handle in handles:
            handle.remove()
