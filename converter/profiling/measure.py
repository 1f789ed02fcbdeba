"""Runs in ONNX Runtime: how long a model takes, and how long each of its kernels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from converter.model import Array
from converter.runtime import KernelRun, ProfiledSession
from converter.scratch import Scratch

__all__ = ["Latency", "Measured", "Setting", "measured"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How to run.

    Attributes:
        provider: ONNX Runtime's execution provider.
        runs: runs that count, as many with the profiler as without.
        warmup: runs before these.
        threads: threads of one operator; 0 leaves it to ONNX Runtime.
        custom_ops: libraries of operators to load.
    """

    provider: str
    runs: int = 20
    warmup: int = 3
    threads: int = 0
    custom_ops: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Latency:
    """Durations of several runs, in milliseconds.

    Attributes:
        median: half of the runs were quicker.
        p95: 95% of the runs were, interpolated between runs.
        mean: the arithmetic mean; of parts that make a whole, these sum to the whole's.
    """

    median: float
    p95: float
    mean: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """The figures of some runs."""
        median, p95 = np.percentile(milliseconds, [50, 95])
        return cls(float(median), float(p95), float(np.mean(milliseconds)))


@dataclasses.dataclass(frozen=True)
class Measured:
    """What some runs gave.

    Attributes:
        total: whole runs without the profiler, inputs and outputs as NumPy arrays on the host.
        kernels: every kernel of the runs with the profiler, warm-up left out; `run` counts from 0.
        optimized: the graph that ran.
    """

    total: Latency
    kernels: list[KernelRun]
    optimized: onnx.GraphProto


def measured(
    model: bytes, feeds: Mapping[str, Array], setting: Setting, *, folder: Path | None = None
) -> Measured:
    """Run a model with ONNX Runtime's profiler, then as often without; it is loaded once.

    Args:
        model: a serialised model.
        feeds: its inputs.
        setting: how to run.
        folder: where its external data lie.

    Raises:
        ValidationError: the model does not load or does not run.
    """
    with Scratch() as scratch:
        session = ProfiledSession(
            model,
            scratch,
            setting.provider,
            folder=folder,
            custom_ops=setting.custom_ops,
            threads=setting.threads,
        )
        for _ in range(setting.warmup + setting.runs):
            session.run(feeds)
        kernels = session.finish()
        times = []
        for _ in range(setting.runs):
            begin = time.perf_counter()
            session.run(feeds)
            times.append((time.perf_counter() - begin) * 1e3)
        optimized = onnx.load(session.optimized, load_external_data=False).graph
    counted = [
        dataclasses.replace(kernel, run=kernel.run - setting.warmup)
        for kernel in kernels
        if kernel.run >= setting.warmup
    ]
    return Measured(Latency.of(times), counted, optimized)
