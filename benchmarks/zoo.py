"""Sweep the zoos: every application of Keras and classifier of torchvision, many of timm and transformers.

    python benchmarks/zoo.py [GROUP | GROUP:NAME]… [--write]

Groups: keras, torchvision, timm, transformers; all of them by default. Each model runs in a process of its
own, with seeded random weights at its native input size. A row passes when every comparison with the
framework does: at two batch sizes, trunk, head and both joined. Exit code 1 when a row does not; --write puts
the tables into zoo.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

# One of each of 40 families of timm, small ones where there is a choice.
TIMM = (
    "vit_tiny_patch16_224 beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_tiny "
    "coatnet_nano_rw_224 convit_tiny convnext_atto crossvit_tiny_240 cs3darknet_focus_m davit_tiny "
    "dla34 eca_nfnet_l0 dpn48b ese_vovnet19b_dw edgenext_xx_small efficientformer_l1 efficientnet_b0 "
    "efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fastvit_t8 focalnet_tiny_srf ghostnet_100 "
    "mixer_s32_224 hgnet_tiny hrnet_w18_small inception_next_tiny lcnet_050 levit_128s mambaout_femto "
    "mobilevit_xxs pvt_v2_b0 regnetx_002 repvit_m0_9 res2net50_14w_8s resnest14d "
    "swinv2_tiny_window8_256 xcit_nano_12_p16_224 "
).split()


def _keras() -> list[str]:
    from converter.sources.keras.applications import application_names

    return application_names()


def _torchvision() -> list[str]:
    from converter.sources.torch import backend

    models = backend.torchvision().models
    return list(models.list_models(module=models))


def _transformers() -> list[str]:
    from fixtures.transformers_models import CONFIGURATIONS

    return list(CONFIGURATIONS)


GROUPS: dict[str, Callable[[], list[str]]] = {
    "keras": _keras,
    "torchvision": _torchvision,
    "timm": lambda: TIMM,
    "transformers": _transformers,
}


def sweep_one(group: str, name: str) -> dict[str, Any]:
    """Convert one model three times; runs in the child."""
    from exporters import peak_memory

    import converter
    from converter.pipeline import whole
    from converter.surgery import legal_cuts

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if group == "transformers":
            from fixtures.transformers_models import save

            save(name, Path(folder))
            model = converter.load(f"transformers:{folder}", dynamic=_dynamic(name), cache=False)
        else:
            model = converter.load(f"{group}:{name}", weights="random", cache=False)
    source = model._source
    legal = legal_cuts(whole(source), source.outputs)
    names = [layer.name for layer in model.layers]
    row: dict[str, Any] = {"name": name, "layers": len(names), "legal": len(legal), "cuts": []}
    if group == "keras":
        third = [name for name in names if name in legal][len(legal) // 3]
        cuts = [("", {}), (names[len(names) // 2], "split"), (third, "from_")]
    else:
        cuts = [(_between(model, names[len(names) * part // 4 :]), "split") for part in (1, 2, 3)]
    for layer, kind in cuts:
        certificate = model.cut(**({kind: layer} if layer else {})).validate()
        row["cuts"].append(
            {
                "layer": layer,
                "passed": certificate.passed,
                "error": max(c.scaled_error for c in certificate.comparisons),
                "problems": [
                    f"{c.piece} {c.output}: {c.problem or c.scaled_error}" for c in certificate.failures()
                ],
            }
        )
    return {**row, "seconds": time.perf_counter() - start, "peak": peak_memory()}


def _between(model: Any, names: list[str]) -> str:
    """The first of these layers that lies between input and output: some compute tables of their own."""
    import converter

    for name in names:
        try:
            model.cut(from_=name, frontier=True)
        except converter.CutError as error:
            if "does not depend on" not in str(error):
                raise
        else:
            return name
    raise ValueError(f"no layer of {names} lies between input and output")


def _dynamic(name: str) -> list[str]:
    return [] if name in ("vit", "dinov2") else ["sequence"]


def in_child(group: str, name: str) -> dict[str, Any]:
    """One model's row, from a fresh process."""
    command = [sys.executable, __file__, "--child", group, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"name": name, "failure": (lines or ["died"])[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def head(group: str) -> str:
    """The head of a group's table."""
    cuts = "whole | split at | head from" if group == "keras" else "split at | split at | split at"
    return (
        f"| {group} | layer calls | single-tensor cuts | {cuts} | s | peak GB |\n"
        "| --- | ---: | ---: | --- | --- | --- | ---: | ---: |"
    )


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "failure" in row:
        return f"| {row['name']} | | | FAILED: {row['failure']} | | | | |"
    cells = []
    for cut in row["cuts"]:
        where = f"`{cut['layer']}` " if cut["layer"] else ""
        verdict = f"{cut['error']:.1e}" if cut["passed"] else f"FAILED {'; '.join(cut['problems'])}"
        cells.append(where + verdict)
    return (
        f"| {row['name']} | {row['layers']} | {row['legal']} | {' | '.join(cells)} "
        f"| {row['seconds']:.0f} | {row['peak'] / 1e9:.1f} |"
    )


def passed(row: dict[str, Any]) -> bool:
    """Whether every conversion of a row passed."""
    return "failure" not in row and all(cut["passed"] for cut in row["cuts"])


def sweep(group: str, names: list[str]) -> tuple[list[str], bool]:
    """The lines of a group's table, and whether all pass."""
    lines, good = [head(group)], 0
    print(lines[0])
    for name in names:
        row = in_child(group, name)
        good += passed(row)
        lines.append(line(row))
        print(lines[-1], flush=True)
    lines.append(f"\n{good} of {len(names)} pass.")
    print(lines[-1] + "\n")
    return lines, good == len(names)


def write(group: str, lines: list[str], whole: bool) -> None:
    """Put a table, or some rows of it, into zoo.md."""
    page = HERE / "zoo.md"
    marked = re.compile(rf"(<!-- {group} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    before, table, after = marked.sub(r"\1\0\2\0\3", page.read_text()).split("\0")
    if not whole:
        rows = {line.split("|")[1]: line for line in lines if line.startswith("|")}
        kept = [rows.get(line.split("|")[1], line) for line in table.splitlines() if line.startswith("|")]
        good = sum("FAILED" not in line for line in kept[2:])
        lines = [*kept, f"\n{good} of {len(kept) - 2} pass."]
    page.write_text(before + "\n".join(lines) + "\n" + after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(sweep_one(*options.child)))
        return 0
    good = True
    for group, known in GROUPS.items():
        asked = [name for name in options.models if name.partition(":")[0] == group]
        if options.models and not asked:
            continue
        chosen = known() if not asked or group in asked else [name.partition(":")[2] for name in asked]
        lines, all_good = sweep(group, chosen)
        good = good and all_good
        if options.write:
            write(group, lines, whole=chosen == known())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
