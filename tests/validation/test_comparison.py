"""A comparison must be able to fail."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.validation.comparison import TOLERANCES, compare, spread_of

REFERENCE = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)


def verdict(got, reference=REFERENCE, spread=1.0):
    return compare("trunk", "x", 3, got, reference, spread=spread)


def test_equal_arrays_pass_with_zero_error() -> None:
    result = verdict(REFERENCE.copy())
    assert result.passed
    assert (result.max_abs, result.scaled_error, result.snr_db) == (0.0, 0.0, math.inf)
    assert result.cosine == pytest.approx(1)


def test_figures_are_what_they_are_called() -> None:
    a = np.array([[1.0, 2.0], [2.0, -4.0]], np.float32)
    b = np.array([[1.0, 2.0], [2.5, -4.0]], np.float32)
    result = verdict(a, b)
    assert result.max_abs == 0.5
    assert result.scaled_error == 0.125
    assert result.cosine == pytest.approx(26 / math.sqrt(25 * 27.25))
    assert result.snr_db == pytest.approx(10 * math.log10(27.25 / 0.25))
    assert not result.passed


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_tolerance_is_the_line(dtype: str) -> None:
    reference = np.ones((2, 4), dtype)
    reference[0, 0] = -1
    limit = TOLERANCES[dtype]
    for factor, passes in ((0.5, True), (4, False)):
        got = reference.copy()
        got[1, 1] += limit * factor
        assert verdict(got, reference).passed is passes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_fail(bad: float) -> None:
    got = REFERENCE.copy()
    got[1, 2] = bad
    assert not verdict(got).passed
    reference = REFERENCE.copy()
    reference[1, 2] = bad
    assert not verdict(REFERENCE, reference).passed
    assert verdict(reference.copy(), reference).passed  # in the same places as the reference


def test_all_nan_proves_nothing() -> None:
    nothing = np.full((2, 2), np.nan, np.float32)
    assert not verdict(nothing, nothing).passed


def test_shape_dtype_and_absence_fail() -> None:
    assert "missing" in verdict(None).problem
    assert "shape" in verdict(REFERENCE[:, :-1]).problem
    assert "shape" in verdict(REFERENCE[:, None]).problem
    assert "dtype" in verdict(REFERENCE.astype(np.float64)).problem


def test_integers_are_exact() -> None:
    reference = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert verdict(reference.copy(), reference).passed
    assert not verdict(reference + (reference == 5), reference).passed


def test_a_constant_reference_fails_even_when_met() -> None:
    reference = np.full((3, 4), 0.25, np.float32)
    result = verdict(reference.copy(), reference, spread=spread_of([reference]))
    assert not result.passed
    assert "constant" in result.problem


def test_spread_is_the_change_between_samples() -> None:
    rows = np.array([[10.0, 1.0], [10.0, 3.0]], np.float32)
    assert spread_of([rows]) == pytest.approx(0.2)
    assert spread_of([rows[:1], rows[1:]]) == pytest.approx(0.2)
    same = np.tile(np.arange(5, dtype=np.float32), (3, 1))
    assert spread_of([same]) == 0
    assert spread_of([same[:1]]) == pytest.approx(1)  # one sample: from element to element
