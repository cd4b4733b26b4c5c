"""The demo's result as one picture: what the model answered before and after, and its accuracy by difficulty."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from observe_r1.report.theme import Theme, on_both_papers


@dataclass(frozen=True, slots=True)
class Card:
    """One question with its picture, and the responses before and after training."""

    picture: Path
    question: str
    answer: str
    before: str
    before_correct: bool
    after: str
    after_correct: bool


def draw_demo(summary: dict[str, Any], cards: Sequence[Card], picture: Path) -> None:
    """Draw `cards` and `summary` (`before`, `after`, `by_difficulty`) into a PNG on light paper and one on dark."""
    for path, theme in on_both_papers(picture):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1), squeeze=False)[0]
        for axes, card in zip(left.subplots(len(cards), 2, width_ratios=(1, 3.6)), cards, strict=True):
            _draw_card(axes, card, theme)
        _draw_levels(right.subplots(), summary["by_difficulty"], theme)
        before, after = summary["before"]["accuracy"], summary["after"]["accuracy"]
        style: dict[str, Any] = {"weight": "bold", "fontsize": 12, "ha": "left"}
        right.suptitle(f"Accuracy on held-out questions: {before:.0%} → {after:.0%}", x=0.13, **style)
        left.suptitle("Look first, then reason: three held-out questions", x=0.01, **style)
        figure.savefig(path, dpi=120, metadata={"Software": None})


def _draw_card(axes: Sequence[Any], card: Card, theme: Theme) -> None:
    shown, written = axes
    with Image.open(card.picture) as picture:
        shown.imshow(picture.convert("RGB"), interpolation="nearest")
    for each in (shown, written):
        each.set_axis_off()
    # parse_math: a response may hold dollar signs, which are not ours to typeset.
    style: dict[str, Any] = {"va": "top", "fontsize": 8.5, "parse_math": False, "transform": written.transAxes}
    written.text(0, 1.04, fill(f"{card.question}  ({card.answer})", 80), weight="bold", **style)
    for height, label, text, correct in (
        (0.74, "before", card.before, card.before_correct),
        (0.32, "after", card.after, card.after_correct),
    ):
        mark, color = ("✓", theme.right) if correct else ("✗", theme.wrong)
        written.text(0, height, f"{mark} {label}", color=color, weight="bold", **style)
        written.text(0.17, height, fill(text, 72, break_on_hyphens=False), **style)


def _draw_levels(axes: Any, levels: Sequence[dict[str, Any]], theme: Theme) -> None:
    places = range(len(levels))
    for shift, name, color in ((-0.2, "before", theme.muted), (0.2, "after", theme.first)):
        heights = [level[name] for level in levels]
        axes.bar([x + shift for x in places], heights, width=0.4, color=color, label=f"{name} training")
    axes.set_xticks(list(places), [str(level["objects"]) for level in levels])
    axes.set(xlabel="objects in the picture", ylabel="accuracy", ylim=(0, 1.12))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper center", ncols=2)
