"""The README's two pictures, from the folders of finished demos: the learning curves and the gallery of a report.

for seed in 0 1 2 3; do observe-r1 demo --seed $seed --output runs/demo$seed --threads 1; done
python benchmarks/readme_pictures.py runs/demo? --every 20 --threads 1 --to docs

Trains each demo's warm-started model once more by each recipe, evaluated on the held-out questions as it learns, into
`pictures/` inside that folder; called again it resumes. The gallery is that of the first demo, photographed in Chromium
(extra `test`).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from observe_r1.report.run_page import write_report
from observe_r1.report.run_records import RunRecord, read_run
from observe_r1.report.theme import LIGHT, on_both_papers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import launch  # what the tests of pages drive

RUNS = {"observe_r1": "Observe-R1", "grpo": "plain GRPO"}
CURVE, GALLERY = "learning.png", "gallery.png"
_CARDS = ("part=held-out&search=difference", "part=training&search=difference&from=60")
"""Filters of the gallery; of each, the first card."""
_WIDTH, _FONT = 760, 20
"""Pixels of the photographed gallery, and of its letters: large, since a phone shows it at half its size."""


def train(demo: Path, recipe: str, every: int, threads: int) -> RunRecord:
    """Train by the demo's recipe of that name, with evaluations every so many steps; resume what was begun."""
    folder = demo / "pictures" / recipe
    options = {
        "model.path": demo / "warm" / "model",
        "data.path": demo / "ladder",
        "evaluation.path": demo / "held_out" / "held_out.jsonl",
        "evaluation.every": every,
        "run.seed": read_run(demo / "rl").settings["run.seed"],
        "run.threads": threads,
        "run.output": folder,
        "run.resume": (folder / "config.yaml").is_file(),
    }
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    subprocess.run([sys.executable, "-m", "observe_r1.cli.main", "train", f"tiny/{recipe}", *words], check=True)
    return read_run(folder)


def draw_curves(runs: dict[str, list[RunRecord]], image: Path) -> None:
    """Draw held-out accuracy by responses sampled: each run faint, and the mean of each recipe, ours in colour."""
    for path, theme in on_both_papers(image):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        looks = {"grpo": {"color": theme.muted}, "observe_r1": {"color": theme.first}}
        for recipe, look in looks.items():
            _draw_recipe(axes, RUNS[recipe], runs[recipe], look)
        axes.set(ylim=(0, 1), xlabel="thousand responses sampled", ylabel="right, of 1,000 held-out questions")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title("Accuracy while the demo's model learns")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="lower right", fontsize=9)
        figure.savefig(path, dpi=160, metadata={"Software": None})


def _draw_recipe(axes: Any, name: str, runs: Sequence[RunRecord], look: dict[str, Any]) -> None:
    curves = [_learning_curve(run) for run in runs]
    for sampled, shares in curves:
        axes.plot(sampled, shares, alpha=0.35, linewidth=1, **look)
    grid = np.linspace(0, min(sampled[-1] for sampled, _ in curves), 100)
    mean = np.mean([np.interp(grid, sampled, shares) for sampled, shares in curves], axis=0)
    ends = [np.mean([shares[place] for _, shares in curves]) for place in (0, -1)]
    steps = round(np.mean([run.steps for run in runs]))
    axes.plot(grid, mean, linewidth=2.5, label=f"{name}, {steps} steps: {ends[0]:.0%} to {ends[1]:.0%}", **look)


def _learning_curve(run: RunRecord) -> tuple[list[float], list[float]]:
    """Return how many thousand responses a run had sampled at each evaluation, and the share of right answers."""
    sampled = {0: 0.0}
    for step, prompts in zip(*run.curve("rollout/prompts_drawn"), strict=True):
        sampled[step] = prompts * run.settings["rollout.group_size"] / 1000
    steps, shares = run.curve("evaluation/accuracy")
    return [sampled[step] for step in steps], shares


def photograph(page_file: Path, image: Path) -> None:
    """Photograph two cards of the page's gallery, light and dark: a held-out question, and a group of training."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        for path, theme in on_both_papers(image):
            scheme = "light" if theme is LIGHT else "dark"
            look = {"width": _WIDTH, "height": 900}
            page = browser.new_page(viewport=look, color_scheme=scheme, device_scale_factor=2)
            _stack([_card(page, f"{page_file.resolve().as_uri()}#{chosen}") for chosen in _CARDS], path)
            page.close()


def _card(page: Page, address: str) -> Image.Image:
    page.goto("about:blank")  # a change of the part after # alone loads nothing
    page.goto(address)
    page.add_style_tag(content=f"html {{ font-size: {_FONT}px }} body {{ font-size: 1rem }}")
    return Image.open(BytesIO(page.locator("#cards > article").first.screenshot()))


def _stack(cards: list[Image.Image], path: Path) -> None:
    gap = 24
    size = max(card.width for card in cards), sum(card.height + gap for card in cards) - gap
    together = Image.new("RGBA", size)
    top = 0
    for card in cards:
        together.paste(card, (0, top))
        top += card.height + gap
    together.save(path)


def main() -> None:
    """Train, draw and photograph."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("demos", type=Path, nargs="+", help="folders of finished demos, of different seeds")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="folder of the pictures (%(default)s)")
    parser.add_argument("--every", type=int, default=10, help="steps between evaluations (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (%(default)s)")
    given = parser.parse_args()
    runs = {recipe: [train(demo, recipe, given.every, given.threads) for demo in given.demos] for recipe in RUNS}
    draw_curves(runs, given.to / CURVE)
    page = given.demos[0] / "pictures" / "report.html"
    write_report([runs["observe_r1"][0].path], page)
    photograph(page, given.to / GALLERY)


if __name__ == "__main__":
    main()
