"""What became of an artifact's claims, for people and programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from converter.report.document import finite
from converter.report.terminal import print_table

__all__ = ["verified_as_json", "verified_table"]

_WORDS = {True: "ok", False: "FAILED", None: "-"}


def verified_table(console: Console, verification: Any) -> None:
    """Print every check, the outputs that are not what they were, and the verdict.

    Args:
        console: where to.
        verification: a `converter.verifying.Verification`.
    """
    for what in ("proof", "versions"):  # which artifacts of one report have in common
        for text in dict.fromkeys(check.detail for check in verification.checks if check.what == what):
            console.print(f"{what:<8}  {text}", soft_wrap=True, highlight=False, markup=False)
    rows = [
        (c.artifact, c.what, _WORDS[c.passed], c.detail)
        for c in verification.checks
        if c.what not in ("proof", "versions")
    ]
    print_table(console, "", ("artifact", "check", "", "what was found"), rows)
    compared = [
        (c.piece, c.output, str(c.batch), f"{c.scaled_error:.2e}", f"{c.tolerance:.1e}", _WORDS[c.passed])
        for c in verification.comparisons
    ]
    if compared:
        heads = ("against the source", "output", "batch", "of scale", "tolerance", "")
        print_table(console, "", heads, compared)
    words, style = ("verified", "bold green") if verification.passed else ("NOT VERIFIED", "bold red")
    console.print(words, style=style, highlight=False)


def verified_as_json(verification: Any) -> dict[str, Any]:
    """The same as JSON-ready values; NaN and infinities become strings."""
    return {
        "status": "verified" if verification.passed else "failed",
        "path": str(verification.path),
        "artifacts": [
            {
                "path": str(claim.path),
                "kind": claim.kind,
                "piece": claim.role,
                "validation": claim.validation,
                "source": claim.source,
                "weights": claim.weights,
                "cut": dict(claim.cut),
                "versions": dict(claim.versions),
            }
            for claim in verification.claims
        ],
        "checks": [dataclasses.asdict(check) for check in verification.checks],
        "samples": [
            {"artifact": name, **finite(dataclasses.asdict(match)), "passed": match.passed}
            for name, match in verification.matches
        ],
        "comparisons": [finite(dataclasses.asdict(c)) for c in verification.comparisons],
    }
