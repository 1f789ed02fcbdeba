"""What the export benchmarks share: each exporter in a process of its own, runs interleaved, one table."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

TIMEOUT, SLOW = 900, 20


def peak_memory() -> int:
    """Bytes; not getrusage's figure, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def in_child(script: str, exporter: str, name: str, layer: str | None, path: Path) -> dict[str, Any]:
    """Measure in a fresh process; a failure is a result, too."""
    command = [sys.executable, script, "--child", exporter, name, layer or "", str(path)]
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = psutil.Popen(command, stdout=out, stderr=err)
        while child.poll() is None and time.perf_counter() - start < TIMEOUT:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, child.memory_info().rss)
            time.sleep(0.1)
        with contextlib.suppress(psutil.Error):
            child.kill()
        child.wait()
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        if child.returncode < 0:
            return {"failure": f"killed after {seconds:.0f} s, at {peak / 1e9:.1f} GB"}
        if child.returncode:
            lines = [line for line in err.read().splitlines() if line.strip()]
            return {"failure": (lines or ["died"])[-1][:120]}
        measured: dict[str, Any] = json.loads(out.read().splitlines()[-1])
        return measured


def nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def latencies(paths: dict[str, Path], rounds: int = 25) -> dict[str, float]:
    """Median milliseconds of each model; runs are interleaved so that noise meets all alike."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # not on another's time
    sessions = {}
    for key, path in paths.items():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        if len(inputs) > 1:
            continue  # a peer has left constants as inputs: its model cannot be run as it is
        shape = [d if isinstance(d, int) else 1 for d in inputs[0].shape]
        feed = {inputs[0].name: np.random.default_rng(0).random(shape, np.float32)}
        sessions[key] = (session, feed)
    times: dict[str, list[float]] = {key: [] for key in sessions}
    for number in range(rounds + 3):
        order = list(sessions.items())
        random.Random(number).shuffle(order)
        for key, (session, feed) in order:
            start = time.perf_counter()
            session.run(None, feed)
            if number >= 3:
                times[key].append(time.perf_counter() - start)
    ours = times["converter"]
    paired = {k: statistics.median(a / b for a, b in zip(ours, t, strict=True)) for k, t in times.items()}
    return {**{k: statistics.median(t) * 1e3 for k, t in times.items()},
            **{f"ratio {k}": v for k, v in paired.items()}}  # fmt: skip


def measure(script: str, exporters: Sequence[str], name: str, layer: str | None, runs: int) -> list[str]:
    """Rows of the table for one model or trunk; `converter` is ours, `validated` ours with its proof."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, list[dict[str, Any]]] = {exporter: [] for exporter in exporters}
        paths = {}
        for number in range(runs):
            for exporter in exporters:
                # What fails is not tried again, and what takes long is timed once.
                if any("failure" in r or r["seconds"] > SLOW for r in results[exporter]):
                    continue
                path = Path(folder) / f"{exporter}-{number}" / "model.onnx"
                path.parent.mkdir()
                results[exporter].append(in_child(script, exporter, name, layer, path))
                if "failure" not in results[exporter][-1] and number == 0 and exporter != "validated":
                    paths[exporter] = path
        speed = latencies(paths)
        best = statistics.median(r["seconds"] for r in results["converter"])
        memory = statistics.median(r["peak"] for r in results["converter"])
        for exporter in exporters:
            title = f"{name} {'to `' + layer + '`' if layer else 'whole'} | {exporter}"
            failed = next((r["failure"] for r in results[exporter] if "failure" in r), None)
            if failed:
                rows.append(f"| {title} | failed: {failed} | | | | | | |")
                continue
            seconds = statistics.median(r["seconds"] for r in results[exporter])
            peak = statistics.median(r["peak"] for r in results[exporter])
            cells = [f"{seconds:.1f}", f"{seconds / best:.1f}", f"{peak / 1e9:.2f}", f"{peak / memory:.1f}"]
            if exporter in speed:
                ratio = speed[f"ratio {exporter}"]
                cells += [str(nodes(paths[exporter])), f"{speed[exporter]:.1f}", f"{ratio:.3f}"]
            elif exporter in paths:
                cells += [str(nodes(paths[exporter])), "does not run: constants left as inputs", ""]
            else:
                cells += ["", "", ""]
            rows.append(f"| {title} | {' | '.join(cells)} |")
    return rows


HEAD = (
    "| model | exporter | s | × ours | peak GB | × ours | nodes | latency ms | our latency over theirs |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def run(
    script: str,
    exporters: Sequence[str],
    models: Mapping[str, Sequence[str | None]],
    export: Callable[[str, str, str | None, Path], dict[str, Any]],
    about: str,
) -> None:
    """The command line of a benchmark.

    Args:
        script: its file, which is run again for each measurement.
        exporters: names of the exporters.
        models: model → layers to cut at; None is the whole model.
        export: exports once, in the child: exporter, model, layer, file to write.
        about: what it measures.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        # The kernel shall kill this process and no other if memory runs out.
        Path("/proc/self/oom_score_adj").write_text("1000")
        exporter, name, layer, path = options.child
        print(json.dumps(export(exporter, name, layer or None, Path(path))))
        return
    print(HEAD)
    for name in options.models or models:
        for cut in models[name]:
            for row in measure(script, exporters, name, cut, options.runs):
                print(row, flush=True)
