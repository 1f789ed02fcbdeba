"""Comparing an array with its reference.

top1          share of samples with the same largest element, of classifiers' outputs alone
max_abs       max |a - b|
scaled_error  max |a - b| / max |b|; the verdict rests on this one
cosine        a.b / (|a| |b|)
snr_db        10 log10(|b|^2 / |a - b|^2), infinite for equal arrays
spread        the largest change of one element from sample to sample, over max |b|
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from converter.model import Array

__all__ = ["EMPTY", "LOSSY", "NOTHING", "TOLERANCES", "Comparison", "compare", "spread_of"]

# Largest scaled error that passes, a dtype. Rounding in a sum of n terms grows as eps * sqrt(n) when errors
# are independent; the deepest models in use sum about 2^18 terms on the longest path, hence
# 2^9 eps where sums are kept in the dtype itself. float16 and bfloat16 sums are kept in
# float32, so only the roundings between operators count: 2^4 and 2^3 eps. Integers are exact.
TOLERANCES = {
    "float64": 2.0**-43,
    "float32": 2.0**-14,
    "float16": 2.0**-6,
    "bfloat16": 2.0**-4,
}
# The same for artifacts that compute in less than their outputs' dtype, with the lowest SNR in dB. Weights in
# float16 are rounded by 2^-11 each: 16 roundings of the scale, where 6 are the most seen in image networks;
# bfloat16 has 3 bits fewer. An activation in int8 is rounded by 2^-8 of the scale: 32 roundings, where 22 are
# the most seen in networks that quantize well. A weight in 4 bits is off by up to 2^-5 of its block's range,
# 16 times that. Ranges that are measured on some samples cut off what is beyond on others, which is rare and
# far off: one element in 1024 may be. A largest error says little of so many: noise of a tenth of the
# signal's power (10 dB) leaves classes as they are in networks that know them well, of a thirtieth (15 dB)
# features, too. Images that are resized as uint8 are off by two levels of 255 in few pixels.
LOSSY = {
    "image": (2.0**-6, 40.0),
    "float16": (2.0**-7, 40.0),
    "bfloat16": (2.0**-4, 25.0),
    "int8": (2.0**-3, 15.0),
    "int4": (2.0**-1, 10.0),
}
# The share of elements that ranges may cut off.
_CUT_OFF = {"int8": 2.0**-10}


# What an equal and empty output has for a `problem`: it agrees, and proves nothing.
EMPTY = "both are empty"
# What one has whose reference is NaN or infinite everywhere, and is met in that.
NOTHING = "the reference has no finite value: nothing is compared"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One output of one piece at one batch size against the framework's answer.

    `problem` says what stopped the numbers from being compared, or what else is wrong; `target` is the kind
    of artifact; `top1` is None where the output is not known to be a classifier's; `beyond` is how many
    elements are further off than the tolerance, of those that may be; `sample` is the kind of input where it
    is not the usual one, and `condition` what the tolerance was multiplied by for what the model does to
    rounding there (see `converter.validation.variants`).
    """

    piece: str
    output: str
    batch: int
    max_abs: float
    scaled_error: float
    cosine: float
    snr_db: float
    tolerance: float
    passed: bool
    problem: str | None = None
    target: str = "onnx"
    top1: float | None = None
    beyond: int = 0
    sample: str = ""
    condition: float = 1.0


def compare(
    piece: str,
    output: str,
    batch: int,
    got: Array | None,
    reference: Array | None,
    *,
    spread: float,
    precision: str | None = None,
    min_snr: float | None = None,
    classes: bool = False,
) -> Comparison:
    """Compare an output with its reference; never raises.

    Fails on a missing output, another shape or dtype, NaN or infinity in other places than the
    reference's, a scaled error that is not within tolerance (so NaN fails), and on a reference
    that a constant would match, because such a comparison proves nothing.

    Args:
        spread: the reference's spread over all samples (see `spread_of`).
        precision: what the artifact computes in, where that is less than the reference's dtype.
        min_snr: what is asked for, in dB; a lossy precision has a floor of its own.
        classes: the output is a classifier's, of (samples, classes).
    """
    tolerance = 0.0 if reference is None else _tolerance(reference.dtype, precision)

    def failed(problem: str) -> Comparison:
        nan = math.nan
        return Comparison(piece, output, batch, nan, nan, nan, nan, tolerance, False, problem)

    if got is None or reference is None:
        return failed("the output is missing" if got is None else "the reference has no such tensor")
    if got.shape != reference.shape:
        return failed(f"shape {got.shape}, expected {reference.shape}")
    if got.dtype != reference.dtype:
        return failed(f"dtype {got.dtype}, expected {reference.dtype}")
    if reference.dtype.kind in "OSU":
        wrong = int((got != reference).sum())
        problem = f"{wrong} of {got.size} strings differ" if wrong else _constant(spread, 0.0)
        figures = (math.inf, math.inf, 0.0, -math.inf) if wrong else (0.0, 0.0, 1.0, math.inf)
        return Comparison(piece, output, batch, *figures, tolerance, problem is None, problem)
    if reference.size == 0:
        return Comparison(piece, output, batch, 0.0, 0.0, 1.0, math.inf, tolerance, True, EMPTY)
    a, b = _as_float(got), _as_float(reference)
    finite = np.isfinite(b)
    strange = ~finite
    if not np.array_equal(a[strange], b[strange], equal_nan=True) or not np.isfinite(a[finite]).all():
        return failed("NaN or infinity in other places than the reference's")
    if not finite.any():
        return failed(NOTHING)
    figures = _figures(a[finite], b[finite])
    max_abs, scaled, cosine, snr = figures
    problem = _constant(spread, tolerance) or _noisy(snr, _floor(reference.dtype, precision, min_snr))
    beyond = _beyond(a[finite], b[finite], tolerance, precision) if scaled > tolerance else 0
    passed = problem is None and (scaled <= tolerance or beyond > 0)
    top1 = _top1(got, reference) if classes and reference.ndim == 2 and reference.shape[1] > 1 else None
    return Comparison(
        piece,
        output,
        batch,
        max_abs,
        scaled,
        cosine,
        snr,
        tolerance,
        passed,
        problem,
        top1=top1,
        beyond=beyond,
    )


def _tolerance(dtype: np.dtype[np.generic], precision: str | None) -> float:
    own = TOLERANCES.get(dtype.name, 0.0)
    return max(own, LOSSY[precision][0]) if precision is not None and dtype.kind == "f" else own


def _beyond(a: Array, b: Array, tolerance: float, precision: str | None) -> int:
    """How many elements are beyond the tolerance, where so many may be; 0 where they may not."""
    share = _CUT_OFF.get(precision or "", 0.0)
    found = int((np.abs(a - b) > tolerance * np.abs(b).max()).sum())
    return found if found <= share * a.size else 0


def _floor(dtype: np.dtype[np.generic], precision: str | None, asked: float | None) -> float:
    own = LOSSY[precision][1] if precision is not None and dtype.kind == "f" else -math.inf
    return max(own, -math.inf if asked is None else asked)


def _noisy(snr: float, floor: float) -> str | None:
    return None if snr >= floor else f"SNR of {snr:.1f} dB, expected {floor:g} at least"


def _top1(got: Array, reference: Array) -> float:
    return float((got.argmax(1) == reference.argmax(1)).mean())


def _constant(spread: float, tolerance: float) -> str | None:
    """What is wrong with a reference that a constant would match."""
    if spread > tolerance:
        return None
    return f"the reference is all but constant over the samples (spread {spread:.1e}): a constant would pass"


def _as_float(array: Array) -> Array:
    """The elements as float64 in a row; of complex numbers both parts."""
    parts = np.stack([array.real, array.imag], -1) if array.dtype.kind == "c" else array
    return parts.astype(np.float64).reshape(-1)


def _figures(a: Array, b: Array) -> tuple[float, float, float, float]:
    error = a - b
    max_abs = float(np.abs(error).max())
    scale = float(np.abs(b).max())
    scaled = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else math.inf)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norm if norm > 0 else (1.0 if max_abs == 0 else 0.0)
    signal, noise = float(b @ b), float(error @ error)
    snr = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal > 0 else -math.inf
    return max_abs, scaled, min(cosine, 1.0), snr


def spread_of(references: list[Array]) -> float:
    """How much the reference changes from sample to sample, over its scale.

    Samples lie along axis 0. Where the shapes of samples differ from batch to batch, or there is one
    sample in all, the change from element to element stands in.
    """
    if any(r.dtype.kind in "OSU" for r in references):
        return float(len({str(element) for r in references for element in r.reshape(-1)}) > 1)
    flat = [_as_float(r).reshape(r.shape[0] if r.ndim else 1, -1) for r in references if r.size]
    if not flat:
        return 0.0
    if len({rows.shape[1] for rows in flat}) == 1 and sum(len(rows) for rows in flat) > 1:
        samples = np.concatenate(flat)
    else:
        samples = np.concatenate([rows.reshape(-1) for rows in flat])[:, None]
    samples = np.where(np.isfinite(samples), samples, 0)
    if samples.size == 0:
        return 0.0
    scale = float(np.abs(samples).max())
    return float(np.ptp(samples, axis=0).max()) / scale if scale > 0 else 0.0
