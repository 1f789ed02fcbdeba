"""report.html: one page that loads nothing, for people who want to see what came out and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from converter.report.chart import CUT_AWAY, DROPPED, KEPT, NEW, PARTLY, Chart
from converter.report.curve import gauge
from converter.report.document import Document, role_of
from converter.report.flow import figure_of, flow, shape_of
from converter.report.markup import Element, add, data_file, digest_of, element, serialized
from converter.report.sections import about, comparisons, drifted, environment, section
from converter.report.sizes import counted, size_of

__all__ = ["page"]

_CLASSES = {"passed": "good", "failed": "bad"}
_FRAMEWORKS = {"keras": "Keras", "torch": "PyTorch", "onnx": "the uncut file"}


def page(document: Document) -> str:
    """The report as a page of HTML.

    Everything that a model or a user names is text of an element, never markup or script. Styles and the
    script are called by their digests in a Content-Security-Policy that forbids everything else.
    """
    style, script = data_file("page.css"), data_file("page.js")
    policy = (
        f"default-src 'none'; style-src {digest_of(style)}; script-src {digest_of(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),
        element("title", f"{document.source.name}: {document.status}"),
        _raw("style", style),
    )
    main = element(
        "main",
        _verdict(document),
        _files(document),
        _layers(document),
        drifted(document.drift, document.source.locator),
        comparisons(document),
        about(document),
        environment(document),
    )
    body = element("body", main, _raw("script", script))
    return serialized(element("html", head, body, lang="en"))


def _raw(tag: str, text: str) -> Element:
    """A style or script of our own, as it stands."""
    made = element(tag)
    made.text = text
    return made


# ---------------------------------------------------------------- verdict


def _verdict(document: Document) -> Element:
    badges = element("p", class_="badges")
    add(badges, element("strong", document.status.upper(), class_=f"badge {_class(document)}"))
    if not document.source.trained:
        add(badges, element("strong", "UNTRAINED", class_="badge warn"))
    for kind in document.failures:
        add(badges, element("strong", f"{kind} NOT MADE", class_="badge bad"))
    return element(
        "header",
        badges,
        element("h1", element("bdi", document.source.name)),
        element("p", _sentence(document), class_="lead"),
        *_certificate(document),
    )


def _class(document: Document) -> str:
    return _CLASSES.get(document.status, "warn")


def _sentence(document: Document) -> str:
    """What was done, in words."""
    cut, edits = document.cut, document.edits or {}
    parts = [f"{' and '.join(piece.role for piece in document.pieces)} of {document.source.locator}"]
    for key, word in (("from", "after"), ("split", "parted at"), ("to", "up to")):
        if cut[key]:
            parts.append(f"{word} {', '.join(cut[key])}")
    if edits.get("head"):
        parts.append(f"with new layers {edits['head']} on {', '.join(edits['to'])}")
    if edits.get("replace"):
        parts.append("with " + ", ".join(f"{old} replaced by {new}" for old, new in edits["replace"].items()))
    if edits.get("drop"):
        parts.append(f"without {', '.join(edits['drop'])}")
    text = " ".join(parts)
    return f"{text[:1].upper()}{text[1:]}, weights {_weights(document.source.weights)}."


def _weights(label: str) -> str:
    return f"{label[:15]}…" if label.startswith("sha256:") and "," not in label else label


def _certificate(document: Document) -> list[Element]:
    proof = document.proof
    if proof is None:
        text = "Nothing was compared: what these files compute is not known to be what the source computes."
        return [element("p", text, class_="note warn")]
    judge = _FRAMEWORKS.get(document.source.kind, document.source.kind)
    against = f"{proof.provider.removesuffix('ExecutionProvider')} in ONNX Runtime against {judge}"
    samples = f"samples {proof.samples}"
    count = counted(len(proof.comparisons), "comparison")
    facts = element("p", f"{against}, {samples}, {count}.", class_="quiet")
    if proof.of == "shapes":
        text = "A piece was rewritten: shapes and dtypes alone were compared, its values were not."
        return [element("p", text, class_="note warn"), facts]
    known = [c for c in proof.comparisons if not math.isnan(c.scaled_error)]
    made: list[Element] = []
    if known:
        worst = max(known, key=lambda c: (not c.passed, _ratio(c)))
        where = f"{worst.piece} {worst.output}, batch {worst.batch} {worst.sample}".rstrip()
        said = " of scale is the largest error" if worst.passed else " of scale"
        caption = element("p", element("b", figure_of(worst.scaled_error)), f"{said} ({where}); ")
        if worst.scaled_error == 0:
            caption = element("p", element("b", "Exact"), ": nothing differs at all; ")
        add(caption, element("b", f"{worst.tolerance:.1e}"), " is allowed.")
        made += [caption, gauge(worst.scaled_error, worst.tolerance)]
    for comparison in proof.comparisons:
        if comparison.problem and not comparison.passed:
            text = f"{comparison.piece} {comparison.output}: {comparison.problem}"
            made.append(element("p", text, class_="note bad"))
    return [*made, facts]


def _ratio(comparison: Any) -> float:
    """An error in tolerances, so that those of different dtypes can be set side by side."""
    if comparison.tolerance > 0:
        return float(comparison.scaled_error / comparison.tolerance)
    return math.inf if comparison.scaled_error > 0 else 0.0


# ---------------------------------------------------------------- files


def _files(document: Document) -> Element:
    made = element("ul", class_="files")
    for target in document.targets:
        add(made, _file(target, document))
    for kind, (problem, hint) in document.failures.items():
        title = element("p", element("b", kind), " could not be made", class_="path")
        advice = element("p", hint, class_="quiet") if hint else None
        add(made, element("li", title, element("p", problem), advice, class_="failed"))
    total = sum(target["bytes"] for target in document.targets)
    pieces = element("div", *map(_piece, document.pieces), class_="pieces")
    name = "Files" if document.status != "failed" else "Files, none of which were kept"
    count = f"{counted(len(document.targets), 'file')}, {size_of(total)}"
    return section("files", name, made, pieces, note=count)


def _file(target: dict[str, Any], document: Document) -> Element:
    found = [] if document.proof is None else document.proof.comparisons
    kind, role = target["kind"], target["piece"]
    errors = [c.scaled_error for c in found if c.target == kind and role == role_of(c.piece)]
    known = [error for error in errors if not math.isnan(error)]
    facts = element(
        "p",
        element("span", target["kind"], class_="chip target"),
        element("span", size_of(target["bytes"]), class_="size"),
        element("span", _error(max(known)), class_="quiet") if known else None,
        element("span", f"axes turned: {', '.join(target['turned'])}", class_="quiet")
        if target.get("turned")
        else None,
    )
    made = element("li", element("p", element("bdi", target["path"]), class_="path"), facts)
    if "sha256" in target:
        digest = target["sha256"]
        label = f"copy the SHA-256 of {target['path']}"
        copy = element("button", "copy", type="button", data_copy=digest, aria_label=label)
        add(made, element("p", element("code", digest, class_="digest"), copy, class_="sha"))
    return made


def _error(value: float) -> str:
    return f"error {figure_of(value)}" if value else "exact"


def _piece(piece: Any) -> Element:
    made = element("dl", class_="piece")
    for word, specs in (("takes", piece.inputs), ("puts out", piece.outputs)):
        for spec in specs:
            text = f": {shape_of(spec.shape)} {spec.dtype}"
            add(made, element("dt", word), element("dd", element("bdi", spec.name), text))
    add(made, element("dt", "nodes"), element("dd", f"{piece.nodes:,}"))
    add(made, element("dt", "parameters"), element("dd", f"{piece.parameters:,}"))
    return element("div", element("h3", piece.role), made)


# ---------------------------------------------------------------- layers


def _layers(document: Document) -> Element | None:
    chart = document.chart
    if chart is None or not chart.layers:
        return None
    roles = [piece.role for piece in document.pieces]
    total = len(chart.layers) + chart.left_out
    note = counted(total, "layer")
    note += f", {len(chart.layers):,} shown" if chart.left_out else ""
    tools = element("div", class_="tools", id="tools")
    legend = _legend(chart, roles, drift=document.drift is not None)
    return section("layers", "Layers", legend, tools, flow(chart, roles), note=note)


def _legend(chart: Chart, roles: Iterable[str], *, drift: bool) -> Element:
    states = {layer.state for layer in chart.layers}
    names = list(roles)
    several = len(names) > 1
    marks = [
        *((several, f"kept p{number}", role) for number, role in enumerate(names)),
        (not several and KEPT in states, "kept", "kept"),
        (CUT_AWAY in states, "away", "cut away"),
        (PARTLY in states, "partly", "kept in part"),
        (any(layer.frontier for layer in chart.layers), "frontier", "where the cut is"),
        (NEW in states, "new", "new"),
        (DROPPED in states, "dropped", "taken out"),
    ]
    made = element("p", class_="legend")
    for there, kind, label in marks:
        if there:
            add(made, element("span", element("i", class_=f"swatch {kind}"), label))
    if any(layer.error is not None for layer in chart.layers):
        whose = "of scale, in the whole model before it was cut" if drift else "of scale"
        add(made, element("span", element("span", "1e-07", class_="error fine"), f"error {whose}"))
    return made
