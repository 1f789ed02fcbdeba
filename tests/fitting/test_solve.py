from __future__ import annotations

import dataclasses
import importlib
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import TargetError, UsageError
from converter.fitting import Score, is_linear, logistic, predict, ridge, solve, split
from converter.heads import Head

CLASSES = 3
MODULE = importlib.import_module("converter.fitting.solve")  # the package has a function of that name


def blobs(samples: int, shape: tuple[int, ...], classes: int = CLASSES, seed: int = 0) -> tuple[Any, Any]:
    """Features of some classes that overlap, none of them centred, float32; and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    centres = rng.standard_normal((classes, *shape))
    x = 5 + centres[labels] + 1.5 * rng.standard_normal((samples, *shape))
    return x.astype(np.float32), labels


@pytest.mark.parametrize(
    ("text", "linear"),
    [
        ("dense(3)", True),
        ("flatten,dense(3)", True),
        ("gap,dropout(0.3),dense(3,softmax)", True),
        ("gmp,dense(1,sigmoid)", True),
        ("gap,dense(3),softmax", True),
        ("gap,dense(1),sigmoid", True),
        ("gap,dense(3,sigmoid)", False),
        ("gap,dense(3,relu)", False),
        ("gap,dense(3),relu", False),
        ("gap,dense(3,softmax),softmax", False),
        ("gap,dense(3),dropout(0.5)", False),
        ("gap,dense(9,relu),dense(3)", False),
        ("gap,batchnorm,dense(3)", False),
        ("gap,relu,dense(3)", False),
        ("conv1x1(3),gap", False),
        ("gap", False),
        ("softmax", False),
    ],
)
def test_the_form_of_heads(text: str, linear: bool) -> None:
    assert is_linear(Head.parse(text)) == linear


@pytest.mark.parametrize(("samples", "width"), [(200, 20), (20, 200), (30, 30)])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_ridge_is_scikit_learns(
    samples: int, width: int, small_blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import Ridge, RidgeClassifier

    if small_blocks:
        monkeypatch.setattr("converter.fitting.blocks._BYTES", 7 * 8 * width)
    x, labels = blobs(samples, (width,))
    head = Head.parse("dropout(0.5),dense(3)")
    fitted = ridge(head, x, labels, CLASSES, 2.5)
    expected = Ridge(alpha=2.5).fit(x.astype(np.float64), np.eye(CLASSES)[labels])
    kernel, bias = fitted.weights["dense.kernel"], fitted.weights["dense.bias"]
    assert kernel.dtype == bias.dtype == np.float32
    assert np.abs(expected.coef_).max() > 0.01
    np.testing.assert_allclose(kernel, expected.coef_.T, atol=1e-6)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-5)
    others, _ = blobs(300, (width,), seed=1)
    guesses = RidgeClassifier(alpha=2.5).fit(x.astype(np.float64), labels).predict(others)
    assert len(set(guesses)) == CLASSES
    np.testing.assert_array_equal(fitted.run(others).argmax(axis=1), guesses)
    assert head.weights == {}
    assert fitted.units == head.units


@pytest.mark.parametrize(
    ("text", "channels_last", "pooled"),
    [
        ("gap,dense(3)", True, lambda x: x.mean(axis=(1, 2))),
        ("gmp,dense(3)", False, lambda x: x.max(axis=(2, 3))),
        ("flatten,dense(3)", True, lambda x: x.reshape(len(x), -1)),
        ("flatten,dense(3)", False, lambda x: x.reshape(len(x), -1)),
    ],
)
def test_features_are_pooled_as_the_head_does_it(text: str, channels_last: bool, pooled: Any) -> None:
    from sklearn.linear_model import Ridge

    x, labels = blobs(60, (4, 3, 5))
    head = dataclasses.replace(Head.parse(text), channels_last=channels_last)
    fitted = ridge(head, x, labels, CLASSES, 1.0)
    expected = Ridge(alpha=1.0).fit(pooled(x.astype(np.float64)), np.eye(CLASSES)[labels])
    np.testing.assert_allclose(fitted.weights["dense.kernel"], expected.coef_.T, atol=1e-6)
    np.testing.assert_allclose(fitted.run(x), expected.predict(pooled(x.astype(np.float64))), atol=1e-5)


@pytest.mark.parametrize("text", ["dense(3)", "dense(3,softmax)"])
def test_only_the_rows_asked_for_are_fitted(text: str) -> None:
    x, labels = blobs(90, (8,))
    rows = np.flatnonzero(np.arange(90) % 5)
    fitted = solve(Head.parse(text), x, labels, CLASSES, 1.0, rows=rows)
    expected = solve(Head.parse(text), x[rows], labels[rows], CLASSES, 1.0)
    whole = solve(Head.parse(text), x, labels, CLASSES, 1.0)
    for name, value in expected.weights.items():
        np.testing.assert_array_equal(fitted.weights[name], value)
        assert not np.array_equal(whole.weights[name], value)


def test_ridge_holds_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.fitting.blocks._BYTES", 2 << 20)
    shape = (400, 16, 16, 64)  # 26 MB
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    x[:] = blobs(400, (1, 1, 64))[0]
    for text, limit in (("gap,dense(3)", 12 << 20), ("flatten,dense(3)", 18 << 20)):
        tracemalloc.start()
        ridge(Head.parse(text), x, np.arange(400) % 3, CLASSES, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit


def test_ridge_bears_features_far_from_zero_and_little_penalty() -> None:
    from sklearn.linear_model import Ridge

    for samples, width in ((60, 200), (200, 60)):
        x, labels = blobs(samples, (width,))
        x += 3000
        fitted = ridge(Head.parse("dense(3)"), x, labels, CLASSES, 1e-7)
        expected = Ridge(alpha=1e-7, solver="svd").fit(x.astype(np.float64), np.eye(CLASSES)[labels])
        assert np.abs(expected.coef_).max() > 0.01
        np.testing.assert_allclose(fitted.weights["dense.kernel"], expected.coef_.T, atol=1e-7)


def test_ridge_takes_the_smaller_matrix() -> None:
    """The other one would have 200 MB."""
    for shape in ((5000, 3), (12, 5000)):
        x, labels = blobs(shape[0], (shape[1],))
        tracemalloc.start()
        ridge(Head.parse("dense(3)"), x, labels, CLASSES, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 << 20


@pytest.mark.parametrize("block", [1 << 27, 700])
def test_logistic_is_scikit_learns_on_standardised_features(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels = blobs(300, (10,))
    x[:, 3] *= 1000
    monkeypatch.setattr("converter.fitting.blocks._BYTES", block)
    fitted = logistic(Head.parse("dense(3,softmax)"), x, labels, CLASSES, 0.5)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=2, max_iter=1000))
    expected.fit(x.astype(np.float64), labels)
    np.testing.assert_allclose(fitted.run(x), expected.predict_proba(x.astype(np.float64)), atol=1e-5)
    assert fitted.weights["dense.kernel"].shape == (10, 3)
    assert fitted.weights["dense.kernel"].dtype == np.float32


def test_logistic_is_at_the_minimum() -> None:
    """The gradient of the penalised likelihood, written out, is 0 there."""
    x, labels = blobs(300, (10,))
    fitted = logistic(Head.parse("dense(3),softmax"), x, labels, CLASSES, 4.0)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    residual = fitted.run(x) - np.eye(CLASSES)[labels]
    penalty = 4.0 * fitted.weights["dense.kernel"] * std[:, None]
    assert np.abs(penalty).max() > 2
    # scikit-learn stops where the mean gradient is below 1e-4.
    np.testing.assert_allclose(((x - mean) / std).T @ residual + penalty, 0, atol=300 * 1e-4)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=300 * 1e-4)


def test_two_classes() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, labels = blobs(200, (6,), classes=2)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    expected = LogisticRegression(C=1 / 3).fit(scaled, labels).predict_proba(scaled)
    both = logistic(Head.parse("dense(2,softmax)"), x, labels, 2, 3.0)
    assert both.weights["dense.kernel"].shape == (6, 2)
    assert both.weights["dense.bias"].shape == (2,)
    np.testing.assert_allclose(both.run(x), expected, atol=1e-5)
    for text in ("dense(1,sigmoid)", "dense(1),sigmoid"):
        single = solve(Head.parse(text), x, labels, 2, 3.0)
        assert single.weights["dense.kernel"].shape == (6, 1)
        assert single.weights["dense.bias"].shape == (1,)
        np.testing.assert_allclose(single.run(x), expected[:, 1:], atol=1e-5)


def test_features_that_hardly_vary_do_no_harm() -> None:
    x, labels = blobs(200, (6,))
    still = np.concatenate(
        [x, np.full((200, 1), 7), np.full((200, 1), 1e-9) * (labels == 0)[:, None]], axis=1
    )
    fitted = logistic(Head.parse("dense(3,softmax)"), still.astype(np.float32), labels, CLASSES, 1.0)
    expected = logistic(Head.parse("dense(3,softmax)"), x, labels, CLASSES, 1.0)
    np.testing.assert_allclose(fitted.run(still), expected.run(x), atol=1e-4)
    assert np.abs(fitted.weights["dense.kernel"][6:]).max() < 1e-3
    all_still = logistic(Head.parse("dense(3,softmax)"), np.ones((200, 2), np.float32), labels, CLASSES, 1.0)
    np.testing.assert_allclose(all_still.run(np.ones((1, 2))), [np.bincount(labels) / 200], atol=1e-3)


@pytest.mark.parametrize(("text", "bar"), [("flatten,dense(10,softmax)", 0.95), ("flatten,dense(10)", 0.92)])
def test_digits(text: str, bar: float) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.float32)[..., None]
    train, held_out = split(bunch.target, [str(n) for n in range(10)], seed=0, share=0.25)
    fitted = solve(Head.parse(text), images, bunch.target, 10, 1.0, rows=train)
    score = Score.of(predict(fitted, images, held_out), bunch.target[held_out], 10)
    assert score.accuracy >= bar


def test_the_same_call_gives_the_same_head() -> None:
    x, labels = blobs(300, (10,))
    for text in ("dense(3)", "dense(3,softmax)"):
        first, again = (solve(Head.parse(text), x.copy(), labels, CLASSES, 1.0) for _ in range(2))
        for name, value in first.weights.items():
            np.testing.assert_array_equal(value, again.weights[name])


@pytest.mark.parametrize(
    ("text", "fit", "message"),
    [
        ("dense(3,relu)", solve, "expected one dense unit with softmax or sigmoid"),
        ("dense(3)", logistic, "expected one dense unit with softmax or sigmoid"),
        ("dense(3,softmax)", ridge, "expected one dense unit with linear"),
        ("dense(4)", ridge, "its last size is 4, the data have 3 classes"),
        ("dense(4,softmax)", logistic, "its last size is 4, the data have 3 classes"),
        ("dense(1,sigmoid)", logistic, "its last size is 1, the data have 3 classes"),
        ("gap,dense(3)", ridge, "gap takes images or sequences"),
    ],
)
def test_heads_that_are_not_solved(text: str, fit: Any, message: str) -> None:
    x, labels = blobs(30, (4,))
    with pytest.raises(UsageError, match=message):
        fit(Head.parse(text), x, labels, CLASSES, 1.0)


def test_other_arguments_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = blobs(30, (4,))
    linear, soft = Head.parse("dense(3)"), Head.parse("dense(3,softmax)")
    for l2 in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="expected a number more than 0"):
            ridge(linear, x, labels, CLASSES, l2)
    for head in (linear, soft):
        with pytest.raises(UsageError, match="class 2 has no samples"):
            solve(head, x, labels % 2, CLASSES, 1.0)
    with pytest.raises(UsageError, match="one vector a sample"):
        ridge(linear, blobs(30, (5, 4))[0], labels, CLASSES, 1.0)
    monkeypatch.setattr(MODULE, "_LARGEST_MATRIX", 3)
    monkeypatch.setattr(MODULE, "_LARGEST_SAMPLES", 900)
    with pytest.raises(UsageError, match="a matrix of 4 × 4"):
        ridge(linear, x, labels, CLASSES, 1.0)
    with pytest.raises(UsageError, match="logistic regression on 30 samples of 4 features needs"):
        logistic(soft, x, labels, CLASSES, 1.0)


def test_a_regression_that_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_ITERATIONS", 2)
    x, labels = blobs(300, (10,))
    with pytest.raises(TargetError, match="does not converge in 2 iterations"):
        logistic(Head.parse("dense(3,softmax)"), x, labels, CLASSES, 1e-6)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    x, labels = blobs(30, (4,))
    with pytest.raises(TargetError, match="logistic regression needs sklearn") as caught:
        logistic(Head.parse("dense(3,softmax)"), x, labels, CLASSES, 1.0)
    assert caught.value.hint == "pip install 'converter[fit]'"
    ridge(Head.parse("dense(3)"), x, labels, CLASSES, 1.0)
