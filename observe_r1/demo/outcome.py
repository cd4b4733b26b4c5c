"""What the demo shows at its end: accuracy by number of objects, three questions with their answers, and a figure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.config import DataSettings
from observe_r1.data import load_data
from observe_r1.files import write_atomic
from observe_r1.records import Example
from observe_r1.report.charts import Compared
from observe_r1.report.pages import REPORT
from observe_r1.report.run_page import write_report
from observe_r1.report.run_records import evaluated_steps, held_out_groups, read_run
from observe_r1.report.theme import Theme, on_both_papers
from observe_r1.run.progress import Progress


@dataclass(frozen=True, slots=True)
class Answered:
    """A held-out question, and the rows of the model's greedy responses before and after training."""

    example: Example
    objects: int
    """In its image."""
    before: dict[str, Any]
    """As `run.held_out.evaluation_rows` has them."""
    after: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """One question with its image, and the responses before and after training."""

    image: Path
    question: str
    answer: str
    before: str
    before_correct: bool
    after: str
    after_correct: bool


def report(demo: Path, seconds: dict[str, float], view: Progress) -> None:
    """Write the summary, the picture and the report into the folder `demo`, then close `view` and print the result."""
    view.now("drawing the result")
    answered = answered_questions(demo)
    result: dict[str, Any] = {
        "before": _means([each.before for each in answered]),
        "after": _means([each.after for each in answered]),
        "by_difficulty": by_objects(answered),
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }
    write_atomic(demo / "summary.json", json.dumps(result, indent=2) + "\n")
    cards = [_card(answered[number]) for number in telling(answered)]
    draw_demo(result, cards, demo / "demo.png")
    write_report([demo / "rl"], demo / REPORT, view.now, [_as_compared(result["by_difficulty"])])
    view.close()
    console = Console()
    console.print(_table(result))
    for card in cards:
        console.print(_shown(card), soft_wrap=True)
    times = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items())
    console.print(f"time: {times}", highlight=False)
    console.print(
        f"wrote {demo / 'summary.json'}, {demo / 'demo.png'}, the ladder in {demo / 'ladder' / 'ladder.html'} and the "
        f"model in {demo / 'rl' / 'model'}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"the report is in {demo / REPORT}: any browser opens it", highlight=False, soft_wrap=True)


def answered_questions(demo: Path) -> list[Answered]:
    """Return the held-out questions in file order, with the first and the last answers that the run `rl` recorded."""
    run, path = read_run(demo / "rl"), demo / "held_out" / "held_out.jsonl"
    steps = evaluated_steps(run)
    before, after = ({group.id: group.rows[0] for group in held_out_groups(run, steps[end])} for end in (0, -1))
    levels = [json.loads(row)["level"] for row in path.read_text(encoding="utf-8").splitlines()]
    examples = load_data(DataSettings(path=str(path)), seed=0)
    return [
        Answered(example, level, before[example.id], after[example.id])
        for example, level in zip(examples, levels, strict=True)
    ]


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    columns = {"accuracy": "correct", "format": "well_formed", "length": "tokens"}
    return {name: mean(row[column] for row in rows) for name, column in columns.items()}


def _as_compared(levels: list[dict[str, Any]]) -> Compared:
    """Return accuracy by the number of objects as the report shows it."""
    return Compared(
        title="Held-out accuracy",
        about="Greedy answers to the held-out questions, percent right, by the number of objects in the image.",
        axis="objects in the image",
        levels=tuple((str(level["objects"]), level["questions"]) for level in levels),
        series=tuple((f"{name} training", tuple(level[name] for level in levels)) for name in ("before", "after")),
    )


def by_objects(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return accuracy before and after training by the number of objects in the image."""
    levels = []
    for objects in sorted({each.objects for each in answered}):
        here = [each for each in answered if each.objects == objects]
        shares = {
            "before": mean(each.before["correct"] for each in here),
            "after": mean(each.after["correct"] for each in here),
        }
        levels.append({"objects": objects, "questions": len(here), **shares})
    return levels


def telling(answered: Sequence[Answered]) -> list[int]:
    """Choose an easy, a medium and a hard question; if at least three were mended by training, from those."""
    mended = [number for number, each in enumerate(answered) if each.after["correct"] > each.before["correct"]]
    pool = mended if len(mended) >= 3 else list(range(len(answered)))
    return [pool[len(pool) * part // 6] for part in (1, 3, 5)]


def _card(answered: Answered) -> Card:
    """Put one question and its two responses together, with unprintable characters replaced."""
    example = answered.example
    return Card(
        image=Path(str(example.images[0])),
        question=example.messages[-1]["content"][-1]["text"],
        answer=example.answer,
        before=_printable(answered.before["text"]),
        before_correct=answered.before["correct"],
        after=_printable(answered.after["text"]),
        after_correct=answered.after["correct"],
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="Held-out accuracy by number of objects (greedy)", title_justify="left")
    for name in ("objects", "questions", "before", "after", "change"):
        table.add_column(name, justify="right")

    def add(name: str, questions: int, before: float, after: float) -> None:
        table.add_row(name, str(questions), f"{before:.1%}", f"{after:.1%}", f"{100 * (after - before):+z.1f}")

    levels = result["by_difficulty"]
    for level in levels:
        add(str(level["objects"]), level["questions"], level["before"], level["after"])
    table.add_section()
    before, after = result["before"], result["after"]
    add("all", sum(level["questions"] for level in levels), before["accuracy"], after["accuracy"])
    table.add_row("format", "", f"{before['format']:.1%}", f"{after['format']:.1%}", "")
    return table


def _shown(card: Card) -> Text:
    """Return one question as text for the terminal; what a model wrote is plain text, never markup."""
    return Text.assemble(
        (f"\n{card.image}\n", "dim"),
        (f"{card.question}  (answer: {card.answer})\n", "bold"),
        ("before  ", "green" if card.before_correct else "red"),
        f"{card.before}\n",
        ("after   ", "green" if card.after_correct else "red"),
        card.after,
    )


def draw_demo(result: dict[str, Any], cards: Sequence[Card], path: Path) -> None:
    """Draw `cards` and `result` (`before`, `after`, `by_difficulty`) as a PNG on light paper and another on dark."""
    for file, theme in on_both_papers(path):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1), squeeze=False)[0]
        for axes, card in zip(left.subplots(len(cards), 2, width_ratios=(1, 3.6)), cards, strict=True):
            _draw_card(axes, card, theme)
        _draw_levels(right.subplots(), result["by_difficulty"], theme)
        before, after = result["before"]["accuracy"], result["after"]["accuracy"]
        style: dict[str, Any] = {"weight": "bold", "fontsize": 12, "ha": "left"}
        right.suptitle(f"Accuracy on held-out questions: {before:.0%} → {after:.0%}", x=0.13, **style)
        left.suptitle("Look first, then reason: three held-out questions", x=0.01, **style)
        figure.savefig(file, dpi=120, metadata={"Software": None})


def _draw_card(axes: Sequence[Any], card: Card, theme: Theme) -> None:
    shown, written = axes
    with Image.open(card.image) as image:
        shown.imshow(image.convert("RGB"), interpolation="nearest")
    for each in (shown, written):
        each.set_axis_off()
    # parse_math: a response may contain dollar signs, which are not ours to typeset.
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
    axes.set(xlabel="objects in the image", ylabel="accuracy", ylim=(0, 1.12))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper center", ncols=2)
