"""`observe-r1 plan`: what a run takes, as tables or as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from observe_r1.cluster.gpus import gpu_named
from observe_r1.cluster.plan import SWEEP, Plan, plan
from observe_r1.cluster.plan_memory import GIB
from observe_r1.cluster.plan_schedule import WAYS, Scheduled, attempt, best_schedules, efficiencies
from observe_r1.cluster.shape import read_shape
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError
from observe_r1.run.progress import Progress


def run(settings: PlanSettings, view: Progress) -> tuple[int, str]:
    """Print the plan; exit code 2 if the run does not fit.

    Raises:
        UserError: no plan can be made of these settings.
    """
    gpu = gpu_named(settings.plan.gpu)
    if settings.cluster.address is not None and settings.cluster.gpus is None:
        raise UserError("a plan asks no cluster how many GPUs it has: give cluster.gpus")
    picture = settings.plan.picture
    if picture and not picture.endswith((".png", ".svg")):
        raise UserError(f"plan.picture = {picture!r}: give a name that ends in .png or .svg")
    shape = read_shape(settings.model)
    asked = plan(settings, shape, settings.cluster.gpus or 1)
    sweep = [each for each in (attempt(settings, shape, gpus) for gpus in SWEEP) if each is not None]
    schedules = {gpus: best_schedules(settings, shape, gpus) for gpus in SWEEP}
    schedules = {gpus: ways for gpus, ways in schedules.items() if ways}
    if picture:
        _draw(Path(picture), settings, [each for each in sweep if not each.why], schedules)
    view.close()
    if settings.plan.json_summary:
        summary: dict[str, Any] = {"gpu": gpu.title, "plan": _plain(asked), "sweep": [_plain(each) for each in sweep]}
        summary |= {
            "schedules": {gpus: {way: asdict(each) for way, each in ways.items()} for gpus, ways in schedules.items()}
        }
        print(json.dumps(summary))
        return 2 if asked.why else 0, ""
    console = Console()
    console.print(_memory(asked, gpu.memory))
    if not asked.why:  # without room for its cache an engine samples nothing, in no time that means anything
        console.print(_times(asked))
    console.print(_sweep(sweep, gpu.dollars))
    if schedules:
        console.print(_schedules(schedules))
    if asked.why:
        fit = next((made.layout.gpus for made in sweep if not made.why), None)
        console.print(
            f"does not fit: {asked.why}. "
            + (f"{fit:,} such GPUs fit: --cluster.gpus {fit}; " if fit else "No number of such GPUs fits; ")
            + "docs/memory.md says what takes less, as the recipes qwen2_5_vl_3b_80gb and qwen2_5_vl_3b_24gb do",
            highlight=False,
            soft_wrap=True,
        )
        return 2, ""
    console.print(
        f"fits; largest optimizer.tokens_per_pack: {asked.budget:,}. Computed, not measured: docs/plan.md",
        highlight=False,
        soft_wrap=True,
    )
    return 0, ""


def _plain(made: Plan) -> dict[str, Any]:
    times = ("seconds", "bound", "step")
    known = {name: value for name, value in asdict(made).items() if not (made.why and name in times)}
    return known | {"fits": not made.why} | ({} if made.why else {"gpu_hours": made.gpu_hours})


def _memory(made: Plan, total: float) -> Table:
    table = Table(title=f"a GPU ({total:.1f} GiB) at the peak of an update", title_justify="left")
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for name, size in made.memory.items():
        table.add_row(name, f"{size / GIB:.1f}")
    table.add_section()
    table.add_row("in all", f"{sum(made.memory.values()) / GIB:.1f}")
    table.add_row("left for keys and values while sampling", f"{made.cache / GIB:.1f}" if made.cache else "–")
    return table


def _times(made: Plan) -> Table:
    table = Table(title=f"one step on {made.layout.gpus} GPUs", title_justify="left")
    table.add_column("part")
    table.add_column("s", justify="right")
    table.add_column("bound by")
    for name, seconds in made.seconds.items():
        table.add_row(name, f"{seconds:.1f}", made.bound[name])
    table.add_section()
    table.add_row("step", f"{made.step:.1f}", "")
    return table


def _sweep(plans: list[Plan], dollars: float) -> Table:
    table = Table(title="the whole run, by number of GPUs", title_justify="left")
    for name in ("GPUs", "train", "engines", "GiB", "s a step", "hours", "GPU hours", "~US$", "fits"):
        table.add_column(name, justify="right")
    for made in plans:
        hours = made.step * made.steps / 3600
        times = [f"{made.step:.1f}", f"{hours:.1f}", f"{made.gpu_hours:,.0f}", f"{made.gpu_hours * dollars:,.0f}"]
        table.add_row(
            f"{made.layout.gpus:,}",
            f"{made.layout.ranks:,}",
            f"{made.layout.engines:,}",
            f"{sum(made.memory.values()) / GIB:.1f}",
            *(["–"] * 4 if made.why else times),
            "no" if made.why else "yes",
        )
    return table


def _schedules(schedules: Mapping[int, Mapping[str, Scheduled]]) -> Table:
    title = "the schedule, simulated with lengths drawn: seconds a step (efficiency; mean age of tokens, in versions)"
    table = Table(title=title, title_justify="left")
    for name in ("GPUs", *WAYS, "fastest", "engines + ranks"):
        table.add_column(name, justify="right")
    shares = efficiencies(schedules)
    for gpus, ways in schedules.items():
        best = min(ways, key=lambda way: ways[way].step)
        cells = []
        for way, (_, ahead) in WAYS.items():
            if way in ways:
                age = f"; {ways[way].age:.1f}" if ahead else ""
                cells.append(f"{ways[way].step:,.1f} ({shares[gpus][way]:.0%}{age})")
            else:
                cells.append("–")
        table.add_row(f"{gpus:,}", *cells, best, f"{ways[best].engines:,} + {ways[best].ranks:,}")
    return table


def _draw(
    image: Path, settings: PlanSettings, plans: list[Plan], schedules: Mapping[int, Mapping[str, Scheduled]]
) -> None:
    from observe_r1.report.plan_figure import draw_plan  # matplotlib takes a second to load

    if not plans:
        raise UserError("plan.picture: the run fits on none of 1 to 1,024 GPUs, so there is nothing to draw")
    options, rollout = settings.plan, settings.rollout
    work = f"{rollout.prompts} × {rollout.group_size} responses of {options.response_tokens} tokens a step"
    title = f"{settings.model.path} on {gpu_named(options.gpu).title}, {work}"
    title += f"; {settings.cluster.layout}. Computed, not measured"
    image.parent.mkdir(parents=True, exist_ok=True)
    draw_plan(image, plans, schedules, title)
