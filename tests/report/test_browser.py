"""The page in a real browser: what a person sees, clicks and reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.model import SourceInfo
from converter.report.chart import Chart, ChartLayer
from converter.validation import Certificate
from fixtures.browser import REQUIRED, browsing, missing, show
from fixtures.reports import HOSTILE, comparison, document, drift, layers, many

# The least contrast of text that WCAG 2.2 allows (1.4.3, AA).
CONTRAST = 4.5
Page = Callable[..., Any]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    reason = missing()
    if reason is not None:
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    with browsing() as found:
        yield found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


@pytest.fixture
def page(driver: Any, path: Path) -> Page:
    """Open a report of these facts."""

    def opened(width: int = 1280, *, dark: bool = False, **changes: Any) -> Any:
        path.write_text(document(**changes).as_html(), encoding="utf-8")
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        show(driver, path, width, dark=dark)
        return driver

    return opened


def everything() -> dict[str, Any]:
    """Facts that fill every part of the page, hostile names among them."""
    chart = Chart((*layers(), *many(30)), ((9, 12),))
    proof = Certificate(
        "CPUExecutionProvider",
        "seed=0",
        (comparison(), comparison(output=HOSTILE[0] * 4, passed=False, scaled_error=0.3, problem="x" * 200)),
    )
    return {
        "source": SourceInfo(
            "keras", HOSTILE[1] + "long" * 40, "keras:" + "y" * 200, "sha256:" + "0" * 64, False
        ),
        "chart": chart,
        "proof": proof,
        "drift": drift(60),
        "failures": {"coreml": ("this target needs " + "z" * 150, "another machine")},
        "edits": {"head": "gap,dense(5)", "to": ["block2_add"], "weights": {"new": ["w" * 120]}},
        "around": {"renames": {"a" * 80: "b" * 80}},
        "precision": [{"piece": "trunk", "precision": "int8", "kept": {"c" * 90: "d" * 90}}],
    }


def test_a_whole_page_makes_no_noise_and_no_request(page: Page) -> None:
    driver = page(**everything())
    assert driver.get_log("browser") == []
    requests = [
        message["params"]["request"]["url"]
        for entry in driver.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if not url.startswith("data:")] == [driver.current_url]
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert driver.execute_script("return window.owned") is None
    text = driver.find_element("tag name", "main").text
    for words in ("FAILED", "UNTRAINED", "coreml NOT MADE", "First to depart", "… and 12 more layers"):
        assert words in text
    assert HOSTILE[1] in text


def test_the_browser_does_complain_where_there_is_reason(driver: Any, path: Path) -> None:
    """The two checks above can fail: another script is stopped by the policy, a picture is asked for."""
    text = document().as_html()
    path.write_text(text.replace("</main>", "<script>window.owned = 1</script><img src=x.png></main>"))
    driver.get_log("browser")
    show(driver, path)
    assert len(driver.get_log("browser")) == 2
    assert driver.execute_script("return window.owned") is None


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_does_not_scroll_sideways(page: Page, width: int, dark: bool) -> None:
    driver = page(width, dark=dark, **everything())
    for script in ("", "for (const d of document.querySelectorAll('details')) d.open = true;"):
        driver.execute_script(script)
        wide, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert inner == width
        assert wide <= width
    # What is wide scrolls by itself: nothing is cut off.
    how = "return [...document.querySelectorAll('.wide')].map(e => getComputedStyle(e).overflowX)"
    assert set(driver.execute_script(how)) == {"auto"}


CONTRASTS = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read(page: Page, dark: bool) -> None:
    driver = page(dark=dark, **everything())
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true;")
    back, worst, count = driver.execute_script(CONTRASTS)
    assert count > 200
    assert back < 0.05 if dark else back > 0.8
    assert worst[0][0] >= CONTRAST, worst


def row(driver: Any, name: str) -> Any:
    return driver.find_element("xpath", f"//details[summary/bdi[text()='{name}']]")


def test_a_click_shows_shape_and_error(page: Page) -> None:
    driver = page(1280)
    layer = row(driver, "block2_add")
    facts = layer.find_element("tag name", "dl")
    assert not facts.is_displayed()
    layer.find_element("tag name", "summary").click()
    assert facts.is_displayed()
    for words in (
        "batch × 8 × 8 × 4 float32",
        "2.5e-06 of scale (6.1e-05 allowed)",
        "block1_relu, block2_bn",
    ):
        assert words in facts.text
    assert "a cut is here" in facts.text


def test_what_holds_others_has_its_facts(page: Page) -> None:
    holder = ChartLayer("stage0.block0", "Residual", "kept", ("trunk",), True, error=0.25, values=("v",))
    driver = page(1280, chart=Chart((*many(10), holder)))
    block = row(driver, "stage0.block0")
    assert "✂ cut here" in block.find_element("tag name", "summary").text
    about = block.find_element("css selector", ".about")
    about.find_element("tag name", "summary").click()
    assert "2.5e-01 of scale" in about.find_element("tag name", "dl").text


def test_blocks_fold_by_the_keyboard(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = page(1280)
    block, inside = row(driver, "block1"), row(driver, "block1_conv")
    assert inside.is_displayed()
    summary = block.find_element("tag name", "summary")
    for shown in (False, True):
        summary.send_keys(Keys.ENTER)
        assert inside.is_displayed() is shown
    layer = inside.find_element("tag name", "summary")
    layer.send_keys(Keys.SPACE)
    assert "148" in inside.find_element("tag name", "dl").text
    # Every layer can be reached by the tabulator.
    seen = set()
    driver.find_element("tag name", "body").send_keys(Keys.TAB)
    for _ in range(60):
        seen.add(driver.switch_to.active_element.text.partition("\n")[0].split(" ")[0])
        driver.switch_to.active_element.send_keys(Keys.TAB)
    assert {layer.name for layer in layers()} <= seen


def test_all_blocks_open_close_and_layers_are_found(page: Page) -> None:
    driver = page(1280, chart=Chart(many(200)))
    buttons = {b.text: b for b in driver.find_elements("css selector", "#tools button")}
    last = row(driver, "stage1.block9.layer9")
    assert not last.is_displayed()
    buttons["Open all blocks"].click()
    assert last.is_displayed()
    buttons["Close all blocks"].click()
    assert not last.is_displayed()
    driver.find_element("css selector", "#tools input").send_keys("stage1.block9.layer9")
    assert last.is_displayed()
    assert not row(driver, "stage0").is_displayed()


def edges(driver: Any) -> int:
    driver.execute_async_script("setTimeout(() => requestAnimationFrame(arguments[0]), 50)")
    return len(driver.find_elements("css selector", "#flow > svg > path"))


def test_edges_are_drawn_between_what_is_shown(page: Page) -> None:
    driver = page(1280)
    # Eight layers read one before, one reads two, and the layer that was taken out hangs by a dotted line.
    assert edges(driver) == sum(len(layer.reads) for layer in layers()) + 1
    row(driver, "block2").find_element("tag name", "summary").click()
    assert edges(driver) < sum(len(layer.reads) for layer in layers())


def test_without_scripts_the_page_is_whole(driver: Any, path: Path) -> None:
    path.write_text(document().as_html(), encoding="utf-8")
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(path.as_uri())
        text = driver.find_element("tag name", "main").text
        drawn = driver.find_elements("css selector", "#flow > svg")
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert drawn == []
    assert "PASSED" in text
    for layer in layers():
        assert layer.name in text


def test_two_thousand_layers_are_drawn(page: Page) -> None:
    start = time.monotonic()
    driver = page(1280, chart=Chart(many(2000)))
    driver.execute_script("for (const d of document.querySelectorAll('.block')) d.open = true;")
    assert edges(driver) > 1000
    assert len(driver.find_elements("css selector", "details.layer")) == 2000
    assert time.monotonic() - start < 120  # a bound against a hang: it takes two seconds
