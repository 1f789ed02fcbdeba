"""Running a graph on samples: its answers, the largest values inside, and how far another one is off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.model import Array
from converter.onnxfile import ONE_FILE_LIMIT
from converter.runtime import Session
from converter.samples import count_of
from converter.scratch import Scratch

__all__ = ["Feeds", "answers", "largest", "parted", "saved", "snr"]

Feeds = Sequence[Mapping[str, Array]]


@contextmanager
def saved(model: ir.Model) -> Iterator[Path]:
    """The model as a file for a while, weights beside it where they are too large for one."""
    with Scratch() as folder:
        path = folder / "model.onnx"
        weights = (value.const_value for value in model.graph.initializers.values())
        size = sum(weight.nbytes for weight in weights if weight is not None)
        copy = model.clone()  # onnx_ir makes weights external in the model that it saves
        ir.save(copy, path, external_data="weights" if size > ONE_FILE_LIMIT else None)
        yield path


def parted(feeds: Feeds, *, fixed: bool) -> tuple[Feeds, Feeds]:
    """Two thirds of the samples to set ranges by, and the others to choose by: what ranges were set by fits
    them better than anything else. Of two samples or fewer each is both.

    Args:
        feeds: inputs in batches.
        fixed: the model takes batches of this size alone.
    """
    if len(feeds) == 1 and not fixed:
        batch = feeds[0]
        rows = np.arange(count_of(batch)) % 3 == 2
        if not rows.any():
            return feeds, feeds
        return tuple([{name: array[some] for name, array in batch.items()}] for some in (~rows, rows))  # type: ignore[return-value]
    choosing = feeds[2::3]
    return ([batch for i, batch in enumerate(feeds) if i % 3 != 2], choosing) if choosing else (feeds, feeds)


def answers(model: ir.Model, feeds: Feeds, provider: str) -> list[dict[str, Array]]:
    """What a model puts out for each batch.

    Raises:
        ValidationError: it does not load or run.
    """
    with saved(model) as path:
        session = Session(path, provider)
        return [session.run(_as_taken(model, batch)) for batch in feeds]


def _as_taken(model: ir.Model, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Floats in the precision that the model takes them in."""
    halves = {value.name for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT16}
    return {name: x.astype(np.float16) if name in halves else x for name, x in batch.items()}


def largest(model: ir.Model, feeds: Feeds, provider: str) -> dict[str, float]:
    """The largest magnitude of each float32 or half value of the main graph; NaN and infinity are infinite.

    Raises:
        ValidationError: the model does not load or run.
    """
    tapped = model.clone()
    have = {value.name for value in tapped.graph.outputs}
    for node in tapped.graph:
        for value in node.outputs:
            if value.name and value.name not in have and value.dtype in _FLOATS:
                tapped.graph.outputs.append(value)
    found: dict[str, float] = {}
    with saved(tapped) as path:
        session = Session(path, provider, optimize=False)
        for batch in feeds:
            fed = _as_taken(model, batch)
            for name, value in {**fed, **session.run(fed)}.items():
                found[name] = max(found.get(name, 0.0), _magnitude(value))
    for weight in model.graph.initializers.values():
        if weight.const_value is not None and weight.name and weight.const_value.dtype in _FLOATS:
            found[weight.name] = _magnitude(weight.const_value.numpy())
    return found


# bfloat16 does not come out of ONNX Runtime's Python interface; it has the range of float32.
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _magnitude(value: Any) -> float:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size == 0:
        return 0.0
    top = float(np.abs(value).max())
    return top if math.isfinite(top) else math.inf


def snr(got: Sequence[Mapping[str, Array]], reference: Sequence[Mapping[str, Array]]) -> float:
    """The lowest SNR of any float output in any batch, in dB; minus infinity where one is NaN."""
    lowest = math.inf
    for ours, theirs in zip(got, reference, strict=True):
        for name, exact in theirs.items():
            if isinstance(exact, np.ndarray) and exact.dtype.kind == "f":
                lowest = min(lowest, _snr(ours[name].astype(np.float64), exact.astype(np.float64)))
    return lowest


def _snr(got: Array, exact: Array) -> float:
    signal, noise = float(np.square(exact).sum()), float(np.square(got - exact).sum())
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)
