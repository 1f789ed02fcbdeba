"""Inputs of other kinds than the usual ones: normal noise, and extremes, where rounding and overflow show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from converter.model import Array, TensorSpec
from converter.samples import draw

__all__ = ["perturbed", "variants"]

Feeds = dict[str, Array]

# How far large values reach: so many times the range about its middle.
_FAR = 16
# Normal noise has a standard deviation of so much of the range, and is cut off at its ends.
_DEVIATION = 0.2
# Of the dtypes whose largest numbers are far from what models compute with.
_WIDE = frozenset(["float32", "float64"])


def variants(specs: Sequence[TensorSpec], tables: Mapping[str, int], seed: int) -> dict[str, Feeds]:
    """One sample of each kind, by its name: `normal`, `zeros`, `lowest`, `highest`, `large`.

    Lowest and highest are constants at the ends of the range that the model expects, or the first and last
    row of an embedding. What has no such ends (masks, sizes, strings) stays as it is drawn usually; kinds
    that change nothing, or give the same as an earlier one, are left out.

    Args:
        specs: the model's inputs.
        tables: for inputs that index tables, the number of rows.
        seed: the same seed gives the same arrays.
    """
    usual = draw(specs, tables, seed)[0]
    rng = np.random.default_rng([seed, len("variants")])
    found: dict[str, Feeds] = {}
    for kind in ("normal", "zeros", "lowest", "highest", "large"):
        # Sums and products of scalars are no arrays any more.
        feeds = {s.name: np.asarray(_variant(kind, s, usual[s.name], tables.get(s.name), rng)) for s in specs}
        if not any(_same(feeds, other) for other in (usual, *found.values())):
            found[kind] = feeds
    return found


def _variant(kind: str, spec: TensorSpec, usual: Array, rows: int | None, rng: np.random.Generator) -> Array:
    ends = _ends(spec, usual, rows)
    if ends is None:
        return usual
    low, high = ends
    if kind in ("lowest", "highest"):
        return np.full_like(usual, low if kind == "lowest" else high)
    if kind == "zeros":
        return np.zeros_like(usual)
    if usual.dtype.kind != "f" or (kind == "large" and usual.dtype.name not in _WIDE):
        return usual
    middle, width = (low + high) / 2, high - low
    if kind == "normal":
        noise = middle + _DEVIATION * width * rng.standard_normal(usual.shape)
        return np.clip(noise, low, high).astype(usual.dtype)
    return (middle + _FAR * (usual - middle)).astype(usual.dtype)


def _ends(spec: TensorSpec, usual: Array, rows: int | None) -> tuple[float, float] | None:
    """The least and the largest value that an input may have; None where that is not known."""
    if rows is not None:
        return 0, rows - 1
    if usual.dtype.kind == "f" or (usual.dtype == np.uint8 and usual.ndim == 4 and spec.value_range):
        return spec.value_range or (-1.0, 1.0)
    return None


def _same(a: Feeds, b: Feeds) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def perturbed(specs: Sequence[TensorSpec], feeds: Mapping[str, Array], seed: int) -> tuple[Feeds, float]:
    """The same inputs, each element moved by a rounding of its dtype up or down.

    Returns:
        The inputs, and by how much they were moved at most, of the range; 0 where nothing can be moved.
    """
    rng = np.random.default_rng([seed, len("perturbed")])
    moved, most = dict(feeds), 0.0
    for spec in specs:
        array = feeds[spec.name]
        if array.dtype.name not in _WIDE:
            continue
        low, high = spec.value_range or (-1.0, 1.0)
        epsilon = float(np.finfo(array.dtype).eps)
        signs = rng.choice([-epsilon, epsilon], array.shape)
        change = signs * np.maximum(np.abs(array), high - low)
        moved[spec.name] = np.asarray(array + change, array.dtype)
        most = max(most, epsilon)
    return moved, most
