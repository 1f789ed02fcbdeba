"""Samples to fit on and samples to judge by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.errors import UsageError
from converter.heads import Head
from converter.model import Array, Dim

__all__ = ["expect_classes", "split"]


def split(labels: Array, classes: Sequence[str], *, seed: int, share: float) -> tuple[Array, Array]:
    """Part samples in two, class by class; the same parts each time.

    Args:
        labels: int64 of (samples,), in 0..len(classes)-1.
        classes: the names of the classes.
        seed: another seed holds out other samples.
        share: of each class that is held out, between 0 and 1; never none of it, never all.

    Returns:
        Indices of the samples to fit on and of those held out, int64, ascending.

    Raises:
        UsageError: fewer than two classes, a class of fewer than two samples, no such share.
    """
    if not 0 < share < 1:
        raise UsageError(f"share {share}: expected a number between 0 and 1")
    if len(classes) < 2:
        raise UsageError(f"expected two or more classes, the data have {len(classes)}: {', '.join(classes)}")
    held_out = np.zeros(len(labels), bool)
    for number, name in enumerate(classes):
        places = np.flatnonzero(labels == number)
        if len(places) < 2:
            raise UsageError(
                f"class {name!r} has {len(places)} sample{'' if len(places) == 1 else 's'}",
                hint="two are needed: one to fit on, one to judge by",
            )
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        # A generator for each class: more samples of one do not move those of the next.
        order = np.random.default_rng([seed, number]).permutation(places)
        held_out[order[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def expect_classes(head: Head, shape: Sequence[Dim], classes: Sequence[str]) -> None:
    """Check that a head gives each sample one number a class; one sigmoid unit tells two apart.

    Args:
        head: the head, its `channels_last` that of what it takes.
        shape: of what the head takes; axis 0 is the batch.
        classes: the names of the classes.

    Raises:
        UsageError: another number of values, or a head that does not take such a tensor.
    """
    after = head.shapes(shape)[-1]
    if len(after) != 2:
        raise UsageError(
            f"head {head} puts out {list(after)}, expected one vector a sample",
            hint="flatten or gap makes one",
        )
    last = head.units[-1]
    if after[1] == 1 and len(classes) == 2 and "sigmoid" in (last.kind, last.activation):
        return
    if after[1] != len(classes):
        raise UsageError(
            f"head {head} puts out {after[1]} value{'' if after[1] == 1 else 's'} a sample, "
            f"the data have {len(classes)} classes",
            hint=f"dense({len(classes)},softmax) is a head for {len(classes)} classes",
        )
