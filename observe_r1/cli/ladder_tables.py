"""What a ladder looks like, and how a new measurement changes it, as tables in the terminal."""

from collections import Counter

from rich.bar import Bar
from rich.table import Table

from observe_r1.report.ladder_summary import LadderSummary

_BAR_WIDTH = 30


def levels_table(summary: LadderSummary) -> Table:
    """Draw how many questions of the ladder are of each difficulty, and how long the responses to them are."""
    table = Table(title="the ladder", title_justify="left")
    for name in ("difficulty", "questions", "tokens a response"):
        table.add_column(name, justify="right")
    table.add_column("")
    most = max(level.count for level in summary.levels)
    for level in summary.levels:
        bar = Bar(most, 0, level.count, width=_BAR_WIDTH)
        table.add_row(
            f"{level.difficulty:g}",
            f"{level.count:,}",
            "" if level.complexity is None else f"{level.complexity:.0f}",
            bar,
        )
    return table


def moves_table(moved: Counter[tuple[float, float]]) -> Table:
    """Draw how many questions moved from each difficulty (rows) to each difficulty (columns)."""
    after = sorted({new for _, new in moved})
    table = Table(
        "was \\ is", *(f"{level:g}" for level in after), title="questions by difficulty", title_justify="left"
    )
    for level in sorted({old for old, _ in moved}):
        table.add_row(f"{level:g}", *(str(moved[level, new] or "·") for new in after))
    return table
