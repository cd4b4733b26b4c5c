"""What a ladder looks like, and how a new measurement changes it, as tables in the terminal."""

from collections import Counter

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from observe_r1.ladder.arranging import NOT_DRAWN
from observe_r1.report.ladder_page import most_frequent
from observe_r1.report.ladder_summary import LadderSummary

Dropped = tuple[tuple[str, str, int], ...]
"""Stage, reason and number of rows, see `count_dropped`."""

_BAR_WIDTH = 30
_MOST_REASONS = 12


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


def dropped_table(dropped: Dropped) -> Table:
    """Draw how many rows each stage dropped, why, and what would keep them."""
    table = Table(title="dropped on the way", title_justify="left")
    for name in ("stage", "reason"):
        table.add_column(name)
    table.add_column("questions", justify="right")
    table.add_column("what would keep them")
    for stage, reason, count, kept_by in most_frequent(dropped, _MOST_REASONS):
        table.add_row(*map(Text, (stage, reason, f"{count:,}", kept_by)))
    return table


def mostly_lost(kept: int, dropped: Dropped, unsolved: int = 0) -> str:
    """Return a line that says so where over half of the rows did not come through; those not drawn did."""
    kept += sum(count for _, reason, count in dropped if reason == NOT_DRAWN)
    lost = [(count, reason) for _, reason, count in dropped if reason != NOT_DRAWN]
    gone = sum(count for count, _ in lost)
    whole = kept + gone + unsolved
    if 2 * kept >= whole:
        return ""
    aside = f", {unsolved:,} set aside unsolved" if unsolved else ""
    most = f" (most for: {max(lost)[1]}, {max(lost)[0]:,})" if lost else ""
    return f"less than half came through, {kept:,} of {whole:,} questions: {gone:,} dropped{most}{aside}"
