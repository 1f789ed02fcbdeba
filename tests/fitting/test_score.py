from __future__ import annotations

import numpy as np
import pytest

from converter.errors import ValidationError
from converter.fitting import Score, predict
from converter.heads import Head


def test_against_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    scores = rng.random((200, 4)) + 0.7 * np.eye(4)[labels]
    score = Score.of(scores, labels, 4)
    predicted = scores.argmax(axis=1)
    assert 0.5 < score.accuracy < 0.99
    assert score.accuracy == accuracy_score(labels, predicted)
    assert score.confusion.dtype == np.int64
    np.testing.assert_array_equal(score.confusion, confusion_matrix(labels, predicted))
    np.testing.assert_allclose(score.recall, recall_score(labels, predicted, average=None))


def test_rows_are_true_classes() -> None:
    score = Score.of(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]]), np.array([0, 1, 0]), 3)
    assert score.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert score.recall[:2].tolist() == [0.5, 1.0]
    assert np.isnan(score.recall[2])
    assert score.accuracy == pytest.approx(2 / 3)


def test_a_single_column_is_the_second_of_two_classes() -> None:
    score = Score.of(np.array([[0.1], [0.5], [0.51], [0.9]]), np.array([0, 0, 1, 0]), 2)
    assert score.confusion.tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize(
    ("scores", "n_classes"),
    [
        (np.zeros((3, 1)), 3),
        (np.zeros((3, 2)), 3),
        (np.zeros((2, 3)), 3),
        (np.zeros(3), 3),
        (np.zeros((3, 3)), 2),
    ],
)
def test_scores_of_another_shape(scores: np.ndarray, n_classes: int) -> None:
    with pytest.raises(ValidationError, match="scores of shape"):
        Score.of(scores, np.array([0, 1, 1]), n_classes)


def test_no_scores_at_all() -> None:
    with pytest.raises(ValidationError, match="scores of shape"):
        Score.of(np.zeros((0, 3)), np.zeros(0, np.int64), 3)


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(ValidationError, match="scores of sample 1 have NaN"):
        Score.of(np.array([[0, 1], [np.nan, 0]]), np.array([0, 1]), 2)


def test_predictions_are_made_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.fitting.blocks._BYTES", 2 * 8 * 12)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 2, 2, 3)).astype(np.float32)
    weights = {"dense.kernel": rng.standard_normal((3, 2)), "dense.bias": rng.standard_normal(2)}
    head = Head(Head.parse("gap,dense(2,softmax)").units, weights)
    rows = np.array([8, 1, 2, 0, 5])
    np.testing.assert_array_equal(predict(head, x, rows), head.run(x)[rows])
