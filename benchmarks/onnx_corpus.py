"""Cut every model of the onnx package at every tensor, beside the tools that people cut with.

    python benchmarks/onnx_corpus.py [GROUP…] [--write]

A cut counts as right when trunk and head run one after the other in ONNX Runtime and give what the whole
model gives (`fixtures/onnx_corpus.py`). `joined` runs the two merged by `onnx.compose` as well. Peers are
tried twice: handed the frontier that this package finds (all tensors that cross, and the inputs the head
needs), and handed the one name alone. --write puts the table into onnx_corpus.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
import onnx_graphsurgeon as gs
import onnx_ir as ir

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fixtures.onnx_corpus import Case, Outcome, cases, cut_in_two, examine  # noqa: E402

Extract = Callable[[Path, Sequence[str], Sequence[str], Path], None]


def by_graphsurgeon(source: Path, inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(onnx.load(source)))
    tensors = graph.tensors()
    for name in inputs:
        tensors[name].inputs.clear()
    graph.inputs = [tensors[name] for name in inputs]
    graph.outputs = [tensors[name] for name in outputs]
    graph.cleanup()
    onnx.save(gs.export_onnx(graph), target)


def by_onnx_utils(source: Path, inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
    onnx.utils.extract_model(source, target, list(inputs), list(outputs), check_model=False)


def by_onnx_ir(source: Path, inputs: Sequence[str], outputs: Sequence[str], target: Path) -> None:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(source)))
    part = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    ir.save(ir.Model(part, ir_version=model.ir_version, functions=list(model.functions.values())), target)


PEERS: dict[str, Extract] = {
    "graphsurgeon": by_graphsurgeon,
    "onnx.utils.extract_model": by_onnx_utils,
    "onnx-ir": by_onnx_ir,
}


def peer(
    extract: Extract, alone: bool, path: Path, tensor: str, folder: Path
) -> tuple[Path, Path, dict[str, str]]:
    """A peer's trunk and head, from the frontier found here or from the one name."""
    trunk, head, _ = cut_in_two(path, tensor, folder)
    whole = onnx.load(path)
    first, second = (onnx.load(file, load_external_data=False).graph for file in (trunk, head))
    crossing = [value.name for value in first.output]
    held = {tensor.name for tensor in whole.graph.initializer}
    inputs = [value.name for value in whole.graph.input if value.name not in held]
    fed = [value.name for value in second.input if value.name not in held]
    ends = [value.name for value in whole.graph.output]
    trunk_inputs = [value.name for value in first.input if value.name not in held]
    if alone:
        crossing, fed, trunk_inputs = [tensor], [tensor], inputs
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for file, given, wanted in ((trunk, trunk_inputs, crossing), (head, fed, ends)):
            file.unlink()
            extract(path, given, wanted, file)
    return trunk, head, {name: name for name in crossing}


def judged(cases_: Sequence[Case], cutter: Any, *, joined: bool = False) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        return [o for case in cases_ for o in examine(case, cutter, Path(folder), joined=joined)]


def row(group: str, tool: str, outcomes: Sequence[Outcome]) -> str:
    right = sum(outcome.result == "right" for outcome in outcomes)
    reasons = Counter(re.split(r"[:(]", o.result)[0].strip() for o in outcomes if o.result != "right")
    said = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common(4))
    return f"| {group} | {tool} | {right:,} of {len(outcomes):,} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = ("node", "simple", "pytorch-operator", "pytorch-converted", "light")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--write", action="store_true", help="write the table into onnx_corpus.md")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    lines = ["| models | tool | right cuts | what went wrong |", "| --- | --- | ---: | --- |"]
    print("\n".join(lines), flush=True)
    for group in options.groups or groups:
        found = list(cases(group))
        if group == "light":
            tools = {
                "converter, joined": judged(found, functools.partial(cut_in_two, link=True), joined=True)
            }
        else:
            tools = {"converter, joined": judged(found, cut_in_two, joined=True)}
            for name, extract in PEERS.items():
                for alone, label in ((False, "handed the frontier"), (True, "one name")):
                    tools[f"{name}, {label}"] = judged(found, functools.partial(peer, extract, alone))
                    print(row(group, f"{name}, {label}", tools[f"{name}, {label}"]), flush=True)
        for tool, outcomes in tools.items():
            lines.append(row(group, tool, outcomes))
        print(lines[-len(tools)], flush=True)
    if options.write:
        page = HERE / "onnx_corpus.md"
        marked = re.compile(r"(<!-- onnx_corpus.py -->\n).*?(<!-- end -->)", re.DOTALL)
        before, after = marked.sub(r"\1\0\2", page.read_text()).split("\0")
        page.write_text(before + "\n".join(lines) + "\n" + after)


if __name__ == "__main__":
    main()
