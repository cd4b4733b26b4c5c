"""The commands of `observe-r1 ladder` that work on a folder: they call the ladder's stages and print what came out."""

import shlex
from collections import Counter
from functools import partial
from pathlib import Path

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from observe_r1.cli.terminal import one_line
from observe_r1.config import LadderSettings
from observe_r1.errors import UserError
from observe_r1.ladder.arranging import NOT_DRAWN, SOLVED
from observe_r1.ladder.arranging import arrange as arrange_ladder
from observe_r1.ladder.beforehand import check_settings, stages_ended
from observe_r1.ladder.folder import locked, opened
from observe_r1.ladder.questions import stage_rows
from observe_r1.ladder.stage import ARRANGE, DROPPED, LADDER, MEASURED, RESPONSES, SCREENED, UNSOLVED, Watch
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_page import most_frequent, write_ladder_report
from observe_r1.report.ladder_summary import LadderSummary, count_dropped, summarize_ladder
from observe_r1.report.review_page import write_review
from observe_r1.run.progress import Progress

Dropped = tuple[tuple[str, str, int], ...]
"""Stage, reason and number of rows, see `count_dropped`."""
Done = tuple[str, str]
"""What was written, in lines; and the command to run next."""

_BAR_WIDTH = 30
_MOST_REASONS = 12
_WIDEST = 9
"""Levels of the largest table that is printed: those of 8 responses per question."""


def run_on_folder(verb: str, settings: LadderSettings, view: Progress) -> tuple[int, str]:
    """Run one command on the folder `run.output`, and print what came out.

    Args:
        verb: Its name, without `ladder`.
        settings: Validated, its folder included.
        view: Entered.

    Returns:
        Exit code 0, or 130 if Ctrl-C ended it early; and the command to run next, to be printed last.

    Raises:
        UserError: the folder, a file in it or a setting is wrong, or the disk is full.
    """
    if verb == "review":
        return _review(Path(settings.run.output), view)
    if verb != "refresh":
        check_settings(settings, verb)
    settings, model = (settings, {}) if verb == "arrange" else _prepare_model(settings)
    view.about(**model, folder=settings.run.output)
    view.stop.after("this batch, which is kept")
    watch = Watch(view.stage, view.note, view.now, lambda: view.stop.requested)
    try:
        done = _refresh(settings, watch, view) if verb == "refresh" else _stages(verb, settings, watch, view)
    except KeyboardInterrupt:
        done = None
    view.close()
    if done is None:
        same = "the same command without --anew" if settings.run.anew else "the same command"
        print(f"interrupted: {view.line}; {same} resumes")
        return 130, ""
    lines, hint = done
    print(lines)
    return 0, hint


build, screen, measure, arrange, review, refresh = (
    partial(run_on_folder, verb) for verb in ("build", "screen", "measure", "arrange", "review", "refresh")
)


def _prepare_model(settings: LadderSettings) -> tuple[LadderSettings, dict[str, str]]:
    """Set this process's threads; return the settings with the type to compute in, and what the view says of the model.

    `arrange` and `review` ask no model and do without these imports, which take seconds.
    """
    import torch

    from observe_r1.model.device import with_dtype
    from observe_r1.run.setup import asked_where

    settings = with_dtype(settings)
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    if not settings.model.path:
        return settings, {}
    return settings, {"model": settings.model.path, "device": asked_where(settings)}


def _stages(verb: str, settings: LadderSettings, watch: Watch, view: Progress) -> Done | None:
    """Run one stage of a build, or all; return what was written, None if it was stopped."""
    finished = verb == "build" and ARRANGE in stages_ended(settings)
    if verb == "arrange":
        with opened(settings, verb) as folder:
            view.now("arranging")
            arrange_ladder(folder, settings, watch)
    else:
        from observe_r1.ladder import building
        from observe_r1.run.engines import engines_for

        stages = {"build": building.build, "screen": building.screen, "measure": building.measure}
        building.check_models(settings, verb)
        with opened(settings, verb) as folder, engines_for(settings, view) as start:
            if not stages[verb](folder, settings, watch, start):
                return None
    model = settings.model.path or "MODEL"
    if verb in ("build", "arrange"):
        with locked(folder):
            view.now("drawing the report")
            write_ladder_report(folder)
            view.close()
            summary = summarize_ladder(open_build(folder))
        _show(mostly_lost(summary.count, summary.dropped, summary.unsolved), summary.dropped, levels_table(summary))
        next_ = _command("train", "observe_r1", "--model.path", model, "--data.path", folder)
        return _built(folder, finished), f"train on it: {next_}"
    if verb == "screen":
        left, lost = len(stage_rows(folder / SCREENED)), count_dropped(folder)
        _show(mostly_lost(left, lost), lost)
        named = () if settings.model.path else ("--model", model)
        lines = [f"screened: {_questions(folder / SCREENED)}, in {folder / SCREENED}", *_dropped(folder)]
        return "\n".join(lines), f"measure them: {_command('ladder', 'measure', folder, *named)}"
    line = f"measured: {_questions(folder / MEASURED)}, in {folder / MEASURED}; responses in {folder / RESPONSES}"
    return line, f"make the ladder: {_command('ladder', 'arrange', folder)}"


def _show(warning: str, dropped: Dropped, *tables: Table) -> None:
    """Print the warning, if there is one, then the tables; the one of dropped rows comes last."""
    console = Console()
    if warning:
        console.print(Text(one_line(warning)), soft_wrap=True)
    for table in (*tables, *([dropped_table(dropped)] if dropped else [])):
        console.print(table)


def _built(folder: Path, finished: bool) -> str:
    already = " (it was finished already, so no model was asked)" * finished
    lines = [f"ladder: {_questions(folder / LADDER)}, in {folder / LADDER}{already}"]
    if stage_rows(folder / UNSOLVED):
        unsolved = f"{_questions(folder / UNSOLVED)} that no response solved, in {folder / UNSOLVED}"
        lines.append(f"set aside: {unsolved}; decide about them: {_command('ladder', 'review', folder)}")
    lines += [*_dropped(folder), f"look at it: {folder / 'ladder.html'}"]
    return "\n".join(lines)


def _dropped(folder: Path) -> list[str]:
    """Return the line about dropped questions, where there are any."""
    path = folder / DROPPED
    return [f"dropped: {_questions(path)}; {path} says why"] if stage_rows(path) else []


def _command(*words: object) -> str:
    """Return a command of ours to copy."""
    return f"`{shlex.join(['observe-r1', *map(str, words)])}`"


def _questions(path: Path) -> str:
    count = len(stage_rows(path))
    return f"{count:,} question" + "s" * (count != 1)


def _review(folder: Path, view: Progress) -> tuple[int, str]:
    if not (folder / UNSOLVED).is_file():
        raise UserError(f"{folder}: nothing to review yet: run {_command('ladder', 'arrange', folder)} first")
    with locked(folder):
        view.now("drawing the page")
        page, decisions = write_review(folder)
    view.close()
    print(f"look at {page}, and decide in {decisions}")
    return 0, f"then use your decisions: {_command('ladder', 'arrange', folder)}"


def _refresh(settings: LadderSettings, watch: Watch, view: Progress) -> Done | None:
    from observe_r1.ladder.refreshing import refresh
    from observe_r1.run.engines import engines_for

    folder = Path(settings.run.output)
    with locked(folder), engines_for(settings, view) as start:
        refreshed = refresh(folder, settings, watch, start)
        view.close()
        return _moved(folder, refreshed) if refreshed else None


def _moved(folder: Path, refreshed: Path) -> Done:
    """Show how questions moved."""
    from observe_r1.ladder.refreshing import MOVES, moves

    moved = moves(folder, refreshed)
    if max(len({old for old, _ in moved}), len({new for _, new in moved})) <= _WIDEST:
        Console().print(moves_table(moved))
    easier = sum(count for (before, after), count in moved.items() if after < before)
    harder = sum(count for (before, after), count in moved.items() if after > before)
    change = sum((after - before) * count for (before, after), count in moved.items()) / max(moved.total(), 1)
    lines = [
        f"measured again: {_questions(refreshed / MEASURED)}, {easier:,} easier, {harder:,} harder, "
        f"{moved.total() - easier - harder:,} unchanged; difficulty {change:+z.3f} on average",
        f"look at it: the figures are in {refreshed}, every move in {refreshed / MOVES}",
    ]
    arranged = _command("ladder", "arrange", folder, "--arrange.measured", refreshed.name)
    return "\n".join(lines), f"use the new figures: {arranged}"


def levels_table(summary: LadderSummary) -> Table:
    """Draw how many questions of the ladder are of each difficulty, and how long the responses to them are."""
    table = Table(title="the ladder", title_justify="left")
    for name in ("difficulty", "questions", "tokens per response"):
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
    table = Table(title="dropped questions", title_justify="left")
    for name in ("stage", "reason"):
        table.add_column(name)
    table.add_column("questions", justify="right")
    table.add_column("what would keep them")
    for stage, reason, count, kept_by in most_frequent(dropped, _MOST_REASONS):
        table.add_row(*map(Text, (stage, reason, f"{count:,}", kept_by)))
    return table


def mostly_lost(kept: int, dropped: Dropped, unsolved: int = 0) -> str:
    """Return a warning if fewer than half of the questions are left, not counting those that the settings leave out."""
    kept += sum(count for _, reason, count in dropped if reason in (NOT_DRAWN, SOLVED))
    lost = [(count, reason) for _, reason, count in dropped if reason not in (NOT_DRAWN, SOLVED)]
    gone = sum(count for count, _ in lost)
    whole = kept + gone + unsolved
    if 2 * kept >= whole:
        return ""
    aside = f", {unsolved:,} set aside unsolved" if unsolved else ""
    most = f" (most often: {max(lost)[1]}, {max(lost)[0]:,})" if lost else ""
    return f"fewer than half of the questions are left, {kept:,} of {whole:,}: {gone:,} dropped{most}{aside}"
