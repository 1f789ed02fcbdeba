"""The sections of a report below the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from converter.report.curve import plot
from converter.report.departures import departures
from converter.report.document import Document
from converter.report.markup import Element, add, element
from converter.report.sizes import counted

__all__ = ["about", "comparisons", "drifted", "environment", "section"]

# Entries of a list in the facts; report.json has them all.
_LISTED = 40
_CONFUSION = 40  # classes, above which the table would be too wide


def section(name: str, title: str, *children: Element | None, note: str = "") -> Element:
    """A section with a heading."""
    heading = element("h2", title, element("small", note) if note else None)
    return element("section", heading, *children, id=name)


# ---------------------------------------------------------------- drift


def drifted(drift: Mapping[str, Any] | None, locator: str) -> Element:
    """Errors by depth, or how to get them."""
    if drift is None:
        text = element(
            "p",
            "Errors of single layers were not measured. ",
            element("code", f"converter convert {locator} … --drift"),
            " compares every layer with the framework and draws them here.",
            class_="quiet",
        )
        return section("drift", "Drift", text)
    if "problem" in drift:
        return section("drift", "Drift", element("p", _sentence(departures(drift)), class_="note warn"))
    rows, floor = drift["layers"], drift["noise_floor"]
    keys = [("first", "ONNX Runtime, from float64"), ("second", f"{drift['judge']}, from float64")]
    if not floor:
        keys = [("first", "from the model's inputs"), ("alone", "the layer alone")]
    legend = element("p", class_="legend")
    for kind, label in (*keys, ("limit", "limit")):
        add(legend, element("span", element("i", class_=f"key {kind}"), label))
    title = "the whole model before it was cut, as exported, "
    where = f"{title}{drift['provider'].removesuffix('ExecutionProvider')} against {drift['judge']}"
    return section(
        "drift",
        "Drift",
        element("p", _sentence(departures(drift)), class_="" if drift["passed"] else "note bad"),
        legend,
        element(
            "div",
            plot(rows, noise_floor=floor),
            class_="wide",
            tabindex="0",
            role="region",
            aria_label="error by depth",
        ),
        element(
            "p", f"Error of scale by depth: {where}, {counted(drift['samples'], 'sample')}.", class_="quiet"
        ),
        note=f"{len(rows)} boundaries",
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# ---------------------------------------------------------------- comparisons


def comparisons(document: Document) -> Element | None:
    """Every comparison of the certificate."""
    proof = document.proof
    if proof is None:
        return None
    classes = any(c.top1 is not None for c in proof.comparisons)
    heads = ["", "piece", "output", "batch", "of scale", "allowed", "max abs", "cosine", "SNR dB"]
    heads += ["top-1"] if classes else []
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in heads)))
    body = element("tbody")
    for c in proof.comparisons:
        verdict = element("span", "ok" if c.passed else "FAILED", class_="good" if c.passed else "bad")
        unknown = math.isnan(c.scaled_error)
        figures = ["-"] * 5
        if not unknown:
            figures = [f"{c.scaled_error:.2e}", f"{c.tolerance:.1e}", f"{c.max_abs:.2e}", f"{c.cosine:.6f}"]
            figures.append("∞" if math.isinf(c.snr_db) else f"{c.snr_db:.1f}")
        if classes:
            figures.append("-" if c.top1 is None else f"{c.top1:.1%}")
        row = element("tr", element("td", verdict), element("td", c.piece))
        batch = element("td", f"{c.batch} {c.sample}".rstrip(), class_="number")
        add(row, element("td", element("bdi", c.output)), batch)
        for figure in figures:
            add(row, element("td", figure, class_="number"))
        add(body, row)
    table = element("table", head, body)
    return section(
        "comparisons",
        "Comparisons",
        element("div", table, class_="wide", tabindex="0", role="region", aria_label="comparisons"),
        note=str(len(proof.comparisons)),
    )


# ---------------------------------------------------------------- what else was asked for


def about(document: Document) -> Element | None:
    """What was changed, in what precision pieces compute, what stands around them."""
    parts: list[Element] = []
    edits = dict(document.edits or {})
    fit = edits.pop("fit", None)
    if fit is not None:
        parts += _fit(fit)
    for title, facts in (("Changes", edits), ("Around the pieces", document.around)):
        shown = _described(facts)
        if shown is not None:
            parts += [element("h3", title), shown]
    for facts in document.precision:
        shown = _described(facts)
        if shown is not None:
            parts += [element("h3", f"Precision of the {facts['piece']}"), shown]
    frontier = document.cut["frontier"]
    if frontier:
        parts += [element("h3", "Tensors that cross the cut"), _listed(frontier)]
    return section("more", "Details", *parts) if parts else None


def _fit(fit: Mapping[str, Any]) -> list[Element]:
    """How well a fitted head tells held-out samples apart."""
    text = f"Accuracy {fit['accuracy']:.2%} on {fit['held_out']} held-out samples."
    made = [element("h3", "Fitted head"), element("p", text)]
    classes = fit["classes"]
    if len(classes) <= _CONFUSION:
        heads = ["is \\ said", *classes, "recall"]
        table = element("table", element("thead", element("tr", *(element("th", str(h)) for h in heads))))
        body = element("tbody")
        for name, row, recall in zip(classes, fit["confusion"], fit["recall"], strict=True):
            cells = [element("td", str(count), class_="number") for count in row]
            add(body, element("tr", element("th", str(name)), *cells, element("td", f"{recall:.1%}")))
        made.append(element("div", add(table, body), class_="wide"))
    rest = {key: fit[key] for key in ("data", "solver", "epochs", "preprocess", "fitted_on") if key in fit}
    shown = _described(rest)
    return made if shown is None else [*made, shown]


def _described(facts: Mapping[str, Any]) -> Element | None:
    """Facts as names and texts; what says nothing is left out."""
    made = element("dl", class_="facts")
    for key, value in facts.items():
        if value is None or value in ([], {}, "", ()):
            continue
        add(made, element("dt", key.replace("_", " ")), element("dd", _value(value)))
    return made if len(made) else None


def _value(value: Any) -> Element:
    if isinstance(value, Mapping):
        return _described({k or "(the only one)": v for k, v in value.items()}) or element("span", "-")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _listed(value)
    return element("bdi", f"{value:,}" if isinstance(value, int) else str(value))


def _listed(values: Sequence[Any]) -> Element:
    more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
    return element("bdi", ", ".join(map(str, values[:_LISTED])) + more)


# ---------------------------------------------------------------- timings, environment


def environment(document: Document) -> Element:
    """Where time went, and what was used."""
    total = sum(document.timings.values())
    stages = element("dl", class_="timings")
    for name, seconds in document.timings.items():
        share = 100 * seconds / total if total > 0 else 0
        bar = element(
            "svg",
            element("rect", width="100%", height="8", rx="4", class_="track"),
            element("rect", width=f"{max(share, 0.5):.2f}%", height="8", rx="4", class_="time"),
            width="100%",
            height="8",
            aria_hidden="true",
        )
        add(stages, element("dt", name), element("dd", bar, element("span", f"{seconds:.2f} s")))
    versions = _described(dict(document.versions))
    source = document.source
    facts = {"source": source.locator, "framework": source.kind, "weights": source.weights}
    return section(
        "environment",
        "Time and environment",
        stages,
        _described(facts),
        versions,
        note=f"{total:.1f} s",
    )
