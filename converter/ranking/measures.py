"""How much a block changes its input, and how far a model without it is from the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from converter.model import Array
from converter.validation.comparison import TOLERANCES, spread_of

__all__ = ["Change", "Outputs", "is_constant", "is_float"]


class Change:
    """1 − the cosine between what goes into a block and what comes out, mean over samples.

    This is the Block Influence of Men et al., "ShortGPT: Layers in Large Language Models are More Redundant
    Than You Expect" (2024, arXiv:2403.03853), which takes the mean over tokens: tensors of rank 3 count as
    (sample, position, feature), and each position's feature vector as one. A few tokens whose activations are
    a thousand times larger than the others' would otherwise decide alone, and blocks hardly turn these.

    Of other tensors each sample is one vector. A graph does not say which axis of an image has the channels,
    the cosine of the whole is the same in either layout, and behind a ReLU many positions are zero, without
    a direction. Two zero vectors agree; one alone is at right angles to any other.
    """

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0
        self.finite = True

    def add(self, given: Array, out: Array) -> None:
        """Take the tensors of some samples into account; axis 0 is that of the samples."""
        a, b = _rows(given), _rows(out)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            self.finite = False
            return
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        same = (a == b).all(axis=1)
        products = np.einsum("ij,ij->i", a, b)
        cosines = np.divide(products, norms, out=same.astype(np.float64), where=norms > 0)
        self._total += float(np.clip(1 - cosines, 0, 2).sum())
        self._count += len(a)

    @property
    def value(self) -> float | None:
        """From 0 (the same direction) to 2; None where something was not finite."""
        return self._total / self._count if self.finite and self._count else None


class Outputs:
    """What a model puts out, against what another does, over batches of samples.

    Attributes:
        problem: why the two cannot be compared.
    """

    def __init__(self, reference: Sequence[Sequence[Array]]) -> None:
        """Compare with a reference.

        Args:
            reference: for each output, its arrays, one a batch.
        """
        self._reference = reference
        self._scale = [_scale(arrays) for arrays in reference]
        self._error = [0.0] * len(reference)
        self._count = [0] * len(reference)
        self._agreeing, self._rows = 0, 0
        self.problem: str | None = None

    def add(self, batch: int, got: Sequence[Array]) -> None:
        """Take one batch into account."""
        for place, (array, batches) in enumerate(zip(got, self._reference, strict=True)):
            expected = batches[batch]
            if array.shape != expected.shape:
                self.problem = f"without it the model puts out {array.shape} for {expected.shape}"
            elif not is_float(expected):
                self._error[place] += float((array != expected).sum())
                self._count[place] += expected.size
            else:
                self._add_floats(place, array.astype(np.float64), expected.astype(np.float64))
            if self.problem is not None:
                return
        if is_classifier(got[0]):
            self._agreeing += int((got[0].argmax(1) == self._reference[0][batch].argmax(1)).sum())
            self._rows += len(got[0])

    def _add_floats(self, place: int, a: Array, b: Array) -> None:
        finite = np.isfinite(b)
        if not np.isfinite(a[finite]).all() or not np.array_equal(a[~finite], b[~finite]):
            self.problem = "without it the model puts out NaN or infinity"
            return
        self._error[place] = max(
            self._error[place], float(np.abs(a - b, where=finite, out=np.zeros_like(a)).max(initial=0))
        )

    @property
    def error(self) -> float | None:
        """The largest over the outputs: max |a − b| over max |b|; of integers the share that differ."""
        if self.problem is not None:
            return None
        sizes = [s if c == 0 else c for s, c in zip(self._scale, self._count, strict=True)]
        return max(e / s if s else (math.inf if e else 0.0) for e, s in zip(self._error, sizes, strict=True))

    @property
    def agreement(self) -> float | None:
        """The share of samples whose largest score stays where it is; None for an output of another kind."""
        return self._agreeing / self._rows if self.problem is None and self._rows else None


def is_float(array: Array) -> bool:
    """Whether the elements are floating-point numbers; those of ml_dtypes are of kind `V`."""
    return array.dtype.kind in "fV"


def is_classifier(array: Array) -> bool:
    """Whether an output has a score for each of several classes."""
    return is_float(array) and array.ndim == 2 and bool(array.shape[1] >= 2)


def is_constant(arrays: Sequence[Array]) -> bool:
    """Whether an output is the same for all samples, up to rounding."""
    return spread_of(list(arrays)) <= TOLERANCES.get(arrays[0].dtype.name, 0.0)


def _rows(array: Array) -> Array:
    values: Any = array.astype(np.float64)
    if array.ndim == 3:
        return np.asarray(values.reshape(-1, array.shape[-1]))
    return np.asarray(values.reshape(len(array) if array.ndim else 1, -1))


def _scale(arrays: Sequence[Array]) -> float:
    """The largest finite magnitude."""
    floats = [array.astype(np.float64) for array in arrays if is_float(array)]
    return max((float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in floats), default=0.0)
