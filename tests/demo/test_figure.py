"""The demo's figure tells right from wrong without colour, and shows what a model writes unchanged."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from observe_r1.demo.outcome import Card, draw_demo
from observe_r1.report.theme import DARK, LIGHT

PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
    r'<img src="([^"]+)"(?: width="\d+")? alt="[^"]+">\s*</picture>'
)


def test_right_and_wrong_are_marked_and_texts_stand_as_they_are(tmp_path, monkeypatch):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    card = Card(tmp_path / "a.png", "Cost in $x$?", "$2", "<observe> $\\frac </observe>", False, "It is $2.", True)
    levels = [{"objects": 1, "questions": 3, "before": 0.2, "after": 0.9}]
    summary = {"before": {"accuracy": 0.2}, "after": {"accuracy": 0.9}, "by_difficulty": levels}
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **how: drawn.append(figure) or save(figure, *args, **how)
    )
    draw_demo(summary, [card] * 3, tmp_path / "demo.png")
    for figure in drawn:
        left, right = figure.subfigs
        texts = [text.get_text() for text in left.axes[1].texts]
        assert texts == ["Cost in $x$?  ($2)", "✗ before", "<observe> $\\frac </observe>", "✓ after", "It is $2."]
        assert [bar.get_height() for bar in right.axes[0].patches] == [0.2, 0.9]
        assert (
            right.axes[0].get_xlabel() and right.axes[0].get_ylabel() and all(part._suptitle for part in (left, right))
        )
    light, dark = (Image.open(tmp_path / name).convert("L") for name in ("demo.png", "demo_dark.png"))
    assert len(drawn) == 2 and light.size == dark.size and light.width == 1440
    assert light.getpixel((1, 1)) == 255 and dark.getpixel((1, 1)) < 40


def contrast(color, paper):
    """WCAG 2's contrast ratio."""

    def luminance(hexes):
        parts = [int(hexes[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(color), luminance(paper)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_what_is_written_and_drawn_stands_out_on_its_paper(theme):
    assert contrast(theme.ink, theme.paper) > 7  # AAA for text
    for color in (theme.first, theme.second, theme.right, theme.wrong):
        assert contrast(color, theme.paper) > 3  # graphics
    assert contrast(theme.right, theme.paper) > 4.5 and contrast(theme.wrong, theme.paper) > 4.5


def test_every_figure_of_the_docs_is_there_for_light_and_dark_and_shown_so():
    root = Path(__file__).parents[2]
    shown = {}
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for dark, light in re.findall(PICTURE, page.read_text()):
            assert dark == light.replace(".png", "_dark.png")
            shown[(page.parent / light).resolve()] = (page.parent / dark).resolve()
        assert not re.search(r"!\[[^]]*\]\([^)]*\.png\)", page.read_text())
    files = {path.resolve() for path in (root / "docs").glob("*.png")}
    assert files == {*shown.keys(), *shown.values()}
    for light, dark in shown.items():
        assert Image.open(light).size == Image.open(dark).size
        assert (
            Image.open(light).convert("L").getpixel((1, 1)) > 240 > 40 > Image.open(dark).convert("L").getpixel((1, 1))
        )
