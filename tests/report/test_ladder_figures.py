"""The figures of a ladder: heights by the numbers, and nothing over anything else, whatever the ladder's shape."""

from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from built_ladder import build, measured, row
from matplotlib.figure import Figure
from PIL import Image

from observe_r1.report import ladder_figures
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_figures import FIGURES, draw_figure
from observe_r1.report.ladder_summary import summarize_ladder


def mixed(tries, count):
    """Rows of every level, each level in its own slot and the next."""
    levels = [i % (tries + 1) for i in range(count)]
    return [row(i, correct=tries - d, tries=tries, slot=d + i // (tries + 1) % 2) for i, d in enumerate(levels)]


def falling():
    """Rows of which the easiest are by far the most, and the longest."""
    return [row(i, correct=c, slot=8 - c, complexity=100.0 * c + 50) for c in range(9) for i in range(1 + c * c)]


def summary_of(folder, rows, tries=8, more=()):
    build(folder, ladder=rows, measured=[measured(each, tries) for each in (*rows, *more)])
    return summarize_ladder(open_build(folder))


def drawn(monkeypatch, name, summary, *, dark=False):
    """The figure as it was laid out."""
    figures = []
    monkeypatch.setattr(ladder_figures, "Figure", lambda **options: figures.append(Figure(**options)) or figures[-1])
    assert Image.open(BytesIO(draw_figure(name, summary, dark=dark))).size == (1008, 684)
    figures[0].draw_without_rendering()  # saving was at another resolution
    return figures[0], figures[0].axes[0]


def test_bars_are_as_high_as_the_shares(tmp_path, monkeypatch):
    rows = mixed(8, 57)
    summary = summary_of(tmp_path, rows, more=[row(1000 + i, correct=0) for i in range(9)])
    _, axes = drawn(monkeypatch, "share", summary)
    assert [bar.get_height() for bar in axes.patches] == [level.count / 57 for level in summary.levels]
    heights = [segment[0][1] for segment in axes.collections[0].get_segments()]
    assert heights == pytest.approx([level.measured / 66 for level in summary.levels])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["in the ladder (57)", "among all measured (66)"]
    _, axes = drawn(monkeypatch, "slots", summary)
    mix = np.array(summary.slots)
    bars = np.array([bar.get_height() for bar in axes.patches]).reshape(9, -1).T
    assert bars == pytest.approx(mix / mix.sum(axis=1, keepdims=True))
    sizes = [label.get_text().split("\n") for label in axes.get_xticklabels()]
    assert sizes == [[str(slot), str(mix[slot].sum())] for slot in range(0, 10, 2)]


def test_lines_are_at_the_means_and_end_where_there_are_no_questions(tmp_path, monkeypatch):
    rows = [row(i, correct=(8, 7, 3, 0)[i % 4]) for i in range(40)]
    _, axes = drawn(monkeypatch, "complexity", summary_of(tmp_path, rows))
    for line, column in zip(axes.lines, ("complexity", "complexity_correct"), strict=True):
        for level, height in enumerate(line.get_ydata()):
            own = [each[column] for each in rows if each["difficulty"] == level / 8 and each[column] is not None]
            assert height == pytest.approx(np.mean(own)) if own else np.isnan(height)


SHAPES = {
    "one": (8, mixed(8, 1)),
    "one try": (1, mixed(1, 9)),
    "falling": (8, falling()),
    "many unsolved": (8, [*mixed(8, 90), *(row(i, correct=0, slot=8) for i in range(1000, 1200))]),
    "20,000": (8, mixed(8, 20_000)),
    "12 tries": (12, mixed(12, 2_000)),
    "32 tries": (32, mixed(32, 700)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_stands_on_anything_else(tmp_path, monkeypatch, shape):
    tries, rows = SHAPES[shape]
    summary = summary_of(tmp_path, rows, tries)
    for name in FIGURES:
        figure, axes = drawn(monkeypatch, name, summary)
        values = [label.get_text() for label in axes.yaxis.get_ticklabels()]
        assert len(set(values)) == len(values)
        numbers = [text for text in axes.texts if text.get_text()]
        ticks = [*axes.xaxis.get_ticklabels(), *axes.yaxis.get_ticklabels()]
        texts = [*ticks, *numbers, axes._left_title, axes.xaxis.label, axes.get_legend()]
        boxes = [text.get_window_extent().padded(-0.5) for text in texts]
        for one, other in combinations(range(len(texts)), 2):
            assert not boxes[one].overlaps(boxes[other]), (texts[one], texts[other])
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(boxes[-1].overlaps(bar.get_window_extent()) for bar in axes.patches)
        for line in axes.lines:
            points = axes.transData.transform(line.get_xydata())
            assert not any(boxes[-1].contains(*point) for point in points)


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_in_bars_are_readable(tmp_path, monkeypatch, dark):
    def luminance(color):  # WCAG 2
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    _, axes = drawn(monkeypatch, "slots", summary_of(tmp_path, mixed(8, 90)), dark=dark)
    for bar, text in zip(axes.patches, axes.texts, strict=True):
        low, high = sorted((luminance(bar.get_facecolor()), {"black": 0, "white": 1}[text.get_color()]))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_number_stands_on_its_bar_where_the_line_is_far_above(tmp_path, monkeypatch):
    unsolved = [row(1000 + i, correct=0) for i in range(100)]
    _, axes = drawn(monkeypatch, "share", summary_of(tmp_path, mixed(8, 90), more=unsolved))
    assert axes.texts[-1].xy == (8, axes.patches[8].get_height())
