"""A ladder measured again with a newer model, and how its questions moved between the levels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import file_digest
from itertools import count, takewhile
from pathlib import Path

from observe_r1.config import LadderSettings
from observe_r1.config.verbs import dump_settings
from observe_r1.data.mixture import mix_sequences
from observe_r1.errors import UserError
from observe_r1.files import remove_files, write_atomic
from observe_r1.ladder import difficulty
from observe_r1.ladder.folder import changed
from observe_r1.ladder.inference import EngineMaker
from observe_r1.ladder.inputs import model_digest
from observe_r1.ladder.journal import PROGRESS, is_complete, read_progress, start_over
from observe_r1.ladder.questions import read_questions, stage_rows
from observe_r1.ladder.stage import (
    ASKED,
    DROPPED,
    LADDER,
    MEASURE,
    MEASURED,
    RECORDED,
    RESPONSES,
    UNSOLVED,
    Watch,
)

MOVES = "moves.json"
"""How many questions moved from which difficulty (`was`) to which (`is`)."""
_QUESTIONS = (LADDER, UNSOLVED)
"""Files whose questions are measured again."""
_CREATED = (RECORDED, PROGRESS, MEASURED, RESPONSES, ASKED, DROPPED)
"""Files that a refresh creates before anything is measured."""
_DIFFICULTY = {"difficulty": int | float}


def refresh(folder: Path, settings: LadderSettings, watch: Watch, start: EngineMaker) -> Path | None:
    """Measure the questions of the ladder and the unsolved ones again, into `refreshed-<n>/`.

    A newer model may solve what the earlier one did not. A refresh that was stopped is resumed (with `run.anew`: begun
    again) if its settings, its model's files and its ladder are still the same; else a new folder is begun. Nothing
    else in the ladder's folder changes. If the refresh fails before anything was measured, nothing is left behind.

    Args:
        folder: The ladder's folder.
        settings: Of the ladder, with the newer model.
        watch: Is shown the progress.
        start: Starts the model's engine.

    Returns:
        The folder of the new measurement; None if it was stopped.

    Raises:
        UserError: As `measure_questions`.
    """
    of = _ladder_line(folder)
    refreshed = next(place for place in _folders(folder) if not place.exists() or _resumes(place, settings, of))
    refreshed.mkdir(exist_ok=True)
    if settings.run.anew:
        start_over(refreshed, [MEASURE])
    once = settings.model_copy(update={"run": settings.run.model_copy(update={"anew": False})})
    write_atomic(refreshed / RECORDED, dump_settings(once) + _model_line(settings) + of)
    written_in = settings.arrange.format_prompt
    try:
        questions = mix_sequences([read_questions(folder / name) for name in _QUESTIONS], None, seed=0)
        complete = difficulty.measure_questions(refreshed, questions, settings, watch, start, written_in=written_in)
    except UserError:
        if not read_progress(refreshed):
            remove_files(refreshed, _CREATED)
        raise
    return refreshed if complete else None


def unfinished(folder: Path) -> Path | None:
    """Return the settings file of the first refresh of this same ladder that is not complete; None if there is none.

    Raises:
        UserError: There is no ladder.
    """
    of = _ladder_line(folder)
    recorded = (place / RECORDED for place in takewhile(Path.exists, _folders(folder)))
    return next((path for path in recorded if _is_unfinished(path, of)), None)


def moves(folder: Path, refreshed: Path) -> Counter[tuple[float, float]]:
    """Count the questions by their old and new difficulty, and write the counts to `moves.json`."""
    before = {row["id"]: row["difficulty"] for name in _QUESTIONS for row in stage_rows(folder / name, _DIFFICULTY)}
    after = stage_rows(refreshed / MEASURED, _DIFFICULTY)
    counts = Counter((before[row["id"]], row["difficulty"]) for row in after if row["id"] in before)
    rows = [{"was": old, "is": new, "questions": number} for (old, new), number in sorted(counts.items())]
    write_atomic(refreshed / MOVES, "[" + ",".join(f"\n {json.dumps(row)}" for row in rows) + "\n]\n")
    return counts


def _ladder_line(folder: Path) -> str:
    """Return the last line of a refresh's settings, which says which ladder it measures."""
    digests = []
    for name in _QUESTIONS:
        _ = stage_rows(folder / name)
        with (folder / name).open("rb") as file:
            digests.append(f"{name} {file_digest(file, 'sha256').hexdigest()}")
    return f"# measures, with these SHA-256 digests: {', '.join(digests)}\n"


def _model_line(settings: LadderSettings) -> str:
    """Return the line before it, which says which files the model had."""
    digest = model_digest(settings.model.path) if settings.model.path else ""
    return f"# by a model whose files have this digest: {digest}\n"


def _folders(folder: Path) -> Iterator[Path]:
    return (folder / f"refreshed-{number}" for number in count(1))


def _is_unfinished(recorded: Path, of: str) -> bool:
    complete = is_complete(recorded.parent, MEASURE)
    return not complete and recorded.is_file() and recorded.read_text(encoding="utf-8").endswith(of)


def _resumes(refreshed: Path, settings: LadderSettings, of: str) -> bool:
    recorded = refreshed / RECORDED
    if not read_progress(refreshed):
        return True  # nothing was measured there yet
    return _is_unfinished(recorded, _model_line(settings) + of) and not any(changed(recorded, settings))
