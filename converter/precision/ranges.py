"""Ranges of activations, on samples.

`minmax`, `percentile` (99.999, 99.99 and 99.9 % of the values) and `entropy` are those of ONNX Runtime's
calibrators. `mse` is the range with the least squared error over the same histogram, what is cut off counted
four times: limits are drawn in from both ends in steps (after Nagel et al. 2021, A White Paper on Neural
Network Quantization, 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from converter.errors import TargetError, UsageError
from converter.model import Array
from converter.precision import tools
from converter.precision.measure import Feeds
from converter.scratch import Scratch

__all__ = ["FEWEST", "Range", "candidates"]

Range = tuple[np.float32, np.float32]
# Samples that a method needs at least: a histogram of fewer is that of these samples and no other's.
FEWEST = {"minmax": 2, "mse": 8, "percentile": 8, "entropy": 8, "auto": 8}
_PERCENTILES = (99.999, 99.99, 99.9)
_BINS = 2048
_STEPS = 24
# What is cut off on the samples is cut off more on others, whose ends lie further out.
_CUT_WEIGHT = 4


def candidates(
    proto: onnx.ModelProto, feeds: Feeds, method: str, provider: str
) -> Iterator[tuple[str, dict[str, Range]]]:
    """Ranges of all values that may be quantized, by name; with `auto` those of each method in turn, from
    those that cut off least to those that cut off most.

    Args:
        proto: the float model, with shapes and types of inner values.
        feeds: its inputs, in batches; taken apart, since calibrators want batches of one size.
        method: one of `METHODS`.
        provider: ONNX Runtime's execution provider.

    Raises:
        UsageError: too few samples for the method.
        TargetError: ONNX Runtime's tools fail.
    """
    fixed = _batch_of(proto)
    taken = {value.name for value in proto.graph.input}  # heads are given the model's inputs, too
    own = [{name: array for name, array in batch.items() if name in taken} for batch in feeds]
    samples = own if fixed else [sample for batch in own for sample in _apart(batch)]
    fewest, count = FEWEST[method], len(samples) * max(fixed, 1)
    if count < fewest:
        raise UsageError(
            f"calibration {method} wants {fewest} samples to set ranges by, got {count}",
            hint="of --samples one half validates, and of the other a third chooses where there is a choice: "
            "24 are enough for any method; --calibration minmax wants 4",
        )
    histograms = _histograms(proto, samples, provider)
    if method in ("auto", "minmax"):
        yield "minmax", {name: (low, high) for name, (_, _, low, high) in histograms.items()}
    for percentile in _PERCENTILES:
        if method in ("auto", "percentile"):
            yield (
                f"percentile {percentile}",
                {name: _percentile(*found, percentile) for name, found in histograms.items()},
            )
        if method in ("auto", "mse") and percentile == _PERCENTILES[0]:
            yield "mse", {name: _least_error(*found) for name, found in histograms.items()}
    if method in ("auto", "entropy"):
        yield "entropy", _entropy(proto, samples, provider)


def _batch_of(proto: onnx.ModelProto) -> int:
    """The batch that the model is fixed to; 0 where it takes any."""
    shapes = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return max((shape[0].dim_value for shape in shapes if len(shape)), default=0)


def _apart(batch: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The samples of a batch, one by one; a batch whose inputs are not all by sample stays whole."""
    sizes = {len(array) if array.ndim else 0 for array in batch.values()}
    if len(sizes) != 1 or sizes == {0}:
        yield dict(batch)
        return
    for index in range(sizes.pop()):
        yield {name: array[index : index + 1] for name, array in batch.items()}


def _calibrate(
    proto: onnx.ModelProto, samples: list[dict[str, Array]], provider: str, method: str, options: Any
) -> Any:
    """One of ONNX Runtime's calibrators, which has seen the samples one by one: it keeps what it is given at
    once, every inner value of it."""
    calibrate = tools.module("calibrate")
    with Scratch() as folder, tools.silent():
        path = folder / "float.onnx"
        onnx.save(proto, path)
        try:
            calibrator = calibrate.create_calibrator(
                path,
                tools.quantizable(),
                augmented_model_path=str(folder / "augmented.onnx"),
                calibrate_method=calibrate.CalibrationMethod[method],
                providers=[provider],
                extra_options=options,
            )
            for sample in samples:
                calibrator.collect_data(_Reader(sample))
        except Exception as error:  # the tools raise whatever a model of theirs happens to meet
            raise TargetError(
                f"ONNX Runtime's calibration fails: {type(error).__name__}: {error}",
                hint="--precision int8-dynamic measures no ranges",
            ) from error
        return calibrator


class _Reader:
    """One sample, as calibrators read."""

    def __init__(self, sample: Mapping[str, Array]) -> None:
        self._samples = [dict(sample)]

    def get_next(self) -> dict[str, Array] | None:
        return self._samples.pop() if self._samples else None


Histogram = tuple[Array, Array, np.float32, np.float32]


def _histograms(
    proto: onnx.ModelProto, samples: list[dict[str, Array]], provider: str
) -> dict[str, Histogram]:
    """Value → counts, edges, the smallest and the largest."""
    options = {"num_bins": _BINS, "symmetric": False}
    calibrator = _calibrate(proto, samples, provider, "Percentile", options)
    found = calibrator.collector.get_histogram_dict()
    return {
        name: (np.asarray(entry[0]), np.asarray(entry[1]), np.float32(entry[2]), np.float32(entry[3]))
        for name, entry in found.items()
    }


def _entropy(proto: onnx.ModelProto, samples: list[dict[str, Array]], provider: str) -> dict[str, Range]:
    calibrator = _calibrate(proto, samples, provider, "Entropy", {})
    with tools.silent():
        found = calibrator.compute_data()
    return {
        name: (np.float32(data.range_value[0]), np.float32(data.range_value[1]))
        for name, data in found.items()
    }


def _percentile(counts: Array, edges: Array, low: np.float32, high: np.float32, percentile: float) -> Range:
    """The range that leaves out the same share of values at either end."""
    share = np.cumsum(counts) / counts.sum()
    out = (100 - percentile) / 200
    left = edges[np.searchsorted(share, out)]
    right = edges[min(int(np.searchsorted(share, 1 - out)) + 1, len(edges) - 1)]
    return np.float32(max(left, low)), np.float32(min(right, high))


def _least_error(counts: Array, edges: Array, low: np.float32, high: np.float32) -> Range:
    """The range whose 256 steps have the least squared error, those cut off included."""
    bottom, top = min(float(low), 0.0), max(float(high), 0.0)
    if top <= bottom or not np.isfinite([bottom, top]).all():
        return low, high
    centres = (edges[:-1] + edges[1:]) / 2
    best, chosen = np.inf, (bottom, top)
    shares = np.linspace(0.3, 1.0, _STEPS)
    for lower in bottom * shares if bottom else [0.0]:
        for upper in top * shares if top else [0.0]:
            step = (upper - lower) / 255
            zero = np.round(-lower / step)
            levels = np.clip(np.round(centres / step) + zero, 0, 255)
            off = np.square((levels - zero) * step - centres)
            cut = (centres < lower) | (centres > upper)
            error = float(counts @ np.where(cut, _CUT_WEIGHT * off, off))
            if error < best:
                best, chosen = error, (float(lower), float(upper))
    return np.float32(chosen[0]), np.float32(chosen[1])
