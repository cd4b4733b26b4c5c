"""The demo's result as one picture: the learning curve, and accuracy by difficulty before and after."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first: there may be no display)

_BEFORE, _AFTER = "#b8bfc8", "#2563a8"


def draw_demo(summary: dict[str, Any], metrics: Path, picture: Path) -> None:
    """Draw `summary` (see `observe_r1.cli.demo`) and the run's `metrics.jsonl` into a PNG."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="ascii").splitlines()]
    figure, (curve, bars) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=(1, 1.15), layout="constrained")
    _draw_curve(curve, rows)
    _draw_levels(bars, summary["by_difficulty"])
    before, after = summary["before"]["accuracy"], summary["after"]["accuracy"]
    figure.suptitle(f"Held-out accuracy {before:.0%} → {after:.0%} after {len(rows)} steps", fontsize=13)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def smoothed(values: Sequence[float], span: int = 9) -> list[float]:
    """Return the mean of each value and its neighbours, `span` of them in all where there are so many."""
    half = span // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _draw_curve(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    steps = [row["step"] for row in rows]
    accuracy = [row["reward/accuracy"] for row in rows]
    axes.plot(steps, accuracy, color=_BEFORE, linewidth=1, label="a step's responses")
    axes.plot(steps, smoothed(accuracy), color=_AFTER, linewidth=2, label="mean of nine steps")
    axes.set(xlabel="step", ylabel="accuracy of sampled responses", ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    _tidy(axes)


def _draw_levels(axes: Any, levels: Sequence[dict[str, Any]]) -> None:
    places = range(len(levels))
    for shift, name, color in ((-0.2, "before", _BEFORE), (0.2, "after", _AFTER)):
        heights = [level[name] for level in levels]
        axes.bar([x + shift for x in places], heights, width=0.4, color=color, label=name)
    axes.set_xticks(list(places), [str(level["objects"]) for level in levels])
    axes.set(xlabel="objects in the picture", ylabel="held-out accuracy", ylim=(0, 1.12))
    axes.legend(frameon=False, loc="upper right", ncols=2)
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
