"""Sweep keras.applications: whole, split at a middle layer, head from another; print a table.

    python benchmarks/zoo.py [NAME…] [--output FILE]

Each model runs in a process of its own, with seeded random weights at its native input size. A row
passes when every comparison with Keras does. Exit code 1 when a row does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def sweep_one(name: str) -> dict[str, Any]:
    """Convert one application three times; runs in the child."""
    from keras_export import peak_memory

    import converter
    from converter.pipeline import whole
    from converter.surgery import legal_cuts

    start = time.perf_counter()
    model = converter.load(f"keras:{name}", weights="random")
    source = model._source
    legal = legal_cuts(whole(source), source.outputs)
    middle = model.layers[len(model.layers) // 2].name
    third = [layer.name for layer in model.layers if layer.name in legal][len(legal) // 3]
    row: dict[str, Any] = {"name": name, "layers": len(model.layers), "legal": len(legal)}
    for label, cut in (
        ("model", {}),
        ("split", {"split": middle}),
        ("head", {"from_": third}),
    ):
        certificate = model.cut(**cut).validate()
        row[label] = {
            "passed": certificate.passed,
            "error": max(c.scaled_error for c in certificate.comparisons),
            "problems": [
                f"{c.piece} {c.output}: {c.problem or c.scaled_error}" for c in certificate.failures()
            ],
        }
    row |= {"middle": middle, "third": third, "seconds": time.perf_counter() - start}
    row["peak"] = peak_memory()
    return row


def in_child(name: str) -> dict[str, Any]:
    """One model's row, from a fresh process."""
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {
            "name": name,
            "failure": done.stderr.strip().splitlines()[-1][:200] if done.stderr else "died",
        }
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


HEAD = (
    "| application | layer calls | single-tensor cuts | whole | split at | head from "
    "| s | peak GB |\n| --- | ---: | ---: | --- | --- | --- | ---: | ---: |"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "failure" in row:
        return f"| {row['name']} | | | FAILED: {row['failure']} | | | | |"

    def cell(label: str, where: str = "") -> str:
        result = row[label]
        verdict = f"{result['error']:.1e}" if result["passed"] else f"FAILED {'; '.join(result['problems'])}"
        return f"{where} {verdict}".strip()

    return (
        f"| {row['name']} | {row['layers']} | {row['legal']} | {cell('model')} "
        f"| {cell('split', '`' + row['middle'] + '`')} "
        f"| {cell('head', '`' + row['third'] + '`')} | {row['seconds']:.0f} | {row['peak'] / 1e9:.1f} |"
    )


def passed(row: dict[str, Any]) -> bool:
    """Whether every conversion of a row passed."""
    return "failure" not in row and all(row[k]["passed"] for k in ("model", "split", "head"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--child")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(sweep_one(options.child)))
        return 0
    from converter.sources.keras.applications import application_names

    lines, good = [HEAD], 0
    print(HEAD)
    names = options.names or application_names()
    for name in names:
        row = in_child(name)
        good += passed(row)
        lines.append(line(row))
        print(lines[-1], flush=True)
    lines.append(f"\n{good} of {len(names)} applications pass.")
    print(lines[-1])
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
