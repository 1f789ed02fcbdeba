"""Seeded initial weights with which a deep network still answers to its input."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from converter.errors import SourceError
from converter.model import Array
from converter.samples import draw
from converter.sources.torch import backend
from converter.sources.torch.recorder import Reached
from converter.sources.torch.signature import Signature, as_tensor

__all__ = ["keep_signal", "seeded"]

_VARIANCE = 1 / 16
_DEVIATION = 1 / 32
_MEANS = 4
_CLOSED, _OPEN = 1e-2, 1 / 4


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
    output one constant, which nothing can be compared with; they get seeded values. Scales of layers that
    begin closed or as good as closed (0 in residual blocks, 1e-5 in deep vision transformers) are opened to
    1/4. And each BatchNorm's statistics are set to what a seeded batch has there, layer after layer, rounded
    so that they do not depend on how a machine rounds. After Mishkin and Matas, "All you need is a good init"
    (arXiv:1511.06422), to a deviation of 1/4.

    Raises:
        SourceError: the model does not run.
    """
    torch = backend.torch()
    _open_layers(model, torch.Generator().manual_seed(seed))
    if any(not spec.dtype.startswith("float") for spec in signature.inputs):
        return
    done: set[int] = set()

    def measure(module: Any, arguments: Any) -> None:
        if id(module) in done or module.running_var is None or not arguments:
            return
        done.add(id(module))
        _set_statistics(module, arguments[0].double())
        if len(done) == len(norms):
            raise Reached  # what follows may be dear, or choose boxes by values

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    handles = [module.register_forward_pre_hook(measure) for module in norms]
    sizes = [
        dataclasses.replace(spec, shape=(*spec.shape[:1], *fixed[1:]))
        for spec, fixed in zip(signature.inputs, signature.example, strict=True)
    ]
    # All the samples that pieces are judged by without others: on one batch alone another one may run away.
    batches = draw(sizes, {}, seed)
    try:
        if norms:
            with backend.as_judge(model):
                signature.call(model, [_joined([feeds[spec.name] for feeds in batches]) for spec in sizes])
    except Reached:
        pass
    except Exception as error:
        raise SourceError(
            f"{type(model).__name__} does not run on an example of its inputs: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _joined(arrays: Sequence[Array]) -> Any:
    """Batches as one; a scalar is the same in all of them."""
    return as_tensor(np.concatenate(arrays) if arrays[0].ndim else arrays[0])


def _set_statistics(norm: Any, x: Any) -> None:
    """Set a BatchNorm's statistics for inputs like `x`, of (batch, channels, …).

    Of the channels' means only what is above four deviations is taken off, in steps of an eighth of one for
    the sake of repeatable bytes. Larger means drown what differs from sample to sample; without any, each
    layer would magnify the rounding of the last, until a deep network were nothing else.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance = float(x.var(axes, correction=0).mean())
    if variance > 0 and math.isfinite(variance):
        deviation = math.sqrt(variance)
        step = 2.0 ** math.floor(math.log2(deviation) - 3)
        mean = x.mean(axes)
        excess = mean - mean.clamp(-_MEANS * deviation, _MEANS * deviation)
        norm.running_mean.copy_((excess / step).round() * step)
        measured = 2.0 ** round(math.log2(variance / _VARIANCE))
        norm.running_var.fill_(measured)
        if norm.weight is not None:  # where epsilon is the larger part, layer after layer would grow fainter
            norm.weight.mul_(2.0 ** round(math.log2(1 + norm.eps / measured) / 2))


def _open_layers(model: Any, generator: Any) -> None:
    with backend.torch().no_grad():
        for name, parameter in model.named_parameters():
            largest = float(parameter.abs().max()) if parameter.numel() else 1.0
            if parameter.ndim >= 2 and largest == 0:
                parameter.normal_(0, _DEVIATION, generator=generator)
            elif parameter.ndim < 2 and largest < _CLOSED and not name.endswith(("bias", "beta")):
                parameter.fill_(_OPEN)
