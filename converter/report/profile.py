"""A profile for people and programs: tables and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from converter.report.sizes import count, size_of
from converter.report.terminal import print_table

__all__ = ["comparison_as_json", "comparison_table", "profile_as_json", "profile_table"]

_SLOWEST = 5


def profile_table(console: Console, profile: Any) -> None:
    """Print the figures of a whole model, then a row for each layer or node.

    Args:
        console: where to.
        profile: a `converter.profiling.Profile`.
    """
    _summary(console, profile)
    heads = [profile.by, "operator", "output", "parameters", "MACs", "moved", "FLOP/byte", "GFLOP/s"]
    print_table(console, "", [*heads, "ms", "p95", "share", ""], [_cells(row) for row in profile.rows])
    timed = sorted((row for row in profile.rows if row.latency), key=lambda row: -row.share)[:_SLOWEST]
    if timed:
        _say(console, "slowest: " + ", ".join(f"{row.name} {row.share:.1%}" for row in timed))


def _summary(console: Console, profile: Any) -> None:
    _say(console, f"{profile.path}: {', '.join(map(str, profile.inputs))}")
    assumed = ", ".join(f"{name} = {size}" for name, size in profile.assumed.items())
    if assumed:
        _say(console, f"assumed: {assumed}; --shape says otherwise")
    _say(
        console,
        f"{profile.parameters:,} parameters, weights {size_of(profile.weight_bytes)}, file "
        f"{size_of(profile.file_bytes)}, {count(profile.macs)} MACs",
    )
    _say(
        console,
        f"peak of activations {size_of(profile.peak.bytes)} at {profile.peak.row}: nodes in the order of the "
        "file, nothing fused, nothing in place",
    )
    if profile.peak.unsized:
        _say(console, f"  at least: the sizes of {profile.peak.unsized} tensors are not known", "yellow")
    if profile.uncounted:
        some = ", ".join(profile.uncounted[:5])
        _say(
            console,
            f"MACs not counted, for shapes or operators that are not known: {len(profile.uncounted)} nodes "
            f"({some})",
            "yellow",
        )
    setting, kernels = profile.setting, profile.kernel_latency
    threads = f", {setting.threads} threads" if setting.threads else ""
    _say(
        console,
        f"latency {_ms(profile.latency.median)} ms median, {_ms(profile.latency.p95)} p95: {setting.runs} "
        f"runs without profiler after {setting.warmup} to warm up, {setting.provider}{threads}",
    )
    _say(
        console,
        f"kernels {_ms(kernels.median)} ms median, {_ms(kernels.p95)} p95: sums of {setting.runs} runs with "
        "profiler, on which the rows are",
    )
    if setting.provider != "CPUExecutionProvider":
        _say(
            console,
            f"times of rows are the host's: on {setting.provider} a kernel may run on after it was launched",
            "yellow",
        )


def _cells(row: Any) -> list[str]:
    cells = [
        _label(row),
        row.operator,
        "" if row.output is None else "x".join(map(str, row.output)),
        f"{row.parameters:,}" if row.parameters else "",
        "?" if row.macs is None and row.output is not None else count(row.macs) if row.macs else "",
        "" if row.moved_bytes is None else size_of(row.moved_bytes),
        "" if row.intensity is None else f"{row.intensity:.1f}",
        "" if row.gflops is None else f"{row.gflops:.1f}",
    ]
    return [*cells, *_times(row)]


def _times(row: Any) -> list[str]:
    if row.latency is not None:
        return [_ms(row.latency.median), _ms(row.latency.p95), f"{row.share:.1%}", ""]
    return ["", "", "", _where(row)]


def _where(row: Any) -> str:
    """What became of a row that has no kernel of its own."""
    return f"in {' and '.join(row.within)}" if row.within else "not run"


def _label(row: Any) -> str:
    """`conv1 + relu`; of a name that goes on where the row's own ends, that end: `conv1 + …_relu`."""
    short = [f"…{name.removeprefix(row.name)}" if name.startswith(row.name) else name for name in row.fused]
    more = len(short) - 3
    return " + ".join([row.name, *short[:3], *([f"{more} more"] if more > 0 else [])])


def comparison_table(console: Console, first: Any, second: Any, pairs: Sequence[Any]) -> None:
    """Print two profiles, then the rows of both by name, with the second's figures over the first's.

    Args:
        console: where to.
        first: a `converter.profiling.Profile`.
        second: another one.
        pairs: their rows, `converter.profiling.Pair`s.
    """
    for letter, profile in (("A", first), ("B", second)):
        _say(console, f"{letter}:")
        _summary(console, profile)
    if first.inputs != second.inputs:
        _say(console, "A and B were run on inputs of other names, shapes or types", "yellow")
    heads = ["", "A", "B", "B/A"]
    rows = [
        [what, show(a), show(b), _ratio(b / a if a else None)]
        for what, a, b, show in (
            ("latency, ms", first.latency.median, second.latency.median, _ms),
            ("kernels, ms", first.kernel_latency.median, second.kernel_latency.median, _ms),
            ("file", first.file_bytes, second.file_bytes, size_of),
            ("weights", first.weight_bytes, second.weight_bytes, size_of),
            ("parameters", first.parameters, second.parameters, count),
            ("MACs", first.macs, second.macs, count),
            ("peak of activations", first.peak.bytes, second.peak.bytes, size_of),
        )
    ]
    print_table(console, "", heads, rows)
    heads = [first.by, "MACs A", "MACs B", "kernels A", "kernels B", "ms A", "ms B", "B/A"]
    print_table(console, "", [*heads, "weights B/A", "moved B/A"], [_pair(pair) for pair in pairs])


def _pair(pair: Any) -> list[str]:
    both = (pair.first, pair.second)
    return [
        pair.name,
        *("-" if row is None else count(row.macs) if row.macs else "" for row in both),
        *("-" if row is None else ", ".join(dict.fromkeys(row.kernels)) for row in both),
        *("-" if row is None else _ms(row.latency.median) if row.latency else _where(row) for row in both),
        _ratio(pair.time_ratio),
        _ratio(pair.weight_ratio),
        _ratio(pair.moved_ratio),
    ]


def profile_as_json(profile: Any, roofs: Any = None) -> dict[str, Any]:
    """A profile as JSON-ready values: milliseconds, bytes, MACs; FLOPs are two a MAC.

    Args:
        profile: a `converter.profiling.Profile`.
        roofs: the `converter.profiling.Roofs`, where they were measured.
    """
    setting = dataclasses.asdict(profile.setting)
    document = {
        "file": str(profile.path),
        "by": profile.by,
        "inputs": [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in profile.inputs],
        "assumed": dict(profile.assumed),
        "setting": setting | {"custom_ops": [str(path) for path in profile.setting.custom_ops]},
        "parameters": profile.parameters,
        "weight_bytes": profile.weight_bytes,
        "file_bytes": profile.file_bytes,
        "macs": profile.macs,
        "uncounted": list(profile.uncounted),
        "peak_activations": dataclasses.asdict(profile.peak),
        "latency_ms": dataclasses.asdict(profile.latency),
        "kernel_latency_ms": dataclasses.asdict(profile.kernel_latency),
        "rows": [_row_as_json(row) for row in profile.rows],
    }
    if roofs is not None:
        document["roofs"] = {"flops_per_second": roofs.flops, "bytes_per_second": roofs.bandwidth}
    return document


def _row_as_json(row: Any) -> dict[str, Any]:
    entry = dataclasses.asdict(row)
    entry["latency_ms"] = entry.pop("latency")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}


def comparison_as_json(first: Any, second: Any, pairs: Sequence[Any], roofs: Any = None) -> dict[str, Any]:
    """Two profiles and their rows by name as JSON-ready values; ratios are the second's over the first's."""
    rows = [
        {
            "name": pair.name,
            "first": None if pair.first is None else _row_as_json(pair.first),
            "second": None if pair.second is None else _row_as_json(pair.second),
            "time_ratio": pair.time_ratio,
            "weight_ratio": pair.weight_ratio,
            "moved_ratio": pair.moved_ratio,
        }
        for pair in pairs
    ]
    profiles = [profile_as_json(profile, roofs) for profile in (first, second)]
    return {"first": profiles[0], "second": profiles[1], "rows": rows}


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds >= 100 else f"{milliseconds:.3f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
