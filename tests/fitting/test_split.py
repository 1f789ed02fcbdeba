from __future__ import annotations

import numpy as np
import pytest

from converter.errors import UsageError
from converter.fitting import expect_classes, split
from converter.heads import Head

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [2, 3, 50, 145]))
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_every_class_is_in_both_parts(share: float) -> None:
    train, held_out = split(LABELS, CLASSES, seed=0, share=share)
    assert train.dtype == held_out.dtype == np.int64
    assert sorted([*train, *held_out]) == list(range(200))
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    for part in (train, held_out):
        assert set(LABELS[part]) == {0, 1, 2, 3}
    for number, count in enumerate((2, 3, 50, 145)):
        held = (LABELS[held_out] == number).sum()
        assert abs(held - share * count) <= 1


def test_seeds() -> None:
    first, again, other = (split(LABELS, CLASSES, seed=seed, share=0.3)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_classes_that_cannot_be_split() -> None:
    with pytest.raises(UsageError, match=r"class 'bee' has 1 sample\n"):
        split(np.array([0, 0, 1]), ("ant", "bee"), seed=0, share=0.5)
    with pytest.raises(UsageError, match="class 'cow' has 0 samples"):
        split(np.array([0, 0, 1, 1]), ("ant", "bee", "cow"), seed=0, share=0.5)
    with pytest.raises(UsageError, match="two or more classes, the data have 1: ant"):
        split(np.array([0, 0]), ("ant",), seed=0, share=0.5)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            split(LABELS, CLASSES, seed=0, share=share)


@pytest.mark.parametrize(
    "text",
    ["gap,dense(4,softmax)", "flatten,dense(9,relu),dense(4)", "conv1x1(4),gap", "gap,dense(4),softmax"],
)
def test_heads_of_as_many_classes(text: str) -> None:
    expect_classes(Head.parse(text), ("b", 7, 7, 6), CLASSES)


@pytest.mark.parametrize("text", ["gap,dense(1,sigmoid)", "gap,dense(1),sigmoid", "gap,dense(2,softmax)"])
def test_heads_of_two_classes(text: str) -> None:
    expect_classes(Head.parse(text), ("b", 7, 7, 6), ("no", "yes"))


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("gap,dense(5,softmax)", CLASSES, "puts out 5 values a sample, the data have 4 classes"),
        ("gap,dense(1,sigmoid)", CLASSES, "puts out 1 value a sample, the data have 4 classes"),
        ("gap,dense(1)", CLASSES[:2], "puts out 1 value a sample, the data have 2 classes"),
        ("gap", CLASSES, "puts out 6 values a sample, the data have 4 classes"),
        ("dense(4),flatten", CLASSES, "puts out 196 values a sample, the data have 4 classes"),
        ("dense(4,softmax)", CLASSES, "expected one vector a sample"),
    ],
)
def test_heads_of_other_sizes(text: str, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        expect_classes(Head.parse(text), ("b", 7, 7, 6), classes)
