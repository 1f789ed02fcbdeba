"""Peak memory of whole runs beside what the preflight says of them.

    python benchmarks/memory.py [CASE…] [--gigabytes N]

Each run is `converter convert` in a supervised process of its own, with seeded weights and validation. The
peak is what the supervisor limits: resident anonymous and shared memory of the run and of all that it
starts, looked at every 10 ms. `ratio` is the estimate over the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

CASES: dict[str, list[str]] = {
    "keras:vgg16": [],
    "keras:vgg16 to block4_pool": ["--to", "block4_pool"],
    "keras:resnet50": [],
    "keras:mobilenetv2": [],
    "torchvision:vgg16": [],
    "torchvision:resnet50": [],
    "torchvision:resnet50 to layer3": ["--to", "layer3"],
    "torchvision:vit_b_16": [],
    "torchvision:convnext_base": [],
    "keras:mobilenetv2 as onnx,tflite": ["--targets", "onnx,tflite"],
    "keras:resnet50 as onnx,keras,tflite": ["--targets", "onnx,keras,tflite"],
    "torchvision:resnet50 as onnx,keras": ["--targets", "onnx,keras"],
    "keras:resnet50 in int8": ["--precision", "int8"],
    "onnx": [],
    "onnx to h4": ["--to", "h4"],
}
NOTE = "CONVERTER_MEMORY_NOTE"


def child(arguments: list[str]) -> None:
    """Run the command line, and note what the preflight makes of the run."""
    from converter import preflight
    from converter.cli import main

    reckon = preflight.estimate

    def noted(demand: preflight.Demand, held: int) -> int:
        found = reckon(demand, held)
        facts = {"weights": demand.weights, "tensor": demand.tensor, "targets": demand.targets}
        note = {**facts, "all": demand.all_weights, "held": held, "estimate": found}
        Path(os.environ[NOTE]).write_text(json.dumps(note), encoding="utf-8")
        return found

    preflight.estimate = noted
    sys.argv = ["converter", *arguments]
    main()


def measured(arguments: list[str], folder: Path) -> tuple[dict[str, int], int, float]:
    """What the preflight said of a run, its peak in bytes, and its seconds.

    Raises:
        RuntimeError: the run failed.
    """
    from converter.supervision.memory import Family, resident

    note = folder / "note.json"
    note.unlink(missing_ok=True)
    start = time.perf_counter()
    command = [sys.executable, __file__, "--child", *arguments, "--output", str(folder / "out"), "--no-cache"]
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, env={**os.environ, NOTE: str(note)})
        family, peak = Family(), 0
        while process.poll() is None:
            members = [member for member in family.members() if member != process.pid]
            peak = max(peak, resident(members))
            time.sleep(0.01)
        if process.returncode:
            words.seek(0)
            raise RuntimeError(words.read()[-400:])
    return json.loads(note.read_text()), peak, time.perf_counter() - start


def make_onnx(path: Path, gigabytes: float) -> None:
    """A chain of matrix products with random weights in a file beside."""
    import numpy as np
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    width, nodes, weights, value = 4096, [], [], "x"
    size = width * width * 4
    rng = np.random.default_rng(0)
    with path.with_suffix(".data").open("wb") as data:
        for layer in range(round(gigabytes * 1e9 / size)):
            data.write((rng.standard_normal((width, width), "f4") * 0.02).tobytes())
            weight = T(name=f"w{layer}", dims=[width, width], data_type=1, data_location=1)
            place = {"location": path.with_suffix(".data").name, "offset": layer * size, "length": size}
            for key, text in place.items():
                weight.external_data.add(key=key, value=str(text))
            weights.append(weight)
            nodes.append(h.make_node("MatMul", [value, f"w{layer}"], [f"m{layer}"], name=f"m{layer}"))
            nodes.append(h.make_node("Relu", [f"m{layer}"], [f"h{layer}"], name=f"h{layer}"))
            value = f"h{layer}"
    ends = [[h.make_tensor_value_info(name, T.FLOAT, ["batch", width])] for name in ("x", value)]
    graph = h.make_graph(nodes, "chain", *ends, weights)
    onnx.save(h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 18)]), path)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(["convert", *sys.argv[2:]])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the ONNX file")
    parser.add_argument("--folder", type=Path, help="where to write; takes twice --gigabytes")
    parser.add_argument("--details", action="store_true", help="print what the estimate is made of, too")
    options = parser.parse_args()
    print(
        "| model | weights MB | estimate MB | peak MB | ratio |\n| --- | ---: | ---: | ---: | ---: |",
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        for case in options.cases or CASES:
            source = [case.partition(" ")[0], "--weights", "random"]
            if case.startswith("onnx"):
                source = [str(folder / "chain.onnx")]
                if not Path(source[0]).exists():
                    make_onnx(Path(source[0]), options.gigabytes)
            note, peak, seconds = measured([*source, *CASES[case]], folder)
            ratio = note["estimate"] / peak
            cells = [f"{size / 1e6:.0f}" for size in (note["weights"], note["estimate"], peak)]
            print(f"| {case} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
            if options.details:
                print(f"{note} {seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
