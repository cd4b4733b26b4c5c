"""The site of the docs: builds strictly, stands on its own, and shows every page and picture."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Tab, open_browser
from doc_pages import ROOT


def build(folder, config=ROOT / "mkdocs.yml"):
    """Build as `make docs` does; under `--quiet` mkdocs would not count warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_can_be_found(site):
    start = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file()
        assert f'href="{page.stem}.html"' in start or page.stem == "index", f"{page.name} is not in the navigation"


def test_nothing_comes_from_the_network(site):
    """Scripts, styles, fonts and pictures lie beside the pages, so that the site can be read from the disk."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r'<(?:script|img|source|iframe)\b[^>]*?\b(?:src|srcset)="([^"]+)"', page.read_text())
        loaded += [tag[1] for tag in re.finditer(r'<link\b[^>]*?\bhref="([^"]+)"[^>]*>', page.read_text())]
        for address in loaded:
            assert "//" not in address, (page.name, address)
            place = address.partition("#")[0].partition("?")[0]
            if page.name != "404.html" and place:  # which is shown for any address
                assert (page.parent / place).exists(), (page.name, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text())


def test_pictures_follow_the_switch_between_light_and_dark(site):
    shown = re.findall(r'src="([\w/]+\.png)#only-(light|dark)"', (site / "ladder.html").read_text())
    assert shown and shown.count(("ladder_share.png", "light")) == shown.count(("ladder_share_dark.png", "dark")) == 1
    assert "<picture" not in "".join(page.read_text() for page in site.rglob("*.html"))


def test_docstrings_are_in_the_reference(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for line in ("Train by reinforcement learning, as observe-r1 train does.", "Added to the reward of each group"):
        assert line in text


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [1400, 390])
def test_the_search_finds_words_on_a_page_from_the_disk(site, browser, width):
    tab = Tab(browser, site.as_uri(), page="/benchmarks/index.html", width=width)
    if width < 960:  # there, a magnifying glass opens the search
        tab.page.click("label.md-header__button[for=__search]")
    tab.page.locator(".md-search__input").press_sequentially("dynamic weight")
    tab.page.locator(".md-search-result__item", has_text="Return the weight of each group").click()
    tab.page.wait_for_url("**/api.html?h=*", wait_until="domcontentloaded")
    assert "dynamic_weight" in tab.page.url.partition("#")[2]
    tab.close()
    assert tab.complaints == []


def test_every_page_fits_a_phone_and_complains_of_nothing(site, browser):
    tab = Tab(browser, site.as_uri(), page="/index.html", width=390)
    for page in sorted({*site.rglob("*.html")} - {site / "404.html"}):
        tab.page.goto(page.as_uri(), wait_until="domcontentloaded")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, page.name
    tab.close()
    assert tab.complaints == []


def test_a_broken_link_is_refused(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[there](nowhere.md) [here](#nowhere)")
    settings = (ROOT / "mkdocs.yml").read_text()
    settings = re.sub(
        r"^(hooks|nav|extra_css|plugins):.*?(?=^\w)", "", settings + "\nx:", flags=re.MULTILINE | re.DOTALL
    )
    (tmp_path / "mkdocs.yml").write_text(settings.removesuffix("x:"))
    done = build(tmp_path / "site", Path(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0 and "nowhere" in done.stderr
