"""The page in a real browser: it draws, answers, copies, and runs nothing that was written into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from devtools import Browser, find_browser
from report_samples import HOSTILE, SPEC, samples

from dynamoc.launcher.analysis.pools import PoolPoint
from dynamoc.launcher.report.page import to_html
from dynamoc.launcher.report.view import View, make_view

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_browser() is None, reason="Chromium is not installed"),
]


def sample_view() -> View:
    import msgspec

    results = samples()
    view = make_view(results, results.limits, 2.5, Path("/reports"))
    pools = {"prefill": (PoolPoint(1, "1", 1024.0, 100.0, 1.0),), "decode": (PoolPoint(1, "8", 1088.0, 40.0, 8.0),)}
    return msgspec.structs.replace(view, **pools)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_html(sample_view()))
    with Browser() as browser:
        browser.open(path)
        yield browser


def text(browser: Browser, selector: str) -> str:
    found: str = browser.run(f"document.querySelector({selector!r}).innerText")
    return found


def test_everything_is_drawn_and_nothing_went_wrong(browser: Browser) -> None:
    browser.run("document.getElementById('cost').scrollIntoView()")
    browser.run("new Promise((done) => setTimeout(done, 500))")
    drawn = browser.run(
        "[...document.querySelectorAll('.chart')].map((one) => one.querySelectorAll('path.point').length)"
    )

    assert browser.faults() == []
    assert len(drawn) == 3
    assert min(drawn) >= 5


def test_texts_stay_texts(browser: Browser) -> None:
    assert browser.run("document.title") == f"sample {HOSTILE}: report"
    assert browser.run("document.querySelectorAll('img, iframe').length") == 0
    assert browser.run(
        "[...document.querySelectorAll('#points button')].filter((b) => b.textContent.includes('<img')).length"
    )
    assert HOSTILE[:20] in text(browser, "section[aria-labelledby=failed-heading]")


def test_an_injected_script_does_not_run(browser: Browser) -> None:
    """The page's own policy stops what its escaping did not have to."""
    browser.run(
        "(() => { const s = document.createElement('script'); s.text = 'window.broken = 1';"
        "document.body.append(s); })()"
    )

    assert browser.run("window.broken === undefined")
    assert any("Content Security Policy" in fault for fault in browser.faults())
    browser.events.clear()


def test_a_point_is_chosen_by_its_button_and_by_its_mark(browser: Browser) -> None:
    browser.run("document.querySelector('button[data-point=\"1\"]').click()")

    assert "replicas full" in text(browser, "#detail")
    assert text(browser, "#detail pre") == SPEC.rstrip("\n") or text(browser, "#detail pre") == SPEC
    assert browser.run("document.querySelector('#detail a').getAttribute('href')") == "./../runs/a%20b/x"
    assert browser.run("document.querySelector('tr.chosen button').textContent") == "replicas full"
    browser.run("scrollTo(0, 0)")
    mark = "document.querySelector('#frontier path.point').getBoundingClientRect()"
    place = {axis: browser.run(f"{mark}.{axis} + 3") for axis in ("x", "y")}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        browser.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        browser.run("new Promise((done) => setTimeout(done, 150))")
    assert text(browser, "#detail h3") == "replicas behind"


def test_the_table_sorts_and_filters(browser: Browser) -> None:
    rows = "[...document.querySelectorAll('#points tbody tr')].map((row) => row.cells[0].textContent)"
    speed = "[...document.querySelectorAll('#points thead button')].find((b) => b.textContent === 'tok/s/user')"
    browser.run(f"{speed}.click()")
    down = browser.run(rows)
    browser.run(f"{speed}.click()")

    assert len(down) == 6
    assert down[-2:] == ["replicas full", "replicas behind"]
    assert browser.run(rows)[:2] == ["replicas behind", "replicas full"]
    assert browser.run(f"{speed}.parentElement.getAttribute('aria-sort')") == "ascending"
    browser.run(
        "(() => { const f = document.getElementById('filters'); f.elements.standing.value = 'suspect';"
        "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert browser.run(rows) == ["replicas limited"]
    assert text(browser, "#count") == "1 of 6 points"


def test_the_calculator_answers_as_python_does(browser: Browser) -> None:
    """By hand: 10/s at 90 % of 10/s a prefill worker and 8 / (128 * 0.04) = 1.5625/s a decode worker: 2P8D."""
    browser.run(
        "(() => { const f = document.getElementById('capacity'); f.elements.requests_per_s.value = 10;"
        "f.elements.isl.value = 1024; f.elements.osl.value = 128; f.dispatchEvent(new Event('input')); })()"
    )
    answer = text(browser, "#capacity-answer")

    assert "2P8D on 10 GPUs, $25/h" in answer
    assert "decode binds" in answer
    assert "replicas <" in answer or "replicas fast" in answer


def test_it_is_used_by_keyboard(browser: Browser) -> None:
    """Everything that can be clicked can be reached: a button, a link, a field."""
    clickable = browser.run(
        "[...document.querySelectorAll('[onclick], .chosen, th')].every((e) => !e.onclick || e.tabIndex >= 0)"
    )
    unlabelled = browser.run("[...document.querySelectorAll('input, select')].filter((e) => !e.labels.length).length")

    assert clickable
    assert unlabelled == 0


def test_it_prints_in_pages_of_paper(browser: Browser) -> None:
    printed = browser.printed()

    assert printed.startswith(b"%PDF")
    assert 1 <= printed.count(b"/Type /Page\n") <= 12
    assert browser.faults() == []
