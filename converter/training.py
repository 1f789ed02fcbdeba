"""Settings of training a head, and what it is judged by."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from converter.errors import UsageError
from converter.heads import Head

__all__ = ["Training", "kept_apart", "loss_of"]


@dataclasses.dataclass(frozen=True)
class Training:
    """How a head is trained: by Adam, on batches drawn anew each epoch.

    Attributes:
        epochs: at most so many passes over the samples.
        patience: stop after so many epochs in which the loss on samples kept apart did not fall; the best
            weights stay.
        batch: samples a step.
        rate: the learning rate.
        seed: of the order of samples, and of dropout.
    """

    epochs: int = 50
    patience: int = 5
    batch: int = 32
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch) < 1 or not 0 < self.rate < 10:
            raise UsageError("epochs, patience and batch are 1 or more, and the learning rate is above 0")


def loss_of(head: Head) -> str:
    """The loss that a head is trained by: `binary`, `probabilities`, or `logits` (both of cross-entropy).

    Raises:
        UsageError: a head that ends in neither.
    """
    last = head.units[-1]
    activation = last.activation if last.size else last.kind
    if activation == "softmax":
        return "probabilities"
    if activation == "sigmoid" and last.size == 1:
        return "binary"
    if activation == "linear" and last.kind == "dense":
        return "logits"
    raise UsageError(
        f"head {head} does not end in scores of classes",
        hint="dense(5,softmax), dense(5), or for two classes dense(1,sigmoid), as its last layer",
    )


def kept_apart(rows: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices to train on and a tenth, at least one, to stop by; drawn by the seed, in order."""
    order = np.random.default_rng(seed).permutation(rows)
    count = max(len(rows) // 10, 1)
    return np.sort(order[count:]), np.sort(order[:count])
