"""What the demo says at its end: a table by difficulty, three answers, a summary and a picture."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.cli.demo_evaluation import HeldOut
from observe_r1.evaluation.accuracy import Graded, summary
from observe_r1.files import write_atomic
from observe_r1.report.demo_figure import Card, draw_demo
from observe_r1.training.progress import Progress


def report(demo: Path, before: HeldOut, after: HeldOut, seconds: dict[str, float], view: Progress) -> None:
    """Write `summary.json` and `demo.png` into `demo`, and print the result once `view` is closed."""
    view.now("drawing the result")
    result: dict[str, Any] = {
        "before": summary(before.graded),
        "after": summary(after.graded),
        "by_difficulty": by_objects(before, after),
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }
    write_atomic(demo / "summary.json", json.dumps(result, indent=2) + "\n")
    cards = [card(before.graded[number], after.graded[number]) for number in telling(before, after)]
    draw_demo(result, cards, demo / "demo.png")
    view.close()
    console = Console()
    console.print(_table(result))
    for each in cards:
        console.print(_shown(each), soft_wrap=True)
    times = ", ".join(f"{name} {value:.0f} s" for name, value in result["seconds"].items())
    console.print(f"time: {times}", highlight=False)
    console.print(
        f"wrote {demo / 'summary.json'}, {demo / 'demo.png'}, the ladder in {demo / 'ladder' / 'ladder.html'} and the "
        f"model in {demo / 'rl' / 'model'}",
        highlight=False,
        soft_wrap=True,
    )


def by_objects(before: HeldOut, after: HeldOut) -> list[dict[str, Any]]:
    """Return accuracy before and after by the number of objects in the picture."""
    levels = []
    for objects in sorted(set(before.objects)):
        places = [i for i, level in enumerate(before.objects) if level == objects]
        shares = {
            name: sum(graded[i].greedy.correct for i in places) / len(places)
            for name, graded in (("before", before.graded), ("after", after.graded))
        }
        levels.append({"objects": objects, "questions": len(places), **shares})
    return levels


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="Held-out accuracy by number of objects (greedy)", title_justify="left")
    for name in ("objects", "questions", "before", "after", "change"):
        table.add_column(name, justify="right")
    for level in result["by_difficulty"]:
        change = level["after"] - level["before"]
        table.add_row(
            str(level["objects"]),
            str(level["questions"]),
            f"{level['before']:.1%}",
            f"{level['after']:.1%}",
            f"{100 * change:+z.1f}",
        )
    table.add_section()
    before, after = result["before"], result["after"]
    questions = sum(level["questions"] for level in result["by_difficulty"])
    change = after["accuracy"] - before["accuracy"]
    table.add_row(
        "all", str(questions), f"{before['accuracy']:.1%}", f"{after['accuracy']:.1%}", f"{100 * change:+z.1f}"
    )
    table.add_row("format", "", f"{before['format']:.1%}", f"{after['format']:.1%}", "")
    return table


def telling(before: HeldOut, after: HeldOut) -> list[int]:
    """Choose three questions, an easy, a middling and a hard one, of those that training mended where it can."""
    mended = [
        i
        for i, (old, new) in enumerate(zip(before.graded, after.graded, strict=True))
        if new.greedy.correct > old.greedy.correct
    ]
    pool = mended if len(mended) >= 3 else list(range(len(after.graded)))
    return [pool[len(pool) * part // 6] for part in (1, 3, 5)]


def card(before: Graded, after: Graded) -> Card:
    """Put one question and its two responses together, unprintable characters replaced."""
    return Card(
        picture=Path(str(after.example.images[0])),
        question=after.example.messages[-1]["content"][-1]["text"],
        answer=after.example.answer,
        before=_printable(before.greedy.text),
        before_correct=before.greedy.correct,
        after=_printable(after.greedy.text),
        after_correct=after.greedy.correct,
    )


def _shown(card: Card) -> Text:
    """Show one question; what a model wrote is printed as plain text, never as markup."""
    return Text.assemble(
        (f"\n{card.picture}\n", "dim"),
        (f"{card.question}  (answer: {card.answer})\n", "bold"),
        ("before  ", "green" if card.before_correct else "red"),
        f"{card.before}\n",
        ("after   ", "green" if card.after_correct else "red"),
        card.after,
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
