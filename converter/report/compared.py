"""Two artifacts side by side, for people and programs: how they were paired, figures, the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from converter.model import TensorSpec
from converter.report.terminal import print_table

__all__ = ["compared_as_json", "compared_table"]

_HEADS = ("output of A", "of B", "batch", "max abs", "of scale", "cosine", "SNR dB", "tolerance")


def compared_table(console: Console, outcome: Any) -> None:
    """Print what was compared, how it was paired, the figures and the verdict.

    Args:
        console: where to.
        outcome: a `converter.comparing.Outcome`.
    """

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    for side, artifact in (("A", outcome.a), ("B", outcome.b)):
        say(f"{side}        {artifact.path}  ({artifact.kind})")
    for what, pairs in (("input", outcome.inputs), ("output", outcome.outputs)):
        for pair in pairs:
            say(f"{what:<8} {pair.a}  =  {pair.b}  ({_how(pair)})")
    batches = " and ".join(map(str, dict.fromkeys(outcome.batches)))
    say(f"samples  {outcome.samples}, batch {batches}")
    for note in outcome.notes:
        say(note, "yellow")
    classifier = any(result.comparison.top1 is not None for result in outcome.results)
    rows = [_row(result, classifier) for result in outcome.results]
    title = "B against A" + (f", at least {outcome.min_snr:g} dB" if outcome.min_snr is not None else "")
    print_table(console, title, (*_HEADS, *(["top-1"] if classifier else []), ""), rows)
    for result in outcome.results:
        if result.comparison.problem is not None:
            place = f"{result.pair.a.name}, batch {result.comparison.batch}"
            say(f"{place}: {result.comparison.problem}", "yellow" if result.comparison.passed else "red")
    for name in outcome.left:
        say(f"{name} has no partner: --output A_NAME=B_NAME picks what is compared", "red")
    say(str(outcome), "bold green" if outcome.agree else "bold red")


def compared_as_json(outcome: Any) -> dict[str, Any]:
    """A comparison of two artifacts as JSON-ready values; infinities and NaN become strings."""
    return {
        "status": "agree" if outcome.agree else "differ",
        "a": _artifact(outcome.a),
        "b": _artifact(outcome.b),
        "inputs": [_pair(pair) for pair in outcome.inputs],
        "outputs": [_pair(pair) for pair in outcome.outputs],
        "left": list(outcome.left),
        "samples": outcome.samples,
        "batches": list(outcome.batches),
        "min_snr_db": outcome.min_snr,
        "notes": list(outcome.notes),
        "comparisons": [_comparison(result) for result in outcome.results],
    }


def _how(pair: Any) -> str:
    how = str(pair.how)
    if pair.turn:
        how += f"; turned: B's axes are A's {','.join(map(str, pair.turn))}"
    elif pair.unsure:
        how += f"; not turned, which its sizes leave open: --turn {pair.a.name} turns it"
    return how


def _row(result: Any, classifier: bool) -> Sequence[str]:
    made = result.comparison
    figures = ("-", "-", "-", "-")
    if not math.isnan(made.scaled_error):
        figures = (
            f"{made.max_abs:.2e}",
            f"{made.scaled_error:.2e}",
            f"{made.cosine:.6f}",
            f"{made.snr_db:.1f}",
        )
    top1 = ["-" if result.comparison.top1 is None else f"{result.comparison.top1:.1%}"] if classifier else []
    names = (result.pair.a.name, result.pair.b.name, str(made.batch))
    return (*names, *figures, f"{made.tolerance:.1e}", *top1, "ok" if made.passed else "FAILED")


def _artifact(artifact: Any) -> dict[str, Any]:
    return {
        "path": str(artifact.path),
        "kind": artifact.kind,
        "precision": artifact.precision,
        "inputs": [_spec(spec) for spec in artifact.inputs],
        "outputs": [_spec(spec) for spec in artifact.outputs],
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _pair(pair: Any) -> dict[str, Any]:
    turned = list(pair.turn) if pair.turn else None
    return {"a": pair.a.name, "b": pair.b.name, "how": pair.how, "turned": turned, "unsure": pair.unsure}


def _comparison(result: Any) -> dict[str, Any]:
    made = result.comparison
    figures = {
        name: value if math.isfinite(value) else str(value)
        for name in ("max_abs", "scaled_error", "cosine", "snr_db", "tolerance")
        for value in [float(getattr(made, name))]
    }
    return {
        "a": result.pair.a.name,
        "b": result.pair.b.name,
        "batch": made.batch,
        **figures,
        "top1": result.comparison.top1,
        "passed": made.passed,
        "problem": made.problem,
    }
