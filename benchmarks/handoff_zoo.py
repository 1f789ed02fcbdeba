"""Sweep the zoos: every model handed whole to the other framework.

    python benchmarks/handoff_zoo.py [GROUP | GROUP:NAME]… [--all] [--jobs N] [--write]

Groups: keras (to PyTorch), torchvision, timm and transformers (to Keras). Each model runs in a process of
its own, with seeded random weights at its native input size, in the layout of the framework that it goes to.
A row passes when the rebuilt model agrees with the framework it comes from at two batch sizes, and has as
many parameters. One model of each family, unless --all asks for every one; --write puts the tables into
handoff_zoo.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

from zoo import GROUPS, TIMM  # noqa: E402

# One of each family, the smallest as a rule.
FAMILIES = {
    "keras": "convnexttiny densenet121 efficientnetb0 efficientnetv2b0 inceptionresnetv2 inceptionv3 "
    "mobilenet mobilenetv2 mobilenetv3small mobilenetv3large nasnetmobile resnet50 resnet50v2 vgg16 xception",
    "torchvision": "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet "
    "inception_v3 maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf "
    "resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t swin_v2_t vgg11 vgg11_bn "
    "vit_b_16 wide_resnet50_2",
    "timm": " ".join(TIMM),
}
TO = {"keras": "torch", "torchvision": "keras", "timm": "keras", "transformers": "keras"}
_SECONDS = 900


def hand_over(group: str, name: str) -> dict[str, Any]:
    """Rebuild one model in the other framework; runs in the child."""
    import dataclasses

    import converter
    from converter.making import Workshop
    from converter.proving import Proof

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if group == "transformers":
            from fixtures.transformers_models import save

            save(name, Path(folder))
            model = converter.load(f"transformers:{folder}", cache=False)
        else:
            model = converter.load(f"{group}:{name}", weights="random", cache=False)
    cut = model.cut()
    piece, source, framework = cut.pieces[0], cut._source, TO[group]
    request = dataclasses.replace(cut._request, layout="native")
    proof = Proof(source, cut._made, request, framework, None)
    workshop = Workshop(source, cut._made, request, Path(), proof.calibration)
    rebuilt, run = workshop.native(framework, piece)
    certificate = proof.hold(framework, piece, run)
    plain = workshop._plain(framework, piece)
    return {
        "name": name,
        "passed": certificate.passed,
        "error": max(c.scaled_error for c in certificate.comparisons),
        "problems": [f"{c.output}: {c.problem or c.scaled_error}" for c in certificate.failures()],
        "weights": _used(source, cut._made.raw[0]),
        "kept": _held(framework, rebuilt),
        "transposes": sum(node.op_type == "Transpose" for node in plain.graph.graph),
        "seconds": time.perf_counter() - start,
    }


def _used(source: Any, raw: Any) -> int:
    """Number of scalar weights of the source that the graph reads."""
    names = set(raw.graph.graph.initializers)
    return sum(int(tensor.size) for name, tensor in source.weights().items() if name in names)


def _held(framework: str, rebuilt: Any) -> int:
    """Number of scalar weights of a rebuilt model, constants of the graph left out."""
    if framework == "keras":
        from converter.rebuilding.keras import extra

        return int(rebuilt.count_params()) - extra(rebuilt)
    kept = {name: tensor for name, tensor in rebuilt.state_dict().items() if not name.endswith("_tracked")}
    learned = {name for name, _ in rebuilt.named_parameters()}
    statistics = ("running_mean", "running_var")
    return sum(t.numel() for n, t in kept.items() if n in learned or n.endswith(statistics))


def in_child(row: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """One model's row, from a fresh process."""
    group, name = row
    command = [sys.executable, __file__, "--child", group, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return group, {"name": name, "failure": f"not done in {_SECONDS} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if "Error" in line or "Unsupported" in line] or lines or ["died"]
        return group, {"name": name, "failure": said[-1][:300]}
    return group, json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    """A row of a table."""
    if "failure" in row:
        return f"| {row['name']} | failed: {row['failure']} | | |"
    error = f"{row['error']:.1e}" if row["passed"] else f"failed: {row['problems'][0]}"
    weights = f"{row['weights']:,}"
    weights += "" if row["kept"] == row["weights"] else f" became {row['kept']:,}"
    return f"| {row['name']} | {error} | {weights} | {row['transposes']} |"


def good(row: dict[str, Any]) -> bool:
    """Whether a row passes."""
    return bool(row.get("passed")) and row["kept"] == row["weights"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=list(TO))
    parser.add_argument("--all", action="store_true", help="every model, not one of each family")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(hand_over(*options.child)))
        return
    wanted: list[tuple[str, str]] = []
    for what in options.what:
        group, _, name = what.partition(":")
        names = [name] if name else GROUPS[group]() if options.all else _families(group)
        wanted += [(group, each) for each in names]
    tables: dict[str, list[dict[str, Any]]] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for group, row in pool.map(in_child, wanted):
            tables.setdefault(group, []).append(row)
            print(group, line(row), f"{row.get('seconds', 0):.0f} s", flush=True)
            if options.write:  # a sweep takes an hour, and may be stopped
                (HERE / "handoff_zoo.md").write_text(text_of(tables), encoding="utf-8")
    sys.exit(not all(good(row) for rows in tables.values() for row in rows))


def _families(group: str) -> list[str]:
    return FAMILIES[group].split() if group in FAMILIES else GROUPS[group]()


def text_of(tables: dict[str, list[dict[str, Any]]]) -> str:
    """The page."""
    text = (
        "# The zoos, handed to the other framework\n\n`python benchmarks/handoff_zoo.py --write`. " + _ABOUT
    )
    for group, rows in tables.items():
        passed = sum(map(good, rows))
        text += f"\n## {group} to {TO[group]}: {passed} of {len(rows)}\n\n"
        text += "| model | error | parameters | transposes |\n| --- | --- | ---: | ---: |\n"
        text += "".join(f"{line(row)}\n" for row in rows)
    return text


_ABOUT = """One model of each family, whole, with seeded random
weights, rebuilt in the other framework from its graph, in that framework's own layout, and compared with the
framework it comes from at two batch sizes. Error: the largest, over the reference's scale. Parameters: scalar
weights that the graph reads; where the rebuilt model has another number of them, this stands behind it.
Transposes: what is left of them in the graph: those of attention, in Keras none of a CNN; PyTorch's own
ConvNeXt has as many.
"""

if __name__ == "__main__":
    main()
