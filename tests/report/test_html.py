"""The page as a text: whole, escaped, and without anything to load."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from converter.model import SourceInfo
from converter.report.blocks import Block, fold
from converter.report.chart import KEPT, Chart, ChartLayer
from converter.report.markup import visible
from converter.validation import Certificate
from fixtures.reports import HOSTILE, comparison, document, drift, layers, many

NAN = float("nan")


class _Page(HTMLParser):
    """Elements with their attributes, and the text outside of style and script."""

    VOID = frozenset(("meta", "link", "br", "img", "input"))

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.raw:
            self.raw[self._open[-1]].append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def hostile() -> Any:
    names = list(HOSTILE)
    chart = Chart(tuple(ChartLayer(name, name, KEPT, ("trunk",), values=(name,)) for name in names))
    return document(
        source=SourceInfo("keras", names[0], names[1], names[2], False),
        cut={"to": names, "from": [], "split": [], "frontier": names},
        proof=Certificate(
            names[3], names[0], tuple(comparison(output=n, passed=False, problem=n) for n in names)
        ),
        targets=[{"kind": n, "piece": n, "path": n, "bytes": 1, "sha256": n} for n in names],
        failures={name: (name, name) for name in names},
        versions=dict.fromkeys(names, names[0]),
        edits={"head": names[0], "to": names, "weights": {"new": names}},
        around={"renames": dict.fromkeys(names, names[1])},
        drift={**drift(), "first": names[0], "origins": names, "judge": names[1]},
        chart=chart,
    )


def test_hostile_names_are_text_alone() -> None:
    plain, bad = _Page(document().as_html()), _Page(hostile().as_html())
    assert {tag for tag, _ in bad.elements} <= {tag for tag, _ in plain.elements} | {"circle", "path", "h3"}
    assert not [key for _, attributes in bad.elements for key in attributes if key.startswith("on")]
    assert bad.raw["script"] == plain.raw["script"]
    assert bad.raw["style"] == plain.raw["style"]
    for name in HOSTILE:
        assert " ".join(visible(name).split()) in bad.text
    assert "\u202e" not in hostile().as_html()
    hostile().as_html().encode()  # lone surrogates cannot be


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert visible("a\u202eb\x00\ud800c") == "a\\u{202e}b\\u{0}\\u{d800}c"
    assert visible("日本語 × é\n") == "日本語 × é\n"


def test_nothing_is_loaded() -> None:
    page = document(drift=drift()).as_html()
    for tag, attributes in _Page(page).elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(key, "data:,") == "data:,", (tag, attributes)
        assert "style" not in attributes  # the policy would drop it
    assert re.findall(r"https?://", page.replace("http://www.w3.org/2000/svg", "")) == []
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_names_what_is_inline_and_nothing_else() -> None:
    page = _Page(document().as_html())
    (policy,) = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256("".join(page.raw[kind]).encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ["PASSED", "2.5e-06 of scale is the largest error", "6.1e-05 is allowed", "58.8 MB", "ab" * 32]),
        ({"proof": None}, ["UNVALIDATED", "Nothing was compared"]),
        ({"proof": Certificate("CPU", "s", (comparison(scaled_error=0.0),))}, ["nothing differs at all"]),
        (
            {"proof": Certificate("CPU", "seed=0", (comparison(),), of="shapes")},
            ["SHAPES ONLY", "its values were not"],
        ),
        (
            {"proof": Certificate("CPU", "seed=0", (comparison(passed=False, scaled_error=0.5),))},
            ["FAILED", "5.0e-01 of scale (", "Files, none of which were kept"],
        ),
        (
            {"proof": Certificate("CPU", "s", (comparison(passed=False, scaled_error=NAN, problem="NaN"),))},
            ["FAILED", "trunk block2_add: NaN"],
        ),
        ({"source": SourceInfo("keras", "n", "keras:n", "random(seed=0)", False)}, ["UNTRAINED"]),
        (
            {"failures": {"tflite": ("no such op", "another")}},
            ["tflite NOT MADE", "no such op"],
        ),
        ({"drift": {"problem": "no memory"}}, ["Layers could not be compared: no memory"]),
        ({"drift": drift()}, ["First to depart: layer 5"]),
        ({"drift": None}, ["converter convert keras:small … --drift"]),
        ({"chart": Chart(layers(), ((4, 1234),))}, ["… and 1,234 more layers", "1,243 layers, 9 shown"]),
    ],
)
def test_the_page_says(changes: dict[str, Any], wanted: list[str]) -> None:
    text = _Page(document(**changes).as_html()).text
    for words in wanted:
        assert words in text


def test_each_layer_has_its_state() -> None:
    page = _Page(document().as_html())
    rows = {a["data-i"]: (a["class"] or "").split() for t, a in page.elements if "data-i" in a}
    assert len(rows) == len(layers())
    assert {"kept", "frontier"} <= set(rows["4"])
    assert "away" in rows["5"]
    assert "dropped" in rows["7"]
    assert "new" in rows["8"]
    reads = {a["data-i"]: a.get("data-r") for _, a in page.elements if "data-i" in a}
    assert reads["4"] == "1 3"
    assert reads["7"] is None


def names_of(parts: tuple[Block | int, ...], names: list[str]) -> list[Any]:
    return [
        (part.name, names_of(part.parts, names), part.own) if isinstance(part, Block) else names[part]
        for part in parts
    ]


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (
            ["image", "block1_conv", "block1_pool", "block2_conv", "fc1", "fc2"],
            ["image", ("block1", ["block1_conv", "block1_pool"], None), "block2_conv", "fc1", "fc2"],
        ),
        (
            ["c2_b1_1_conv", "c2_b1_add", "c2_b2_conv", "c2_b2_add"],
            [
                (
                    "c2",
                    [
                        ("c2_b1", ["c2_b1_1_conv", "c2_b1_add"], None),
                        ("c2_b2", ["c2_b2_conv", "c2_b2_add"], None),
                    ],
                    None,
                )
            ],
        ),
        (
            ["l.0.conv", "l.0.bn", "l.0", "l.1", "l", "fc"],
            [("l", [("l.0", ["l.0.conv", "l.0.bn"], 2), "l.1"], 4), "fc"],
        ),
        (["a/x", "b", "a/y"], ["a/x", "b", "a/y"]),
        (["Conv_1", "Conv_1_bn", "out"], ["Conv_1", "Conv_1_bn", "out"]),
    ],
)
def test_names_fold_by_block(names: list[str], folded: list[Any]) -> None:
    parts = fold([ChartLayer(name, "Conv2D", KEPT) for name in names])
    assert names_of(parts, names) == folded


def test_a_name_of_slashes_does_not_go_deep() -> None:
    name = "a/" * 20_000
    page = document(
        chart=Chart((ChartLayer(name, "Conv2D", KEPT), ChartLayer(name + "b", "Add", KEPT)))
    ).as_html()
    assert page.count(name) < 20


def test_no_layer_is_lost_among_many() -> None:
    page = _Page(document(chart=Chart(many(2000))).as_html())
    assert len({a["data-i"] for _, a in page.elements if "data-i" in a}) == 2000
