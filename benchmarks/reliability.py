"""A figure a line of what the tool survives, measured here and now, into docs/reliability.md.

    python benchmarks/reliability.py [PART…] [--examples N] [--dry]

Parts: corpus (models of the onnx package cut at every tensor), zoos (the last sweep's table), drift (layers
of zoo models against float64), faults, hostile, fuzz, memory (a large file cut), determinism. All by default;
what is not measured again keeps its lines. --dry prints and writes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs/reliability.md"
sys.path[:0] = [str(ROOT), str(HERE)]

Line = tuple[str, str]
TIMEOUT = 5400
# What is written twice, in processes of their own, and must be the same byte for byte.
SAME = [
    ("keras:mobilenetv2", "block_3_expand", "onnx,ort,tflite"),
    ("torchvision:resnet18", "layer2", "onnx,ort,torch,pt2,safetensors"),
    ("torchvision:vit_b_16", "encoder.layers.encoder_layer_1", "onnx"),
]


def converter(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "converter", *map(str, arguments)]


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=TIMEOUT, **options
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def checked(module: str) -> dict[str, Any]:
    """The JSON that `python -m MODULE --check` ends with."""
    out = run([sys.executable, "-m", module, "--check"])
    found: dict[str, Any] = json.loads(out[out.index("{") :])
    return found


# ---------------------------------------------------------------- parts


def corpus() -> Iterator[Line]:
    from onnx_corpus import judged

    from fixtures.onnx_corpus import cases, cut_in_two

    logging.disable(logging.CRITICAL)
    for group in ("node", "simple", "pytorch-operator", "pytorch-converted"):
        outcomes = judged(list(cases(group)), cut_in_two, joined=True)
        right = sum(outcome.result == "right" for outcome in outcomes)
        yield (
            f"onnx's {group} models, cut at every tensor, trunk and head joined again",
            f"{right:,} of {len(outcomes):,} right",
        )


def zoos() -> Iterator[Line]:
    for name, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (HERE / "zoo.md").read_text(), re.M | re.S):
        counts = re.search(r"\d+ of \d+", text)
        if counts:
            yield f"models of {name} exported and proven (the last sweep, benchmarks/zoo.md)", counts[0]


def drift() -> Iterator[Line]:
    for source in ("keras:mobilenetv2", "torchvision:resnet18"):
        out = run(converter("drift", source, "--weights", "random", "--noise-floor", "--json"))
        rows = json.loads(out)["layers"]
        within = sum(row["verdict"] == "agrees" for row in rows)
        yield (
            f"layers of {source} no further from float64 than the framework's floor",
            f"{within} of {len(rows)}",
        )


def faults() -> Iterator[Line]:
    words = {
        "kills": "SIGKILL at a write: the old artifact or the new, nothing stray after the next run",
        "interrupts": "Ctrl-C at a write",
        "interrupts_at_any_time": "Ctrl-C at any time",
        "disk_full": "a full disk at a write",
        "small_disks": "disks that are too small",
        "read_only": "folders that cannot be written",
        "concurrent": "rounds of two runs at once on one folder and one cache",
        "changed_source": "a source file that changes during the run",
    }
    found = checked("fixtures.faults")
    for key, text in words.items():
        if isinstance(found.get(key), list):
            count, well = found[key]
            yield text, f"{well:,} of {count:,} ended well"


def hostile() -> Iterator[Line]:
    found = checked("fixtures.hostile")
    yield "hostile files refused with their reason", f"{found['refused']} of {found['files']}"
    yield "hostile files whose code ran", str(found["canaries"])
    yield "most memory that one of them took", f"{found['peak_mb']:,.0f} MB"
    yield "longest that one of them took", f"{found['slowest_s']:.0f} s"


def fuzz(examples: int) -> Iterator[Line]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/onnxfile",
        "--hypothesis-show-statistics",
        "-p",
        "no:xdist",
    ]
    out = run([*command, "--timeout", str(TIMEOUT)], env={**os.environ, "FUZZ_EXAMPLES": str(examples)})
    passing = sum(map(int, re.findall(r"(\d+) passing, \d+ failing", out)))
    failing = sum(map(int, re.findall(r"\d+ passing, (\d+) failing", out)))
    if not passing:
        raise SystemExit(f"nothing was fuzzed:\n{out[-2000:]}")
    yield "executions of the fuzzers of the reader of ONNX files", f"{passing + failing:,}"
    yield "crashes, hangs or bare tracebacks among them", str(failing)


def memory() -> Iterator[Line]:
    from onnx_cut import FILES, make, measured, ours

    maker, tensor, _ = FILES["transformer"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source, _ = make(maker, folder)
        total = sum(path.stat().st_size for path in folder.iterdir())
        _, peak = measured(ours(source, folder / "out", tensor))
    yield f"peak memory of cutting an ONNX file of {total / 1e9:.1f} GB", f"{peak:.0f} MB"


def determinism() -> Iterator[Line]:
    for source, cut, targets in SAME:
        digests: list[dict[str, str]] = []
        for seed in ("1", "2"):
            with tempfile.TemporaryDirectory() as folder:
                command = converter(
                    "convert", source, "--to", cut, "--weights", "random", "--targets", targets
                )
                run([*command, "--no-cache", "--output", folder], env={**os.environ, "PYTHONHASHSEED": seed})
                files = [path for path in Path(folder).rglob("*") if path.is_file()]
                digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
        first, second = digests
        artifacts = sorted(name for name in first if not name.startswith("report."))
        same = [name for name in artifacts if first[name] == second.get(name)]
        other = ", ".join(name for name in artifacts if name not in same)
        text = f"{len(same)} of {len(artifacts)}" + (f" (not {other})" if other else "")
        yield f"artifacts of {source} up to {cut} with the same bytes in two processes", text


# ---------------------------------------------------------------- the page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=2000, help="of each fuzzer")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parts: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
        "corpus": lambda _: corpus(),
        "zoos": lambda _: zoos(),
        "drift": lambda _: drift(),
        "faults": lambda _: faults(),
        "hostile": lambda _: hostile(),
        "fuzz": lambda options: fuzz(options.examples),
        "memory": lambda _: memory(),
        "determinism": lambda _: determinism(),
    }
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    options = parser.parse_args()
    chosen = options.parts or list(parts)
    if len(chosen) > 1:
        # Each in a process of its own: the peak memory of a child is never less than its parent's size.
        more = ["--examples", str(options.examples), *(["--dry"] if options.dry else [])]
        for part in chosen:
            subprocess.run([sys.executable, "-u", __file__, part, *more], check=True)
        return
    for part in chosen:
        rows = []
        for what, figure in parts[part](options):
            rows.append(f"| {what} | {figure} |")
            print(rows[-1], flush=True)
        if not options.dry:
            write(part, rows)


def write(part: str, rows: list[str]) -> None:
    """Put a part's lines in the place of the old ones."""
    marked = re.compile(
        rf"(<!-- {part} -->\n\| what \| figure \|\n\| --- \| ---: \|\n).*?(<!-- end -->)", re.S
    )
    text = PAGE.read_text()
    if not marked.search(text):
        raise SystemExit(f"{PAGE}: no place for {part}")
    PAGE.write_text(marked.sub(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], text))


if __name__ == "__main__":
    main()
