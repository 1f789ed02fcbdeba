"""Every check that needs a GPU, in one command.

    python benchmarks/gpu_check.py [--output FOLDER] [--seconds N]

Needs the repository, its Python packages and a CUDA machine; PyTorch and torchvision where they are there, no
Keras (its models come as pieces with Keras's own answers, `fixtures/references`). Writes gpu-check.json and
gpu-check.md to FOLDER (build/gpu-check), prints the table. Each row is one model against its own framework:
ONNX Runtime on the CPU, ONNX Runtime on CUDA, CUDA against PyTorch on CUDA, and CUDA against the CPU, by the
tolerances of every conversion. Exit code 0 passed, 1 failed; without a GPU it says `skipped`, and exits 0.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

__all__ = ["CUDA", "Place", "Report", "Row", "check", "main", "markdown"]

OUTPUT = HERE.parent / "build" / "gpu-check"
SECONDS = 450  # rows that have not begun by then are skipped, and said to be
REAL = "resnet18 resnet50 mobilenet_v3_small vit_b_16 convnext_tiny densenet121 swin_t".split()
# Models whose outputs differ by more from sample to sample than the precision's tolerance.
PRECISIONS: dict[str, Sequence[str]] = {
    "unet": ("fp16", "bf16", "int8", "mixed"),
    "encoder": ("fp16", "bf16", "int4-weights"),
    "text": ("int8-dynamic",),
}
MIN_SNR = 20.0  # of `mixed`, in dB
CONTEXT = 2 << 30  # bytes that CUDA, cuBLAS and cuDNN may hold beside a session's arena


@dataclasses.dataclass(frozen=True)
class Place:
    """What is checked: a device, ONNX Runtime's provider for it, and PyTorch's word for it."""

    device: str
    provider: str
    torch: str


CUDA = Place("cuda", "CUDAExecutionProvider", "cuda")


@dataclasses.dataclass
class Row:
    """One model, cut or not, on the device.

    Attributes:
        group, name: which.
        verdict: `passed`, `failed`, or `skipped`.
        why: what failed, or why it was skipped.
        cpu: largest scaled error of ONNX Runtime on the CPU, against the framework on the CPU.
        device: the same of ONNX Runtime on the device.
        own: ONNX Runtime on the device against the framework there.
        apart: ONNX Runtime on the device against ONNX Runtime on the CPU.
        nodes: provider → number of nodes.
        elsewhere: operators that did not run on the device, with how many and why.
        seconds: all of it.
    """

    group: str
    name: str
    verdict: str = "passed"
    why: str = ""
    cpu: float | None = None
    device: float | None = None
    own: float | None = None
    apart: float | None = None
    nodes: dict[str, int] = dataclasses.field(default_factory=dict)
    elsewhere: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def fail(self, why: str) -> None:
        """Say what failed; the first failure stays."""
        self.verdict, self.why = "failed", self.why or " ".join(why.split())[:400]


@dataclasses.dataclass
class Report:
    """Everything that was found."""

    status: str
    why: str = ""
    device: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def count(self, verdict: str) -> int:
        """How many rows came out so."""
        return sum(row.verdict == verdict for row in self.rows)


Task = tuple[str, str, Callable[[Place, Row], None]]

# ---------------------------------------------------------------- rows


def _worst(certificate: Any) -> float:
    errors = [c.scaled_error for c in certificate.comparisons]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _saved(row: Row, what: str, cut: Any, folder: Path, device: str) -> Any:
    """Write a cut, proven on a device; its certificate, also of what failed."""
    from converter.errors import ConverterError

    try:
        return cut.save(folder, device=device).proof
    except ConverterError as error:
        row.fail(f"{what}: {error.message}")
        return getattr(getattr(error, "report", None), "proof", None)


def _torch_row(
    build: Callable[[], tuple[Any, Any]], how: dict[str, Any], place: Place, row: Row, split: bool = False
) -> None:
    """A live model: proven on the CPU, on the device, and on the device against PyTorch there."""
    import converter

    model, example = build()
    loaded = converter.load(model, example=example, cache=False)
    if split:
        how = {"split": _middle(loaded)}
        row.name += f" split at {how['split']}"
    cut = loaded.cut(**how)
    with tempfile.TemporaryDirectory() as scratch:
        here, there, own = (Path(scratch) / name for name in ("here", "there", "own"))
        proof = _saved(row, "on the CPU", cut, here, "cpu")
        row.cpu = None if proof is None else _worst(proof)
        proof = _saved(row, "on the device", cut, there, place.device)
        if proof is not None:
            row.device = _worst(proof)
        if here.exists() and there.exists():
            _compare_files(cut, here, there, place, row)
        if "precision" not in how:  # it is set in the graph; PyTorch's own answers stay in float
            moved = copy.deepcopy(model).to(place.torch)
            live = converter.load(moved, example=example, cache=False).cut(**how)
            proof = _saved(row, "against PyTorch on the device", live, own, place.device)
            row.own = None if proof is None else _worst(proof)


def _compare_files(cut: Any, here: Path, there: Path, place: Place, row: Row) -> None:
    """The pieces written here and there, each in its place, on the same random inputs."""
    from converter.runtime import Session
    from converter.samples import draw

    for piece in cut.pieces:
        name = f"{piece.role}.onnx"
        session = Session(there / name, place.provider)
        _place(session, there / name, row)
        for feeds in draw(piece.inputs, cut._made.tables, 1):
            expected = Session(here / name).run(feeds)
            _apart(row, name, session.run(feeds), expected, _precision(cut))


def _precision(cut: Any) -> str | None:
    asked = cut._request.precision
    return None if asked is None else str(asked.computes_in)


def _place(session: Any, path: Path, row: Row) -> None:
    from converter.placing import explained

    placement = explained(session.placement, path)
    if placement.problem is not None:
        row.fail(placement.problem)
    for provider, count in placement.counts.items():
        row.nodes[provider] = row.nodes.get(provider, 0) + count
    row.elsewhere += [dataclasses.asdict(group) for group in placement.groups]


def _apart(row: Row, what: str, got: Any, expected: Any, precision: str | None = None) -> None:
    """Hold the device's outputs to the CPU's."""
    from converter.validation import compare

    for name, reference in expected.items():
        if not isinstance(reference, np.ndarray):
            continue
        # Whether a constant would pass, too, is judged where the framework is the reference.
        found = compare(what, name, 1, got[name], reference, spread=math.inf, precision=precision)
        row.apart = max(row.apart or 0.0, found.scaled_error)
        if not found.passed:
            row.fail(f"device against CPU: {what} {name}: {found.problem or found.scaled_error}")


def _reference_row(place: Place, row: Row) -> None:
    """A piece of a Keras model, against Keras's own answers."""
    from converter.runtime import Session
    from converter.validation import compare, spread_of
    from fixtures.keras_references import read

    path, feeds, expected = read(row.name)
    there = Session(path, place.provider)
    _place(there, path, row)
    got = {"cpu": Session(path).run(feeds), "device": there.run(feeds)}
    for where, outputs in got.items():
        worst = 0.0
        for name, reference in expected.items():
            spread = spread_of([reference])
            found = compare("model", name, len(reference), outputs.get(name), reference, spread=spread)
            worst = max(worst, found.scaled_error) if found.scaled_error == found.scaled_error else math.nan
            if not found.passed:
                row.fail(f"{where} against Keras: {name}: {found.problem or found.scaled_error}")
        setattr(row, where, worst)
    _apart(row, row.name, got["device"], got["cpu"])


def _node_row(case: Any, place: Place, row: Row) -> None:
    """A case of a single operator, against the outputs that come with it."""
    from converter.errors import ValidationError
    from converter.runtime import Session
    from fixtures.node_cases import difference

    content = case.model.SerializeToString()
    try:
        here = difference(case, Session(content).run(case.feeds))
    except ValidationError as error:
        here = error.message
    if here is not None:
        row.verdict, row.why = "skipped", f"not as expected on the CPU either: {' '.join(here.split())[:200]}"
        return
    session = Session(content, place.provider)
    row.nodes = session.placement.counts
    problem = difference(case, session.run(case.feeds))
    if problem is not None:
        row.fail(problem)


def _determinism_row(build: Callable[[], tuple[Any, Any]], place: Place, row: Row) -> None:
    """Five runs of one session, and one of another, give the same bytes."""
    import converter
    from converter.runtime import Session
    from converter.samples import draw

    model, example = build()
    cut = converter.load(model, example=example, cache=False).cut()
    with tempfile.TemporaryDirectory() as scratch:
        cut.save(scratch, device="cpu")
        path = Path(scratch) / "model.onnx"
        feeds = draw(cut.pieces[0].inputs, cut._made.tables, 0)[-1]
        first = Session(path, place.provider)
        _place(first, path, row)
        runs = [first.run(feeds) for _ in range(5)] + [Session(path, place.provider).run(feeds)]
    seen = {b"".join(np.asarray(value).tobytes() for value in run.values()) for run in runs}
    if len(seen) != 1:
        row.fail(f"{len(seen)} different results of {len(runs)} runs")


def _memory_row(build: Callable[[], tuple[Any, Any]], place: Place, row: Row) -> None:
    """What a session holds after a batch of 8 lies within its bound."""
    import converter
    from converter.devices import device_for
    from converter.gpu import first_gpu
    from converter.runtime import Session

    before, limit = first_gpu(), device_for(place.device).facts.get("memory_limit")
    if before is None or limit is None:
        row.verdict, row.why = "skipped", "nvidia-smi tells no device memory"
        return
    model, example = build()
    cut = converter.load(model, example=example, cache=False).cut()
    with tempfile.TemporaryDirectory() as scratch:
        cut.save(scratch, validate=False)
        session = Session(Path(scratch) / "model.onnx", place.provider)
        (spec,) = cut.pieces[0].inputs
        session.run({spec.name: np.zeros((8, *spec.shape[1:]), np.float32)})
        after = first_gpu()
    assert after is not None
    held = before.free - after.free
    row.why = f"{held >> 20} MiB held, bound {limit >> 20} MiB and {CONTEXT >> 20} MiB of CUDA's own"
    if held > limit + CONTEXT:
        row.verdict = "failed"


# ---------------------------------------------------------------- the matrix


def _middle(loaded: Any) -> str:
    """A layer in the middle of a model where one tensor is enough to part it."""
    from converter.pipeline import whole
    from converter.surgery import legal_cuts

    source = loaded._source
    legal = legal_cuts(whole(source), source.outputs)
    names = [layer.name for layer in source.layers if layer.name in legal]
    return str(names[len(names) // 2])


def _split_row(build: Callable[[], tuple[Any, Any]], place: Place, row: Row) -> None:
    _torch_row(build, {}, place, row, split=True)


def _missing(place: Place, row: Row, why: str) -> None:
    del place
    row.verdict, row.why = "skipped", why


def _torch_tasks(real: Sequence[str]) -> Iterator[Task]:
    def bound(function: Callable[..., None], *given: Any) -> Callable[[Place, Row], None]:
        return lambda place, row: function(*given, place, row)

    try:
        from fixtures.torch_models import STRUCTURES, build
    except ImportError as error:
        why = f"PyTorch does not import: {error}"
        yield "torch", "all models", lambda place, row: _missing(place, row, why)
        return
    for name in STRUCTURES:
        yield "torch", name, bound(_torch_row, lambda n=name: build(n), {})
    for name in ("residual", "encoder", "text"):
        yield "torch", name, bound(_split_row, lambda n=name: build(n))
    for name, kinds in PRECISIONS.items():
        for kind in kinds:
            how = {"precision": kind, **({"min_snr": MIN_SNR} if kind == "mixed" else {})}
            yield "precision", f"{name} {kind}", bound(_torch_row, lambda n=name: build(n), how)
    for name in ("residual", "encoder"):
        yield "determinism", name, bound(_determinism_row, lambda n=name: build(n))
    yield from _real_tasks(real, bound)


def _real_tasks(real: Sequence[str], bound: Callable[..., Callable[[Place, Row], None]]) -> Iterator[Task]:
    if not real:
        return
    try:
        from converter.sources.torch import backend

        backend.torchvision()
    except Exception as error:  # a compiled part for another PyTorch fails in many ways
        why = f"torchvision does not import: {' '.join(str(error).split())[:200]}"
        yield "torchvision", ", ".join(real), lambda place, row: _missing(place, row, why)
        return

    def build(name: str) -> tuple[Any, Any]:
        import torch

        import converter

        loaded = converter.load(f"torchvision:{name}", weights="random", cache=False)
        return loaded.native(), torch.zeros(1, 3, 224, 224)

    yield "memory", real[0], bound(_memory_row, lambda: build(real[0]))
    for name in real:
        yield "torchvision", name, bound(_split_row, lambda n=name: build(n))
    yield "precision", f"{real[0]} fp16", bound(_torch_row, lambda: build(real[0]), {"precision": "fp16"})
    yield "determinism", real[0], bound(_determinism_row, lambda: build(real[0]))


def _tasks(real: Sequence[str], groups: Sequence[str]) -> Iterator[Task]:
    from fixtures.keras_references import NAMES

    for name in NAMES:
        yield "keras", name, _reference_row
    yield from _torch_tasks(real)
    if "nodes" in groups:
        from fixtures.node_cases import node_cases

        for case in node_cases():
            if case.float_inference:
                yield "nodes", case.name, lambda place, row, case=case: _node_row(case, place, row)


GROUPS = ("keras", "torch", "precision", "determinism", "memory", "torchvision", "nodes")


def check(
    folder: Path,
    *,
    place: Place = CUDA,
    groups: Sequence[str] = GROUPS,
    real: Sequence[str] = REAL,
    only: Callable[[str, str], bool] = lambda *_: True,
    seconds: float = SECONDS,
    say: Callable[[str], None] = print,
) -> Report:
    """Run the matrix.

    Args:
        folder: where gpu-check.json and gpu-check.md go.
        place: what is checked, the CPU in the place of a GPU in tests.
        groups, real, only: the groups, models of torchvision and rows to run.
        seconds: rows that have not begun by then are skipped.
        say: takes a line for each row.

    Returns:
        What was found; `passed` where a row passed and none failed, `skipped` where there is no GPU.
    """
    start = time.perf_counter()
    report = Report("running", versions=_versions())
    from converter.devices import device_for
    from converter.errors import ConverterError
    from converter.gpu import first_gpu

    try:
        report.device = device_for(place.device).as_dict()
    except ConverterError as error:
        gpu = first_gpu()
        # A GPU that is there and does not compute is a failure, and nothing to go past.
        report.status = "skipped" if gpu is None else "failed"
        report.why = error.message + ("" if gpu is None else f"; but there is a GPU: {gpu}")
        return _written(report, folder, start)
    _written(report, folder, start)  # should a row take the process down, no older verdict stands there
    for group, name, task in _tasks(real, groups):
        if group not in groups or not only(group, name):
            continue
        row = Row(group, name)
        report.rows.append(row)
        began = time.perf_counter()
        if began - start > seconds:
            _missing(place, row, f"not begun within {seconds:g} s")
        else:
            try:
                task(place, row)
            except Exception as error:  # one row's failure is that row's
                row.fail(f"{type(error).__name__}: {error}")
        row.seconds = round(time.perf_counter() - began, 2)
        if group != "nodes" or row.verdict == "failed":
            say(f"{row.verdict:<8} {group:<12} {row.name:<40} {row.seconds:6.1f} s  {row.why}".rstrip())
    report.status = "failed" if report.count("failed") or not report.count("passed") else "passed"
    report.why = f"{report.count('passed')} passed, {report.count('failed')} failed, "
    report.why += f"{report.count('skipped')} skipped"
    return _written(report, folder, start)


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu", "onnx", "onnx-ir", "onnxscript", "torch", "torchvision"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _written(report: Report, folder: Path, start: float) -> Report:
    report.seconds = round(time.perf_counter() - start, 1)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False, default=str) + "\n"
    (folder / "gpu-check.json").write_text(text, encoding="utf-8")
    (folder / "gpu-check.md").write_text(markdown(report), encoding="utf-8")
    return report


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def markdown(report: Report) -> str:
    """The report as a page."""
    lines = ["# GPU check", "", f"**{report.status}**: {report.why}", ""]
    lines += [f"- {key}: {value}" for key, value in report.device.items()]
    lines += [f"- {key} {value}" for key, value in report.versions.items()]
    lines += [f"- {report.seconds} s", ""]
    shown = [row for row in report.rows if row.group != "nodes" or row.verdict == "failed"]
    if shown:
        lines += ["Largest errors over the reference's scale.", ""]
        heads = "group|name|verdict|CPU|device|device, framework there|device, CPU|not on it|s|".split("|")
        lines += ["| " + " | ".join(heads[:-1]) + " | why |", "|" + " --- |" * len(heads)]
        for row in shown:
            figures = map(_figure, (row.cpu, row.device, row.own, row.apart))
            away = sum(group["count"] for group in row.elsewhere)
            cells = (row.group, row.name, row.verdict, *figures, f"{away} of {sum(row.nodes.values())}")
            lines.append(
                "| " + " | ".join((*cells, f"{row.seconds:.1f}", row.why.replace("|", "\\|"))) + " |"
            )
        lines.append("")
    lines += _reasons(report) + _nodes(report)
    return "\n".join(lines).rstrip() + "\n"


def _reasons(report: Report) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for row in report.rows:
        for group in row.elsewhere:
            key = group["operator"], group["reason"]
            counts[key] = counts.get(key, 0) + group["count"]
    if not counts:
        return []
    lines = ["## Not on the device", "", "| operator | nodes | reason |", "| --- | --- | --- |"]
    lines += [f"| {op} | {n} | {why} |" for (op, why), n in sorted(counts.items(), key=lambda kv: -kv[1])]
    return [*lines, ""]


def _nodes(report: Report) -> list[str]:
    rows = [row for row in report.rows if row.group == "nodes"]
    if not rows:
        return []
    provider = report.device.get("provider", "")
    there = sum(bool(row.nodes.get(provider)) for row in rows)
    counts = ", ".join(
        f"{sum(row.verdict == v for row in rows)} {v}" for v in ("passed", "failed", "skipped")
    )
    lines = ["## Cases of single operators", "", f"{len(rows)} cases: {counts}; {there} ran on {provider}."]
    skipped = [f"- {row.name}: {row.why}" for row in rows if row.verdict == "skipped"]
    return [*lines, "", *(["Skipped:", "", *skipped, ""] if skipped else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="rows begin until then")
    asked = parser.parse_args(arguments)
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  # before ONNX Runtime, which then finds CUDA's libraries loaded
    report = check(asked.output, seconds=asked.seconds)
    if report.rows:
        print()
        print(markdown(report))
    for row in report.rows:
        if row.verdict == "skipped" and row.group != "nodes":
            print(f"skipped: {row.group} {row.name}: {row.why}")
    print(f"{report.status}: {report.why}")
    return 1 if report.status == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
