"""Resizing in NumPy: Pillow's antialiased resampling, and plain sampling at pixel centres.

The antialiased one follows Pillow's `Resample.c` for 8-bit images: each axis has a filter of weights in fixed
point of 22 bits, stretched by the factor of shrinking; the columns are resized first, then the rows, and what
lies between is rounded to whole pixels. A pixel's centre is at its index + ½, and weights beyond an edge are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from converter.model import Array

__all__ = ["METHODS", "resize"]

METHODS = ("bilinear", "bicubic", "nearest")
# Bits of a weight's fraction in Pillow: 32 less 8 of the pixel and 2 to spare.
_UNIT = float(1 << 22)


def _triangle(x: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _keys(x: Array, a: float) -> Array:
    """The cubic convolution kernel (Keys 1981, eq. 4) with its free parameter."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# Filter and its support. Pillow's parameter of the cubic is -1/2; PyTorch, OpenCV and ONNX sample with -3/4.
_SMOOTH: Mapping[str, tuple[Callable[[Array], Array], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (lambda x: _keys(x, -0.5), 2),
}
_PLAIN: Mapping[str, tuple[Callable[[Array], Array], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (lambda x: _keys(x, -0.75), 2),
}


def resize(
    x: Array,
    size: tuple[int, int],
    axes: tuple[int, int],
    method: str = "bilinear",
    *,
    antialias: bool = True,
) -> Array:
    """Images of another size.

    Args:
        x: images; uint8 is rounded to uint8 as Pillow (antialiased) and PyTorch (plain) do, float32 is not.
        size: height and width.
        axes: where `x` has its rows and columns.
        method: one of `METHODS`; `nearest` takes the pixel whose area a centre falls into, as Pillow does.
        antialias: filter what shrinks; `nearest` has no such choice.

    Returns:
        Images of `x`'s dtype.
    """
    whole = x.dtype == np.uint8
    plain = not antialias and method != "nearest"
    x = x.astype(np.float64) if plain else x
    # Rows after columns, as Pillow up to 12 and ONNX Runtime have it.
    for axis, length in ((axes[1], size[1]), (axes[0], size[0])):
        before = x.shape[axis]
        if before == length:
            continue
        if method == "nearest":
            # In whole numbers: where a centre falls between two pixels, the later one. (Pillow, which adds up
            # in floating point, takes either.)
            x = np.take(x, (2 * np.arange(length) + 1) * before // (2 * length), axis)
        elif antialias:
            x = _filtered(x, _antialiased(before, length, method), axis)
        else:
            x = _along(x, _sampled(before, length, method), axis)
    if not plain:
        return x
    return np.clip(np.rint(x), 0, 255).astype(np.uint8) if whole else x.astype(np.float32)


def _antialiased(before: int, length: int, method: str) -> Array:
    """Weights of (length, before), float64, each row with the sum 1."""
    kernel, support = _SMOOTH[method]
    scale = before / length
    stretch = max(scale, 1.0)
    weights = np.zeros((length, before))
    for place in range(length):
        centre = (place + 0.5) * scale
        low = max(int(centre - support * stretch + 0.5), 0)
        high = min(int(centre + support * stretch + 0.5), before)
        row = kernel((np.arange(low, high) - centre + 0.5) / stretch)
        weights[place, low:high] = row / row.sum()
    return weights


def _sampled(before: int, length: int, method: str) -> Array:
    """Weights of (length, before), float64; what lies beyond an edge is the edge's pixel."""
    kernel, support = _PLAIN[method]
    weights = np.zeros((length, before))
    for place in range(length):
        centre = (place + 0.5) * (before / length) - 0.5
        low = int(np.floor(centre)) - support + 1
        for index in range(low, low + 2 * support):
            weights[place, min(max(index, 0), before - 1)] += kernel(np.asarray(index - centre))
    return weights


def _filtered(x: Array, weights: Array, axis: int) -> Array:
    if x.dtype != np.uint8:
        return _along(x, weights, axis)
    fixed = weights * _UNIT
    fixed = np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5))
    # Sums of fewer than 2**53 are exact in float64, whose product is the fast one.
    summed = _along(x.astype(np.float64), fixed, axis)
    return np.clip(np.floor((summed + _UNIT / 2) / _UNIT), 0, 255).astype(np.uint8)


def _along(x: Array, weights: Array, axis: int) -> Array:
    """The product with weights along an axis, in float64, as `x`'s dtype."""
    product = np.tensordot(weights, x.astype(np.float64), (1, axis))
    return np.ascontiguousarray(np.moveaxis(product, 0, axis), x.dtype)
