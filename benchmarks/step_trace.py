"""When each part of a run works: are images and tokens prepared while the model samples, or does the model wait?

A few steps of the demo's reinforcement learning (`recipes/tiny/observe_r1.yaml`, its tiny model after a short warm
start), with two things as in real data: images are large files (`--side`), which the processor scales down to what the
model knows, and gold answers are formulas. The run is that of `observe-r1 train`, with one computing
thread, so that on two cores encoding has the other; its parts are timed where it calls them. `encoding` is reading
an image, scaling it, tokenizing and checking the gold answer. `scoring`, within `sampling`, is comparing the answers of
a group. The results kept here are from when that took a worker process.

    python benchmarks/step_trace.py [--model FOLDER] [--steps 4] [--rollout.prompts 32 …any setting of train]
    python benchmarks/step_trace.py --redraw            draws the images from the last results
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from observe_r1.cli.options import parse_settings
from observe_r1.config import SFTSettings, TrainSettings
from observe_r1.demo.dataset import write_demonstrations, write_questions
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.policy.policy import Policy
from observe_r1.report.theme import on_both_papers
from observe_r1.rewards import PendingScores, Scorer
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.run import train
from observe_r1.run.folder import RunFolder
from observe_r1.run.progress import Progress
from observe_r1.run.recorder import Recorder
from observe_r1.run.sft import fine_tune_model
from observe_r1.training.loop import Batcher
from observe_r1.training.prompts import PromptStream

ROOT = Path(__file__).parent.parent
SIDE = 84
"""Pixels a side of an image as the tiny model knows it."""
RECIPES = ROOT / "recipes" / "tiny"
TRACED = (
    (PromptStream, "take", "waiting for prompts"),
    (EmbeddedEngine, "generate", "sampling"),
    (PendingScores, "result", "waiting for scores"),
    (Batcher, "batches", "updating"),
    (Policy, "update", "updating"),
    (RunFolder, "write_rollouts", "writing"),
    (Recorder, "step_done", "writing"),
    (Scorer, "submit", "scoring"),
)
"""What is timed, and its name; encoding is added where the run creates it."""
LANES = {
    "main thread": ("sampling", "updating", "writing", "waiting for prompts", "waiting for scores"),
    "encoding thread": ("encoding",),
    "scoring": ("scoring",),
}
COLOURS = {  # Okabe and Ito's, told apart by the colour-blind
    "sampling": "#0072b2",
    "updating": "#e69f00",
    "writing": "#999999",
    "waiting for prompts": "#d55e00",
    "waiting for scores": "",  # the ink of the paper
    "encoding": "#009e73",
    "scoring": "#cc79a7",
}


class Span(NamedTuple):
    """One piece of work, from `start` to `end` in seconds."""

    name: str
    start: float
    end: float


def traced(function: Callable[..., Any], name: str, spans: list[Span]) -> Callable[..., Any]:
    """Return `function`, which adds a span for every call."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spans.append(Span(name, started, time.perf_counter()))

    return call


def trace_run(settings: TrainSettings) -> list[Span]:
    """Train as `settings` say; return what went on when, from the first prompt that is waited for."""
    spans: list[Span] = []
    for owner, attribute, name in TRACED:
        setattr(owner, attribute, traced(getattr(owner, attribute), name, spans))
    make = train.checked_encoder
    train.checked_encoder = lambda *args: traced(make(*args), "encoding", spans)
    with Progress("train") as view:
        train.train_model(settings, view)
    first = min(span.start for span in spans if span.name == "waiting for prompts")
    last = max(span.end for span in spans if span.name == "updating")
    return [Span(name, start - first, end - first) for name, start, end in spans if first <= start < last]


def prepare(folder: Path, model: Path | None, side: int) -> list[str]:
    """Write questions, and a model where there is none; return the options that name them."""
    questions = write_questions(folder / "train", "train", seed=0, count=400)
    for picture in (folder / "train" / "images").iterdir():
        Image.open(picture).resize((side, side), Image.Resampling.NEAREST).save(picture)
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    for row in rows:
        row["answer"] = rf"\frac{{{2 * int(row['answer'])}}}{{2}}"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if model is None:
        demonstrations = write_demonstrations(folder / "sft", seed=0, count=4000)
        start = ["--model.path", str(make_tiny_model(folder / "tiny")), "--data.path", str(demonstrations)]
        options = [*start, "--run.output", str(folder / "warm"), "--run.steps", "300", "--run.threads", "1"]
        with Progress("sft") as view:
            fine_tune_model(parse_settings(SFTSettings, [str(RECIPES / "sft.yaml"), *options], verb="sft"), view)
        model = folder / "warm" / "model"
    paths = ["--model.path", str(model), "--data.path", str(questions), "--run.output", str(folder / "run")]
    return [*paths, "--model.max_pixels", str(SIDE**2)]


def steps_of(spans: list[Span]) -> list[tuple[float, float]]:
    """Return start and end of each step; one ends when its metrics are written, which is the last of its spans."""
    ends = sorted(span.end for span in spans if span.name == "writing")[1::2]
    ends.append(max(span.end for span in spans if span.name == "updating"))
    return list(zip([0.0, *ends], ends, strict=False))


def overlap(spans: list[Span], others: list[Span]) -> float:
    """Return the seconds of `spans` that lie within `others`, which do not overlap each other."""
    return sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in spans for b in others)


def figures(spans: list[Span]) -> dict[str, float]:
    """Return seconds by name, and the share of encoding and scoring that the main thread's own work hides."""

    def named(*names: str) -> list[Span]:
        return [span for span in spans if span.name in names]

    seconds = {name: sum(span.end - span.start for span in named(name)) for name in COLOURS}
    sampling, working = named("sampling"), named("sampling", "updating", "writing")
    shares = {}
    for name in ("encoding", "scoring"):
        whole = seconds[name] or float("nan")
        shares[f"{name} during sampling"] = overlap(named(name), sampling) / whole
        shares[f"{name} hidden"] = overlap(named(name), working) / whole
    return {name: round(value, 4) for name, value in (seconds | shares).items()}


def draw(spans: list[Span], steps: list[tuple[float, float]], picture: Path) -> None:
    """Draw the lanes against time; a PNG on light paper and one on dark."""
    for path, theme in on_both_papers(picture):
        figure = Figure(figsize=(12, 4.1), layout=ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1))
        axes = figure.subplots()
        for place, names in enumerate(LANES.values()):
            for name in names:
                bars = [(span.start, span.end - span.start) for span in spans if span.name == name]
                look = {"facecolor": COLOURS[name] or theme.ink, "edgecolor": "none", "label": name}
                axes.broken_barh(bars, (place - 0.36, 0.72), **look)
        for number, (start, end) in enumerate(steps, 1):
            axes.axvline(end, color=theme.muted, lw=0.8, ls=":", zorder=0)
            axes.text((start + end) / 2, -0.5, f"step {number}", ha="center", va="bottom")
        axes.set_yticks(range(len(LANES)), list(LANES))
        axes.set(xlabel="seconds since the run asked for its first prompt", ylabel="who works")
        axes.set(xlim=(0, steps[-1][1]), ylim=(2.55, -0.75))
        axes.grid(visible=False)
        axes.set_title(f"What goes on at the same time in {len(steps)} steps of training", pad=34)
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0, "handlelength": 1.2}
        axes.legend(ncols=len(COLOURS), columnspacing=1.4, **above)
        figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    """Print the figures, write them to `benchmarks/results/step_trace.json`, and draw `docs/step_trace….png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a tiny model after its warm start; one is made (a minute)")
    parser.add_argument("--side", type=int, default=1024, help="of the square picture files, in pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "step_trace.png")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "step_trace.json")
    parser.add_argument("--redraw", action="store_true", help="draw what was measured, and measure nothing")
    arguments, settings = parser.parse_known_args()
    if arguments.redraw:
        measured = json.loads(arguments.output.read_text())
        ends = list(accumulate(measured["step_seconds"]))
        steps = list(zip([0.0, *ends], ends, strict=False))
        draw([Span(*span) for span in measured["spans"]], steps, arguments.picture)
        return
    with tempfile.TemporaryDirectory() as folder:
        options = prepare(Path(folder), arguments.model, arguments.side)
        options += ["--run.steps", str(arguments.steps), "--run.threads", "1", *settings]
        spans = trace_run(parse_settings(TrainSettings, [str(RECIPES / "observe_r1.yaml"), *options], verb="train"))
    steps = steps_of(spans)
    parts = {
        "first step": [span for span in spans if span.start < steps[0][1]],
        "later steps": [span for span in spans if span.start >= steps[0][1]],
    }
    result: dict[str, Any] = {name: figures(part) for name, part in parts.items()}
    for name, part in result.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in part.items()))
    draw(spans, steps, arguments.picture)
    result |= {
        "side": arguments.side,
        "settings": settings,
        "step_seconds": [round(end - start, 3) for start, end in steps],
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "spans": [(name, round(start, 4), round(end, 4)) for name, start, end in spans if name in COLOURS],
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
