"""The demo's result as one picture: what the model answered before and after, and its accuracy by difficulty."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_BEFORE, _AFTER, _WRONG, _RIGHT = "#b8bfc8", "#2563a8", "#b3261e", "#1b7f3b"


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
    """Draw `cards` and `summary` (`before`, `after`, `by_difficulty`) into a PNG."""
    figure = plt.figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    for axes, card in zip(left.subplots(len(cards), 2, width_ratios=(1, 3.6)), cards, strict=True):
        _draw_card(axes, card)
    _draw_levels(right.subplots(), summary["by_difficulty"])
    before, after = summary["before"]["accuracy"], summary["after"]["accuracy"]
    right.suptitle(f"Accuracy on held-out questions: {before:.0%} → {after:.0%}")
    left.suptitle("Look first, then reason")
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _draw_card(axes: Sequence[Any], card: Card) -> None:
    shown, written = axes
    shown.imshow(plt.imread(card.picture), interpolation="nearest")
    for each in (shown, written):
        each.set_axis_off()
    # parse_math: a response may hold dollar signs, which are not ours to typeset.
    style: dict[str, Any] = {"va": "top", "fontsize": 8.5, "parse_math": False, "transform": written.transAxes}
    written.text(0, 1.0, fill(f"{card.question}  ({card.answer})", 80), weight="bold", **style)
    for height, label, text, correct in (
        (0.78, "before", card.before, card.before_correct),
        (0.36, "after", card.after, card.after_correct),
    ):
        mark, color = ("✓", _RIGHT) if correct else ("✗", _WRONG)
        written.text(0, height, f"{mark} {label}", color=color, weight="bold", **style)
        written.text(0.17, height, fill(text, 72, break_on_hyphens=False), **style)


def _draw_levels(axes: Any, levels: Sequence[dict[str, Any]]) -> None:
    places = range(len(levels))
    for shift, name, color in ((-0.2, "before", _BEFORE), (0.2, "after", _AFTER)):
        heights = [level[name] for level in levels]
        axes.bar([x + shift for x in places], heights, width=0.4, color=color, label=name)
    axes.set_xticks(list(places), [str(level["objects"]) for level in levels])
    axes.set(xlabel="objects in the picture", ylabel="accuracy", ylim=(0, 1.15))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", ncols=2)
