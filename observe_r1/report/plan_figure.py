"""A capacity plan as a picture: seconds of a step and GPU-hours by part, what bounds them, which layout wins when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from observe_r1.cluster.plan import Plan
from observe_r1.cluster.plan_schedule import Scheduled, efficiencies
from observe_r1.report.theme import Theme, on_both_papers

_BOUNDS = {"arithmetic": "o", "memory": "s", "link": "^", "network": "D"}
"""Markers of what bounds a part."""
_HEAD = 78
"""Points between axes and title, for the longest legend."""


def draw_plan(image: Path, plans: Sequence[Plan], schedules: Mapping[int, Mapping[str, Scheduled]], title: str) -> None:
    """Draw into `image` and, for dark pages, into the file with `_dark` in its name.

    Args:
        image: A PNG or an SVG file.
        plans: That fit, by number of GPUs.
        schedules: By number of GPUs and way; see `best_schedules`.
        title: Model, GPU and what else is the same for all.
    """
    for path, theme in on_both_papers(image):
        figure = Figure(figsize=(13.5, 5.0), layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12))
        seconds, hours, winners = figure.subplots(1, 3)
        _draw_seconds(seconds, plans, theme)
        _draw_hours(hours, plans, theme)
        _draw_efficiency(winners, schedules, theme)
        for axes in (seconds, hours, winners):
            axes.set_xlabel("GPUs")
        figure.suptitle(title, x=0.012, ha="left")
        metadata = {"Date": None} if image.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=120, metadata=metadata)


def _parts(plans: Sequence[Plan], theme: Theme) -> dict[str, Any]:
    names = list(dict.fromkeys(name for plan in plans for name in plan.seconds))
    low, high = theme.levels
    return {
        name: colormaps["viridis"](low + (high - low) * index / max(1, len(names) - 1))
        for index, name in enumerate(names)
    }


def _draw_seconds(axes: Any, plans: Sequence[Plan], theme: Theme) -> None:
    gpus = [plan.layout.gpus for plan in plans]
    axes.plot(gpus, [plan.step for plan in plans], color=theme.ink, lw=2.4, label="step")
    for name, color in _parts(plans, theme).items():
        with_it = [plan for plan in plans if name in plan.seconds]
        axes.plot([p.layout.gpus for p in with_it], [p.seconds[name] for p in with_it], color=color, label=name)
        for plan in with_it:
            axes.plot(plan.layout.gpus, plan.seconds[name], _BOUNDS[plan.bound[name]], color=color)
    used = {plan.bound[name] for plan in plans for name in plan.seconds}
    looks: dict[str, Any] = {"ls": "none", "color": theme.ink, "ms": 5}
    marks = [
        Line2D([], [], marker=marker, label=f"by {name}", **looks) for name, marker in _BOUNDS.items() if name in used
    ]
    lines, _ = axes.get_legend_handles_labels()
    _title(axes, "Seconds of a step, and what bounds them", lines + marks)
    axes.set_yscale("log")
    axes.grid(visible=True, axis="both")
    _gpu_axis(axes, gpus)
    axes.yaxis.set_major_formatter("{x:,.10g}")


def _draw_hours(axes: Any, plans: Sequence[Plan], theme: Theme) -> None:
    places = range(len(plans))
    bottom = [0.0] * len(plans)
    for name, color in _parts(plans, theme).items():
        hours = [plan.gpu_hours * plan.seconds.get(name, 0.0) / sum(plan.seconds.values()) for plan in plans]
        axes.bar(places, hours, bottom=bottom, width=0.78, color=color, label=name)
        bottom = [low + more for low, more in zip(bottom, hours, strict=True)]
    axes.set_xticks(places, [f"{plan.layout.gpus:,}" for plan in plans], fontsize=8.5)
    axes.yaxis.set_major_formatter("{x:,.10g}")
    _title(axes, "GPU-hours of the run", axes.get_legend_handles_labels()[0])


def _draw_efficiency(axes: Any, schedules: Mapping[int, Mapping[str, Scheduled]], theme: Theme) -> None:
    ways = list(dict.fromkeys(name for each in schedules.values() for name in each))
    colors, shares = (theme.ink, theme.muted, theme.first, theme.second), efficiencies(schedules)
    for way, color, marker in zip(ways, colors, "Dos^", strict=False):
        across = [gpus for gpus, each in shares.items() if way in each]
        axes.plot(across, [shares[gpus][way] for gpus in across], marker=marker, color=color, label=way, clip_on=False)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(visible=True, axis="both")
    _gpu_axis(axes, list(schedules))
    _title(axes, "Efficiency by layout, simulated", axes.get_legend_handles_labels()[0])


def _gpu_axis(axes: Any, gpus: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(gpus, [f"{each:,}" for each in gpus], fontsize=8.5)
    axes.minorticks_off()


def _title(axes: Any, title: str, entries: Sequence[Any]) -> None:
    """Write a title, all at one height, and the legend right under it."""
    axes.set_title(title, pad=_HEAD + 7)
    place = axes.transAxes + ScaledTranslation(0, _HEAD / 72, axes.figure.dpi_scale_trans)
    axes.legend(
        handles=entries, ncols=2, loc="upper left", bbox_to_anchor=(0, 1), bbox_transform=place, borderaxespad=0.2
    )
