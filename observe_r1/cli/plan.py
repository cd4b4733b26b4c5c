"""`observe-r1 plan`: what a run takes, as tables or as JSON."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from observe_r1.cluster.gpus import gpu_named
from observe_r1.cluster.plan import GIB, SWEEP, Plan, plan
from observe_r1.cluster.shape import read_shape
from observe_r1.config.plan import PlanSettings
from observe_r1.errors import UserError
from observe_r1.run.progress import Progress


def run(settings: PlanSettings, view: Progress) -> tuple[int, str]:
    """Print the plan; exit code 2 where the run does not fit.

    Raises:
        UserError: no plan can be made of these settings.
    """
    gpu = gpu_named(settings.plan.gpu)
    if settings.cluster.address is not None and settings.cluster.gpus is None:
        raise UserError("a plan asks no cluster how many GPUs it has: give cluster.gpus")
    shape = read_shape(settings.model)
    asked = plan(settings, shape, settings.cluster.gpus or 1)
    sweep = [each for each in (_attempt(settings, shape, gpus) for gpus in SWEEP) if each is not None]
    view.close()
    if settings.plan.json_summary:
        print(json.dumps({"gpu": gpu.title, "plan": _plain(asked), "sweep": [_plain(each) for each in sweep]}))
        return 2 if asked.why else 0, ""
    console = Console()
    console.print(_memory(asked, gpu.memory))
    if not asked.why:  # without room for its cache an engine samples nothing, in no time that means anything
        console.print(_times(asked))
    console.print(_sweep(sweep, gpu.dollars))
    if asked.why:
        console.print(f"does not fit: {asked.why}", highlight=False, soft_wrap=True)
        return 2, ""
    console.print(
        f"fits; largest optimizer.tokens_per_pack: {asked.budget:,}. Computed, not measured: docs/plan.md",
        highlight=False,
        soft_wrap=True,
    )
    return 0, ""


def _attempt(settings: PlanSettings, shape: Any, gpus: int) -> Plan | None:
    """Return the plan for another number of GPUs, None where the layout asks for more or does not divide them."""
    try:
        return plan(settings, shape, gpus)
    except UserError:
        return None


def _plain(made: Plan) -> dict[str, Any]:
    times = ("seconds", "bound", "step")
    known = {name: value for name, value in asdict(made).items() if not (made.why and name in times)}
    return known | {"fits": not made.why} | ({} if made.why else {"gpu_hours": made.gpu_hours})


def _memory(made: Plan, total: float) -> Table:
    table = Table(title=f"memory of a GPU ({total:.1f} GiB), at the peak of an update", title_justify="left")
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
    for name in ("GPUs", "train", "engines", "GiB", "s a step", "hours", "GPU-hours", "~US$", "fits"):
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
