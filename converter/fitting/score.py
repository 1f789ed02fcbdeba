"""How well a head tells held-out samples apart."""

from __future__ import annotations

import dataclasses

import numpy as np

from converter.errors import ValidationError
from converter.fitting.blocks import blocks
from converter.heads import Head
from converter.model import Array

__all__ = ["Score", "predict"]

_THRESHOLD = 0.5


def predict(head: Head, features: Array, rows: Array) -> Array:
    """What a head makes of some samples, read some at a time.

    Args:
        head: with its weights.
        features: float32 of (samples, ...); may be mapped from a file.
        rows: indices of samples, one or more.

    Returns:
        float32 of (rows, classes), or (rows, 1) of a single sigmoid unit.
    """
    return np.concatenate([head.run(x) for _, x in blocks(features, rows)])


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """Predictions beside the truth.

    Attributes:
        accuracy: the share of samples whose class was predicted.
        confusion: number of samples, int64 of (classes, classes): rows are true classes, columns predicted.
        recall: of each class the share that was predicted, float64 of (classes,); NaN of one without samples.
    """

    accuracy: float
    confusion: Array
    recall: Array

    @classmethod
    def of(cls, scores: Array, labels: Array, n_classes: int) -> Score:
        """Judge predictions.

        Args:
            scores: of (samples, classes), of which the largest wins, the first of equal ones; or of
                (samples, 1), where more than 0.5 is the second of two classes.
            labels: the true classes, int64 of (samples,).
            n_classes: the number of classes.

        Raises:
            ValidationError: scores of another shape, or with NaN in them.
        """
        columns = (1, 2) if n_classes == 2 else (n_classes,)
        if (
            scores.ndim != 2
            or len(scores) != len(labels)
            or scores.shape[1] not in columns
            or not len(labels)
        ):
            raise ValidationError(
                f"scores of shape {scores.shape} for {len(labels)} samples of {n_classes} classes"
            )
        if np.isnan(scores).any():
            sample = int(np.isnan(scores).any(axis=1).argmax())
            raise ValidationError(f"the head's scores of sample {sample} have NaN in them")
        single = scores.shape[1] == 1
        predicted = (scores[:, 0] > _THRESHOLD).astype(np.int64) if single else scores.argmax(axis=1)
        confusion = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(confusion, (labels, predicted), 1)
        counts = confusion.sum(axis=1)
        recall = np.divide(
            confusion.diagonal(), counts, out=np.full(n_classes, np.nan), where=counts > 0, dtype=np.float64
        )
        return cls(float(np.mean(predicted == labels)), confusion, recall)
