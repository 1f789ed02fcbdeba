"""Weights of a head whose only trainable layer is one dense unit: solved, not stepped towards."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator

import numpy as np

from converter.errors import TargetError, UsageError
from converter.extras import extra
from converter.fitting.blocks import blocks
from converter.heads import ACTIVATIONS, Head, Unit
from converter.model import Array

__all__ = ["is_linear", "logistic", "ridge", "solve"]

_UNTRAINED = ("flatten", "gap", "gmp", "dropout")
# Sides of the matrix of a ridge regression: 1.2 GB as float64, of which the solver makes a copy.
_LARGEST_MATRIX = 12_000
_LARGEST_SAMPLES = 4 << 30  # bytes of pooled features that a logistic regression holds in memory
_ITERATIONS = 2000
_FLAT = 1e-6  # of the largest deviation: what varies less is taken for constant


@dataclasses.dataclass(frozen=True)
class _Form:
    """A head of the form that is solved here.

    Attributes:
        pool: what comes before the dense unit.
        dense: the unit.
        activation: what its values go through.
    """

    pool: Head
    dense: Unit
    activation: str

    @classmethod
    def of(cls, head: Head) -> _Form | None:
        units = list(head.units)
        activation = "linear"
        if len(units) > 1 and units[-1].kind in ACTIVATIONS and units[-2].activation == "linear":
            activation = units.pop().kind
        if not units or units[-1].kind != "dense" or any(u.kind not in _UNTRAINED for u in units[:-1]):
            return None
        dense = units.pop()
        if dense.activation != "linear":
            activation = dense.activation
        solved = activation in ("linear", "softmax") or (activation == "sigmoid" and dense.size == 1)
        return cls(Head(tuple(units), {}, head.channels_last), dense, activation) if solved else None


def is_linear(head: Head) -> bool:
    """Whether `solve` takes a head.

    It does when one dense unit follows flatten, gap, gmp and dropout alone, with no activation, with softmax,
    or with sigmoid where it is a single unit.
    """
    return _Form.of(head) is not None


def solve(
    head: Head, features: Array, labels: Array, n_classes: int, l2: float, *, rows: Array | None = None
) -> Head:
    """Fit a head: by ridge regression where it ends in a linear unit, else by logistic regression.

    Arguments, result and errors are those of `ridge` and `logistic`.
    """
    form = _Form.of(head)
    fit = ridge if form is not None and form.activation == "linear" else logistic
    return fit(head, features, labels, n_classes, l2, rows=rows)


def ridge(
    head: Head, features: Array, labels: Array, n_classes: int, l2: float, *, rows: Array | None = None
) -> Head:
    """Fit a linear last unit to one-hot targets by least squares.

    Minimises Σ‖x·K + b − t‖² + l2·‖K‖² over the pooled features x, where t is 1 at the sample's class and 0
    elsewhere (Hoerl and Kennard 1970, "Ridge regression"). Solved in float64 by the normal equations, whose
    matrix has as many rows as there are features or, in the dual form, samples: whichever are fewer. Features
    are read some rows at a time.

    Args:
        head: one that `is_linear` takes, its `channels_last` that of the features.
        features: float32 of (samples, ...).
        labels: int64 of (samples,), in 0..n_classes-1.
        n_classes: the number of classes, and the size of the unit.
        l2: the penalty, more than 0.
        rows: indices of the samples to fit on; all of them by default.

    Returns:
        The head with its weights, float32: kernel (inputs, n_classes) and bias (n_classes,).

    Raises:
        UsageError: a head of another form, features that do not go into it, a class without samples, or too
            large a matrix.
    """
    form, samples = _prepared(head, features, labels, n_classes, l2, rows, ("linear",))
    side = min(len(samples), samples.width)
    if side > _LARGEST_MATRIX:
        raise UsageError(
            f"ridge regression on {len(samples)} samples of {samples.width} features needs a matrix of "
            f"{side} × {side}, {8 * side**2 / 1e9:.1f} GB; expected at most {_LARGEST_MATRIX} of either",
            hint="gap or gmp instead of flatten makes fewer features",
        )
    mean = np.zeros(samples.width)
    for _, x in samples.parts():
        mean += x.sum(axis=0)
    mean /= len(samples)
    frequency = np.bincount(samples.labels, minlength=n_classes) / len(samples)
    fit = _dual if len(samples) < samples.width else _primal
    kernel = fit(samples, mean, l2)
    return _with_weights(head, form.dense, kernel, frequency - mean @ kernel)


def logistic(
    head: Head, features: Array, labels: Array, n_classes: int, l2: float, *, rows: Array | None = None
) -> Head:
    """Fit a last unit with softmax, or a single one with sigmoid, by logistic regression.

    Minimises Σ −log p(class) + l2/2·‖K‖² over the pooled features, of which each is brought to mean 0 and
    deviation 1 first, by scikit-learn's L-BFGS; the standardisation is then folded into kernel and bias. Of
    two classes softmax gets the halves of one sigmoid's kernel, with opposite signs. Nothing in it is random.

    Arguments and result are those of `ridge`; for a single sigmoid unit `n_classes` is 2, and the kernel of
    (inputs, 1).

    Raises:
        UsageError: as `ridge`; pooled features of more than 4 GB.
        TargetError: scikit-learn is missing, or does not converge.
    """
    form, samples = _prepared(head, features, labels, n_classes, l2, rows, ("softmax", "sigmoid"))
    if 8 * len(samples) * samples.width > _LARGEST_SAMPLES:
        raise UsageError(
            f"logistic regression on {len(samples)} samples of {samples.width} features needs "
            f"{8 * len(samples) * samples.width / 1e9:.1f} GB, expected at most {_LARGEST_SAMPLES / 1e9:.1f}",
            hint="gap or gmp instead of flatten makes fewer features; a linear last unit is fitted in less",
        )
    x = np.empty((len(samples), samples.width))
    for places, part in samples.parts():
        x[places] = part
    mean = x.mean(axis=0)
    x -= mean
    # Not x.std(), which would make a second array of this size.
    scale = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    scale[scale <= _FLAT * scale.max()] = 1
    x /= scale
    coefficients, intercept = _lbfgs(x, samples.labels, l2)
    if n_classes == 2 and form.activation == "softmax":
        coefficients, intercept = (
            np.vstack([-coefficients, coefficients]) / 2,
            np.array([-1, 1]) * intercept / 2,
        )
    kernel = coefficients.T / scale[:, None]
    return _with_weights(head, form.dense, kernel, intercept - mean @ kernel)


class _Samples:
    """Pooled features and labels of the samples to fit on.

    Attributes:
        width: the number of pooled features.
        labels: of these samples alone, in their order.
        classes: the number of classes.
    """

    def __init__(self, pool: Head, features: Array, labels: Array, rows: Array, n_classes: int) -> None:
        self._pool, self._features, self._rows, self.classes = pool, features, rows, n_classes
        after = pool.shapes(features.shape)[-1]
        if len(after) != 2:
            raise UsageError(
                f"a dense unit that is solved takes one vector a sample, got {list(after)}",
                hint="flatten, gap or gmp before it",
            )
        self.width = int(after[1])
        self.labels: Array = labels[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def parts(self, start: int = 0) -> Iterator[tuple[slice, Array]]:
        """Where some samples stand among these, and their pooled features, float64 of (some, width)."""
        for part, x in blocks(self._features, self._rows[start:], self.classes):
            yield slice(start, start + len(part)), self._pool.run(x).astype(np.float64)
            start += len(part)

    def targets(self, places: slice) -> Array:
        """1 at the class of each sample, 0 elsewhere; float64 of (some, classes)."""
        labels = self.labels[places]
        one_hot = np.zeros((len(labels), self.classes))
        one_hot[np.arange(len(labels)), labels] = 1
        return one_hot


def _prepared(
    head: Head,
    features: Array,
    labels: Array,
    n_classes: int,
    l2: float,
    rows: Array | None,
    activations: tuple[str, ...],
) -> tuple[_Form, _Samples]:
    """What both regressions check."""
    form = _Form.of(head)
    if form is None or form.activation not in activations:
        raise UsageError(
            f"head {head}: expected one dense unit with {' or '.join(activations)}",
            hint="before it only flatten, gap, gmp and dropout",
        )
    if form.dense.size != n_classes and not (form.activation == "sigmoid" and n_classes == 2):
        raise UsageError(
            f"head {head}: its last size is {form.dense.size}, the data have {n_classes} classes"
        )
    if not (math.isfinite(l2) and l2 > 0):
        raise UsageError(
            f"l2 {l2}: expected a number more than 0", hint="without a penalty there may be no solution"
        )
    rows = np.arange(len(features)) if rows is None else rows
    samples = _Samples(form.pool, features, labels, rows, n_classes)
    missing = np.flatnonzero(np.bincount(samples.labels, minlength=n_classes) == 0)
    if len(missing):
        raise UsageError(f"class {missing[0]} has no samples to fit on")
    return form, samples


def _primal(samples: _Samples, mean: Array, l2: float) -> Array:
    gram = np.zeros((samples.width, samples.width))
    moment = np.zeros((samples.width, samples.classes))
    for places, x in samples.parts():
        x -= mean
        gram += x.T @ x
        moment += x.T @ samples.targets(places)  # centred features need no centred targets
    gram[np.diag_indices_from(gram)] += l2
    return np.linalg.solve(gram, moment)


def _dual(samples: _Samples, mean: Array, l2: float) -> Array:
    gram = np.zeros((len(samples), len(samples)))
    for places, x in samples.parts():
        x -= mean
        for others, y in samples.parts(places.start):
            gram[places, others] = x @ (y - mean).T
            gram[others, places] = gram[places, others].T
    gram[np.diag_indices_from(gram)] += l2
    targets = samples.targets(slice(None))
    duals = np.linalg.solve(gram, targets - targets.mean(axis=0))
    kernel = np.zeros((samples.width, samples.classes))
    for places, x in samples.parts():
        kernel += (x - mean).T @ duals[places]
    return kernel


def _lbfgs(x: Array, labels: Array, l2: float) -> tuple[Array, Array]:
    """Coefficients of (classes, features), or (1, features) of two classes, and intercepts."""
    linear_model = extra("sklearn.linear_model", "logistic regression")
    unfinished = extra("sklearn.exceptions", "logistic regression").ConvergenceWarning
    model = linear_model.LogisticRegression(C=1 / l2, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", unfinished)
        try:
            model.fit(x, labels)
        except unfinished as error:
            raise TargetError(
                f"logistic regression does not converge in {_ITERATIONS} iterations",
                hint=f"more l2 than {l2:g}",
            ) from error
    return model.coef_, model.intercept_


def _with_weights(head: Head, dense: Unit, kernel: Array, bias: Array) -> Head:
    weights = {f"{dense.name}.kernel": kernel, f"{dense.name}.bias": bias}
    return dataclasses.replace(head, weights={k: v.astype(np.float32) for k, v in weights.items()})
