"""The page of runs in headless Chromium: what a reader sees, filters and hides; nothing else happens."""

import re
import signal
import subprocess
import sys

import pytest
from browser import Tab, open_browser
from built_ladder import build, row
from recorded_run import GROUP, record_run, step_metrics, write_metrics

from observe_r1.report.ladder_page import write_ladder_report
from observe_r1.report.pages import clean
from observe_r1.report.run_page import render_report, write_report

_LOOKS = """() => {
  const known = {
    "rgb(245, 246, 248)": "light", "rgb(13, 17, 23)": "dark", "rgb(31, 35, 40)": "light", "rgb(230, 237, 243)": "dark",
  };
  const inks = [...document.querySelectorAll("figure svg text")].map((each) => getComputedStyle(each).fill);
  const figures = [...document.querySelectorAll("picture")].map((each) =>
    each.querySelector("img").currentSrc === each.querySelector("source").srcset ? "dark" : "light");
  if (inks.length + figures.length < 3) throw new Error("no charts");
  return [getComputedStyle(document.body).backgroundColor, ...inks].map((each) => known[each]).concat(figures);
}"""
"""Light or dark: of the page's ground, of the text of its charts, of its figures."""

HOSTILE = [
    "<script>alert(1)</script></script><script>alert(2)</script>",
    "</observe></p><img src=x onerror=alert(1)><svg onload=alert(1)>",
    "<!--<script>\u2028</textarea></style></title><iframe src=javascript:alert(1)>",
    "\\u003cscript>alert(1)\x00\ud800 \u202e{{7*7}}${alert(1)}",
]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one run, and one of two."""
    folder = tmp_path_factory.mktemp("runs")
    first = record_run(folder / "first", steps=12)
    second = record_run(folder / "second", steps=12, held_out=False, quality=0.5)
    third = record_run(folder / "third", steps=2)
    write_report([first], folder / "one.html")
    write_report([first, second], folder / "two.html")
    write_report([second, first, third], folder / "three.html")
    build(folder / "ladder", ladder=[row(1), row(2, correct=2)])
    write_ladder_report(folder / "ladder")
    return folder


@pytest.fixture
def open_page(browser, pages):
    """Returns a function that opens a page; it must not have complained in the end."""
    tabs = []

    def opened(name, **look):
        address = name if name.startswith("http") else (pages / name).as_uri()
        tabs.append(Tab(browser, address, **look))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()
    assert [complaint for tab in tabs for complaint in tab.complaints] == []


def test_filters_and_search_choose_among_the_responses(open_page):
    tab = open_page("one.html")
    page = tab.page
    assert tab.count() == (24 + 8, 24 * GROUP + 8 * 2)
    assert tab.visible("article") == 12 and tab.visible("article img") == 12
    page.click("#more")
    assert tab.visible("article") == 24

    page.select_option("[name=part]", "training")
    assert tab.count() == (24, 96)
    page.select_option("[name=verdict]", "wrong")  # of levels 0, 1/4, 1/2, 3/4: 0 to 3 of four are wrong, 6 groups each
    assert tab.count() == (18, 6 * (1 + 2 + 3))
    assert tab.visible(".response.right") == 0
    page.fill("[name=easiest]", "0.5")
    page.fill("[name=hardest]", "0.5")
    assert tab.count() == (6, 12)
    page.fill("[name=from]", "8")
    page.fill("[name=to]", "8")  # questions 14 and 15, both of difficulty 1/2
    assert tab.count() == (2, 4)

    page.reload()
    assert tab.count() == (2, 4) and page.input_value("[name=from]") == "8"
    page.click("#clear")
    assert tab.count() == (32, 112) and page.evaluate("location.hash") == ""

    page.check("[name=bonus]")
    assert tab.count() == (24, 24) and tab.visible(".chip.bonus") == tab.visible(".response")
    page.uncheck("[name=bonus]")
    page.fill("[name=search]", "SHAPES 17")
    assert tab.count() == (1, GROUP)
    card = page.inner_text("article")
    assert all(part in card for part in ("step 9", "difficulty 0.5", "2 of 4 right", "How many in 17?", "Answer: 17"))
    assert all(part in card for part in ("accuracy 1", "format 0.5", "bonus +0.2", "advantage +1", "20 tokens"))
    page.click("button.all")
    assert tab.visible(".response") == GROUP and tab.visible("button.all") == 0
    assert page.inner_text(".response .observe:not(.tag)").strip() == "shapes 17"
    assert page.inner_text(".response .answer:not(.tag)").strip() == "17"
    page.fill("[name=search]", "no such words")
    assert tab.count() == (0, 0) and not page.is_visible("#more")


def test_runs_are_overlaid_and_hidden_one_by_one(open_page):
    tab = open_page("two.html")
    first, second = '[id="run-0-reward-mean"] path', '[id="run-1-reward-mean"] path'
    assert (tab.visible(first), tab.visible(second)) == (1, 1)
    colours = [tab.page.eval_on_selector(each, "line => getComputedStyle(line).stroke") for each in (first, second)]
    assert colours == ["rgb(0, 114, 178)", "rgb(213, 94, 0)"]
    heights = [tab.page.eval_on_selector(each, "line => line.getBoundingClientRect().top") for each in (first, second)]
    assert heights[0] > heights[1] + 20  # the second run's reward is higher by a half

    tab.page.uncheck("#show-run-1")
    assert (tab.visible(first), tab.visible(second)) == (1, 0)
    assert tab.visible("figure.only-run-0") == 2 and tab.visible("figure.only-run-1") == 0
    tab.page.select_option("[name=run]", "1")
    assert tab.count() == (24, 96)


def test_columns_are_hidden_with_their_run(open_page):
    tab = open_page("three.html")
    table = "table:has(th:text-is('held-out questions')) tr:first-child th:visible"
    assert tab.page.locator(table).all_inner_texts() == ["held-out questions", "first", "third", "first minus third"]
    tab.page.uncheck("#show-run-2")
    assert tab.page.locator(table).all_inner_texts() == ["held-out questions", "first"]
    shown = tab.page.locator("table:has(th:text-is('setting')) tr:first-child th:visible").all_inner_texts()
    assert shown == ["setting", "second", "first"]
    for kind in ("level", "share"):  # bars, and the figures on them
        assert tab.visible(f"svg [id^='run-1-{kind}-']") > 0 and tab.visible(f"svg [id^='run-2-{kind}-']") == 0


@pytest.mark.parametrize("name", ["one.html", "ladder/ladder.html"])
@pytest.mark.parametrize("dark", [False, True], ids=["light system", "dark system"])
def test_the_button_changes_the_look_and_is_remembered(open_page, name, dark):
    tab = open_page(name, dark=dark)
    page, looks = tab.page, ["dark", "light"] if dark else ["light", "dark"]

    def shows(look, offered):
        """Whether ground, charts and figures all have that look, and the button offers the other one."""
        for _ in range(100):  # a figure comes a moment later
            if set(page.evaluate(_LOOKS)) == {look}:
                return page.inner_text("#look").lower() == offered
            page.wait_for_timeout(50)
        return False

    assert shows(*looks)
    page.click("#look")
    assert shows(*looks[::-1])
    page.reload()
    assert shows(*looks[::-1])
    page.click("#look")
    assert shows(*looks)
    page.emulate_media(color_scheme=looks[1])  # once the choice equals the system's look, the page follows the system
    assert shows(*looks[::-1])


@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_the_page_is_light_or_dark_and_fits_a_phone(open_page, name):
    paper, ink = {}, {}
    for dark in (False, True):
        tab = open_page(name, width=390, dark=dark)
        paper[dark] = tab.page.eval_on_selector("body", "each => getComputedStyle(each).backgroundColor")
        ink[dark] = tab.page.eval_on_selector("figure text", "each => getComputedStyle(each).fill")
        widths = tab.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1] == 390
        assert tab.visible(".narrow svg") == tab.page.locator(".narrow").count() > 0
        shown = "all.filter(each => each.getClientRects().length > 0)"
        pixels = (
            "parseFloat(getComputedStyle(each).fontSize) * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)"
        )
        sizes = tab.page.eval_on_selector_all("figure svg text", f"all => {shown}.map(each => {pixels})")
        assert min(sizes) >= 8
    assert (ink[False], ink[True]) == ("rgb(31, 35, 40)", "rgb(230, 237, 243)")
    assert paper[False] != paper[True]


def test_what_a_model_writes_runs_nothing(browser, tmp_path):
    folder = record_run(tmp_path / "run", steps=2, texts=HOSTILE)
    (tmp_path / "page.html").write_text(render_report([folder]), encoding="utf-8")
    tab = Tab(browser, (tmp_path / "page.html").as_uri())
    page = tab.page
    page.select_option("[name=part]", "training")
    assert tab.count() == (4, 4 * GROUP)
    asked = page.eval_on_selector_all(".question", "all => all.map(each => each.textContent)")
    assert sorted(asked) == sorted(clean(text.replace("\ud800", "")) for text in HOSTILE)
    said = page.eval_on_selector_all(".response-text", "all => all.map(each => each.textContent)")
    assert all(any(clean(text) in each for each in said) for text in HOSTILE)
    assert page.locator("article :is(iframe, script, style, svg, textarea), img[src=x]").count() == 0
    assert tab.complaints == []
    with page.expect_console_message():
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=document.title=1>')")
    assert page.title() == "run"  # even what would become HTML is refused by the page's policy, which says so
    assert tab.complaints and all("Content Security Policy" in each for each in tab.complaints)
    tab.close()


def test_a_served_page_refreshes_itself_keeps_its_filters_and_ends_with_ctrl_c(browser, tmp_path):
    folder = record_run(tmp_path / "run", steps=4)
    command = [sys.executable, "-m", "observe_r1.cli.main", "report", str(folder), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            said = serving.stdout.readline()
            tab = Tab(browser, re.search(r"http://127\.0\.0\.1:\d+/", said)[0])
            tab.page.select_option("[name=verdict]", "wrong")
            tab.page.evaluate("document.activeElement.blur()")
            counted = tab.count()
            assert "4 steps, starting" in tab.page.text_content("body")
            write_metrics(folder / "metrics.jsonl", 5, step_metrics(5))
            tab.page.get_by_text("5 steps, starting").wait_for(timeout=20_000)
            assert tab.page.input_value("[name=verdict]") == "wrong" and tab.count() == counted
            other = tab.page.request.get(f"{tab.page.url.partition('#')[0]}version", headers={"Host": "example.org"})
            assert other.status == 403
            tab.close()
            assert tab.complaints == []
        finally:
            serving.send_signal(signal.SIGINT)
        assert serving.stdout.read() == "ended\n" and serving.wait() == 0
