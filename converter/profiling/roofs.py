"""The two roofs of a machine, measured through ONNX Runtime itself.

After Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009: no kernel computes faster than the machine's arithmetic (its peak), nor
than its memory hands over operands (bandwidth times operations per byte). Both are measured here, not taken
from data sheets: the peak by a large float32 matrix product and a large convolution, the bandwidth by reading
and writing a large tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import onnx

from converter.profiling.measure import Setting, measured

__all__ = ["Roofs", "roofs"]

_RUNS, _WARMUP = 15, 2
# On a GPU, small products take less time than to launch them.
_SIDE, _SIDE_ON_GPU = 1024, 4096
_IMAGE = (1, 256, 56, 56)
_COPIED = 1 << 24  # float32: 64 MiB, more than the caches of most machines


@dataclasses.dataclass(frozen=True)
class Roofs:
    """What a machine can do at most.

    Attributes:
        flops: floating-point operations a second, a multiplication and an addition being two.
        bandwidth: bytes a second, read and written together.
    """

    flops: float
    bandwidth: float


@functools.cache
def roofs(provider: str, threads: int = 0) -> Roofs:
    """Measure the roofs, in about a second; once for each provider and number of threads.

    Of several runs the quickest counts: a roof is what is possible.

    Args:
        provider: ONNX Runtime's execution provider.
        threads: as for the model that is profiled.
    """
    setting = Setting(provider, _RUNS, _WARMUP, threads)
    side = _SIDE if provider == "CPUExecutionProvider" else _SIDE_ON_GPU
    product = _quickest(
        "MatMul", "(float[n, m] x) => (float[n, m] y) { y = MatMul(x, w) }", (side, side), setting
    )
    convolution = _quickest(
        "Conv",
        "(float[b, c, h, v] x) => (float[b, c, h, v] y) { y = Conv<pads=[1, 1, 1, 1]>(x, w) }",
        _IMAGE,
        setting,
    )
    flops = max(2 * side**3 / product, 2 * math.prod(_IMAGE) * _IMAGE[1] * 9 / convolution)
    # The middle one of three, whose memory is mapped already: neither the run's own input nor its output. An
    # absolute value costs no more than a copy, and a plain copy would be optimised away.
    copy = _quickest(
        "Abs", "(float[n] x) => (float[n] y) { a = Neg(x) b = Abs(a) y = Neg(b) }", (_COPIED,), setting
    )
    return Roofs(flops, 2 * 4 * _COPIED / copy)


def _quickest(operator: str, body: str, shape: tuple[int, ...], setting: Setting) -> float:
    """Seconds of the quickest run of an operator in a graph with one input, `x`, and one weight, `w`."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> roof {body}')
    rng = np.random.default_rng(0)
    weight = {"MatMul": shape, "Conv": (*shape[1:2], *shape[1:2], 3, 3)}.get(operator)
    if weight is not None:
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(weight, np.float32), "w")
        )
    feeds = {"x": rng.standard_normal(shape, np.float32)}
    kernels = measured(model.SerializeToString(), feeds, setting).kernels
    return min(max(kernel.microseconds, 1) for kernel in kernels if kernel.operator == operator) / 1e6
