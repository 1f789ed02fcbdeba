"""What is printed: stages as they begin, then tables; plain lines when nobody watches."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from converter.model import Layer
from converter.report.departures import departures
from converter.report.document import Document, role_of
from converter.report.sizes import count, size_of

__all__ = ["Terminal", "cache_table", "layer_table", "plan_table", "print_table"]

_LISTED = 12  # layers of one reason; report.json has them all
_CONFUSION = 20  # classes, above which the table would be too wide; report.json has it all


@dataclasses.dataclass
class Terminal:
    """Prints a conversion to a console.

    Attributes:
        console: where to; rich notices by itself whether it is a terminal.
    """

    console: Console

    def stage(self, name: str, detail: str = "") -> None:
        """Say that a stage begins."""
        line = Text(f"{name:<10}", style="bold cyan")
        self.console.print(line.append(detail.replace("\n", "\\n"), style="default not bold"), soft_wrap=True)

    def report(self, document: Document, folder: str) -> None:
        """Print the comparisons, the artifacts and the verdict."""
        if document.proof is not None:
            self.comparisons(document)
            for piece, placement in document.proof.placement.items():
                self.placement(piece, placement)
        if document.edits is not None:
            self.edits(document.edits)
        for facts in document.precision:
            self.precision(facts)
        if document.drift is not None:
            self.stage("drift", departures(document.drift))
        self.targets(document, folder)
        self.stage("report", f"{folder}/report.html")
        self.verdict(document)

    def targets(self, document: Document, folder: str) -> None:
        """Print a line a target: its files, and how it compares, or why it could not be made."""
        kinds = list(dict.fromkeys(target["kind"] for target in document.targets))
        rows = []
        for target in sorted(document.targets, key=lambda target: kinds.index(target["kind"])):
            path, kind = f"{folder}/{target['path']}", target["kind"]
            turned = f"turned: {', '.join(target['turned'])}" if "turned" in target else ""
            rows.append((path, size_of(target["bytes"]), kind, _agreement(document, target), turned))
        print_table(self.console, "", ("file", "size", "target", "of scale", ""), rows)
        for kind, (problem, _) in document.failures.items():
            text = f"{kind}: not made: {problem}"
            self.console.print(text, style="red", highlight=False, soft_wrap=True, markup=False)

    def precision(self, facts: Mapping[str, Any]) -> None:
        """Print what a piece computes in, how that was chosen, and which layers stay in float."""
        parts = [f"{facts['operators']} operators"]
        parts += [f"{facts['weights']} weights stored in it"] if "weights" in facts else []
        if "calibration" in facts:
            tried = ", ".join(f"{name} {snr} dB" for name, snr in facts["tried"].items())
            parts.append(f"ranges by {facts['calibration']} ({tried})")
        for name, scale in facts.get("scales", {}).items():
            parts.append(f"{name} = {scale['scale']:.6g} * (level - {scale['zero_point']})")
        self.stage("precision", f"{facts['piece']} in {facts['precision']}: {'; '.join(parts)}")
        reasons: dict[str, list[str]] = {}
        for layer, reason in facts["kept"].items():
            reasons.setdefault(reason, []).append(layer)
        for reason, layers in reasons.items():
            shown = ", ".join(layers[:_LISTED]) + (
                f" and {len(layers) - _LISTED} more" * (len(layers) > _LISTED)
            )
            text = f"  in float, {reason}: {shown}"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def edits(self, edits: Mapping[str, Any]) -> None:
        """Print what became of the weights of a changed model."""
        weights = edits["weights"]
        parts = [f"{weights['kept']} weights kept bit for bit", f"{len(weights['new'])} new"]
        parts += [f"{weights['removed']} removed"] if weights["removed"] else []
        parts += [f"{len(weights['frozen'])} frozen"] if weights["frozen"] else []
        self.stage("edited", ", ".join(parts))
        if "fit" in edits:
            self._fit(edits["fit"])

    def _fit(self, fit: Mapping[str, Any]) -> None:
        """Print how well a fitted head tells held-out samples apart."""
        classes = fit["classes"]
        if len(classes) <= _CONFUSION:
            rows = [
                (name, *map(str, row), f"{recall:.1%}")
                for name, row, recall in zip(classes, fit["confusion"], fit["recall"], strict=True)
            ]
            print_table(self.console, "held-out samples", ("is \\ said", *classes, "recall"), rows)
        self.stage("fitted", f"accuracy {fit['accuracy']:.2%} on {fit['held_out']} held-out samples")

    def comparisons(self, document: Document) -> None:
        """Print a table, or plain lines, of how each output compares with the framework's."""
        assert document.proof is not None
        classes = any(c.top1 is not None for c in document.proof.comparisons)
        rows = [_row(c, classes=classes) for c in _worst_of_kinds(document.proof.comparisons)]
        top1 = ("top-1",) if classes else ()
        heads = (
            "piece",
            "output",
            "batch",
            "max abs",
            "of scale",
            "cosine",
            "SNR dB",
            *top1,
            "tolerance",
            "",
        )
        title = f"{document.proof.provider} against {document.source.kind}"
        print_table(self.console, title, heads, rows)
        kinds = dict.fromkeys(c.sample for c in document.proof.comparisons if c.sample)
        if kinds:
            self.console.print(
                f"kinds: {', '.join(kinds)}; the worst of each output is shown",
                highlight=False,
                soft_wrap=True,
            )
        for comparison in document.proof.comparisons:
            if comparison.problem:
                text = f"{comparison.piece} {comparison.output}: {comparison.problem}"
                self.console.print(text, style="red", highlight=False, soft_wrap=True, markup=False)

    def placement(self, piece: str, placement: Mapping[str, Any]) -> None:
        """Print how many nodes of a piece ran where they were to run, and why the others did not."""
        counts = ", ".join(f"{count} on {provider}" for provider, count in placement["nodes"].items())
        self.stage("placement", f"{piece}: {counts}")
        for group in placement["elsewhere"]:
            text = f"  {group['count']} {group['operator']} on {group['provider']}: {group['reason']}"
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def verdict(self, document: Document) -> None:
        """Print the status, and a warning where weights are initial ones."""
        colour = {"passed": "green", "failed": "red"}.get(document.status, "yellow")
        text = Text(document.status, style=f"bold {colour}")
        if document.proof is not None:
            text.append(f"  {str(document.proof).partition(': ')[2]}", style="default not bold")
        self.console.print(text, soft_wrap=True)
        if not document.source.trained:
            weights = document.source.weights
            self.console.print(
                f"UNTRAINED: the weights are {weights}", style="yellow", soft_wrap=True, markup=False
            )


def layer_table(console: Console, layers: Sequence[Layer], legal: Collection[str]) -> None:
    """Print every layer: name, kind, output, parameters, and where a cut is legal."""
    rows = []
    for layer in layers:
        outputs = ", ".join(f"{b.spec.dtype}[{', '.join(map(str, b.spec.shape))}]" for b in layer.boundaries)
        head = "yes" if layer.name in legal else "frontier"
        rows.append((layer.name, layer.kind, outputs, f"{layer.parameters:,}", "yes", head))
    heads = ("layer", "kind", "output", "parameters", "trunk", "head")
    print_table(console, "", heads, rows)


def plan_table(console: Console, plan: Any, rows: Sequence[tuple[Any, float | None]]) -> None:
    """Print cuts with what they cost, and their predicted seconds where there are any."""
    whole = plan.whole
    console.print(
        f"whole model: {whole.parameters:,} parameters, {count(whole.macs)} MACs, peak activations "
        f"{size_of(whole.peak_bytes)} for one sample of {', '.join(map(str, plan.inputs))}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    assumed = {name: size for name, size in plan.assumed.items() if size != 1}
    if assumed:
        sizes = ", ".join(f"{name} = {size}" for name, size in assumed.items())
        console.print(
            f"assumed: {sizes}; --shape says otherwise", soft_wrap=True, highlight=False, markup=False
        )
    if plan.uncounted:
        some = ", ".join(plan.uncounted[:5])
        console.print(
            f"not counted, for shapes or operators that are not known: {len(plan.uncounted)} nodes ({some})",
            style="yellow",
            markup=False,
        )
    timed = any(seconds is not None for _, seconds in rows)
    heads = [
        "cut behind",
        "crosses",
        "bytes",
        "trunk: parameters",
        "MACs",
        "peak",
        "head: parameters",
        "MACs",
        "peak",
    ]
    table = [
        _cut_row(cut) + ([f"{seconds * 1e3:.1f}"] if seconds is not None else []) for cut, seconds in rows
    ]
    print_table(console, "", [*heads, "ms"] if timed else heads, table)


def _cut_row(cut: Any) -> list[str]:
    first = cut.crossing[0]
    sizes = f"{first.dtype}[{', '.join(map(str, first.shape))}]"
    crosses = sizes if cut.single and len(cut.crossing) == 1 else _some([t.name for t in cut.crossing])
    size = "?" if cut.crossing_bytes is None else size_of(cut.crossing_bytes)
    sides = [
        text
        for side in (cut.trunk, cut.head)
        for text in (f"{side.parameters:,}", count(side.macs), size_of(side.peak_bytes))
    ]
    return [cut.layer, crosses, size, *sides]


def _some(names: Sequence[str], limit: int = 3) -> str:
    """The first names; of more than fit, how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def cache_table(
    console: Console, folder: Path, limit: int, entries: Sequence[tuple[Path, Mapping[str, Any]]]
) -> None:
    """Print the exports that are kept: source, how far they go, size, and when they were used last."""
    rows, total = [], 0
    for path, header in entries:
        status = path.stat()
        total += status.st_size
        used = datetime.datetime.fromtimestamp(status.st_mtime).isoformat(" ", "minutes")
        rows.append((header["source"], header["cut"] or "whole", size_of(status.st_size), used))
    console.print(
        f"{folder}: {len(rows)} exports, {size_of(total)} of at most {size_of(limit)}",
        soft_wrap=True,
        highlight=False,
    )
    if rows:
        print_table(console, "", ("source", "up to", "size", "last used"), rows)


def print_table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    rows = [[cell.replace("\n", "\\n") for cell in row] for row in rows]  # a name may forge no line
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        if title:
            console.print(title, soft_wrap=True, highlight=False, markup=False)
        for row in (heads, *rows):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _agreement(document: Document, target: Mapping[str, Any]) -> str:
    """The largest scaled error of the artifact that a file is of; of a head behind its trunk, too."""
    if document.proof is None:
        return "unproven"
    kind, role = target["kind"], target["piece"]
    found = [c for c in document.proof.comparisons if c.target == kind and role == role_of(c.piece)]
    errors = [c.scaled_error for c in found if not math.isnan(c.scaled_error)]
    return f"{max(errors):.1e}" if errors else "shapes only" if found else "-"


def _worst_of_kinds(comparisons: Sequence[Any]) -> list[Any]:
    """The comparisons on usual samples, those of other kinds that failed, else the worst of an output."""
    shown: list[Any] = []
    worst: dict[tuple[str, str, str], tuple[float, Any]] = {}
    for comparison in comparisons:
        if not comparison.sample or not comparison.passed:
            shown.append(comparison)
            continue
        key = comparison.target, comparison.piece, comparison.output
        share = comparison.scaled_error / comparison.tolerance if comparison.tolerance else 0.0
        if key not in worst or share > worst[key][0]:
            worst[key] = share, comparison
    return shown + [comparison for _, comparison in worst.values()]


def _row(comparison: Any, *, classes: bool) -> tuple[str, ...]:
    top1 = ("-" if comparison.top1 is None else f"{comparison.top1:.1%}",) if classes else ()
    figures: tuple[str, ...] = ("-",) * (5 + len(top1))  # of what was compared by shape alone
    if not math.isnan(comparison.scaled_error) or not comparison.passed:
        figures = (
            f"{comparison.max_abs:.2e}",
            f"{comparison.scaled_error:.2e}",
            f"{comparison.cosine:.6f}",
            f"{comparison.snr_db:.0f}" if abs(comparison.snr_db) >= 60 else f"{comparison.snr_db:.1f}",
            *top1,
            f"{comparison.tolerance:.1e}",
        )
    return (
        comparison.piece,
        comparison.output,
        f"{comparison.batch} {comparison.sample}".rstrip(),
        *figures,
        _verdict(comparison),
    )


def _verdict(comparison: Any) -> str:
    if not comparison.passed:
        return "FAILED"
    return f"ok, {comparison.beyond} beyond" if comparison.beyond else "ok"
