"""Judging an artifact whose values nothing else has: does it run, and put out what it says?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from converter.errors import ValidationError
from converter.model import Array, TensorSpec
from converter.validation.comparison import Comparison

__all__ = ["check_shapes"]


def check_shapes(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    batches: Sequence[Mapping[str, Array]],
) -> tuple[Comparison, ...]:
    """Run an artifact and compare the shape and dtype of each output with what is declared; NaN fails.

    Args:
        name: how comparisons call it.
        inputs: what it takes.
        outputs: what it declares to put out.
        run: the artifact, reloaded from the bytes that ship.
        batches: its inputs by name.
    """
    found = []
    for feeds in batches:
        size = next((len(value) for value in feeds.values() if np.ndim(value)), 1)
        known = {
            symbol: length
            for spec in inputs
            for symbol, length in zip(spec.shape, np.shape(feeds[spec.name]), strict=True)
            if isinstance(symbol, str)
        }
        try:
            got = run(feeds)
        except KeyError as error:
            raise ValidationError(f"{name} wants an input {error} that nobody gives") from error
        for spec in outputs:
            problem = _problem(spec, got.get(spec.name), known)
            nan = math.nan
            found.append(Comparison(name, spec.name, size, nan, nan, nan, nan, 0.0, problem is None, problem))
    return tuple(found)


def _problem(spec: TensorSpec, got: Any, known: Mapping[str, int]) -> str | None:
    if got is None:
        return "the output is missing"
    expected = [known.get(size) if isinstance(size, str) else size for size in spec.shape]
    fits = len(expected) == got.ndim and all(e in (None, g) for e, g in zip(expected, got.shape, strict=True))
    if not fits:
        return f"shape {got.shape}, declared [{', '.join(map(str, spec.shape))}]"
    if got.dtype != spec.numpy_dtype:
        return f"dtype {got.dtype}, declared {spec.dtype}"
    if got.dtype.kind == "f" and not np.isfinite(got).all():
        return "NaN or infinity among the values"
    return None
