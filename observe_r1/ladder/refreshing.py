"""Measuring a ladder again, with a newer model, and how its questions moved between the levels."""

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
from observe_r1.ladder import measuring
from observe_r1.ladder.arranging import LADDER, UNSOLVED
from observe_r1.ladder.folder import RECORDED, changed
from observe_r1.ladder.journal import PROGRESS, is_complete, read_progress, start_over
from observe_r1.ladder.rows import read_questions, read_rows
from observe_r1.ladder.stage import DROPPED, Watch

MOVES = "moves.json"
"""How many questions moved from which difficulty (`was`) to which (`is`)."""
_MEASURED = (LADDER, UNSOLVED)
"""Files whose questions are measured again."""
_MADE = (RECORDED, PROGRESS, measuring.MEASURED, measuring.RESPONSES, measuring.ASKED, DROPPED)
"""Files that a refresh has made before anything is measured."""
_DIFFICULTY = {"difficulty": int | float}


def refresh(folder: Path, settings: LadderSettings, watch: Watch) -> Path | None:
    """Measure the questions of the ladder and the unsolved ones into `refreshed-<n>/`, and return that folder.

    A newer model may solve what the one before did not. Returns None where it was stopped. Such a folder is gone on
    with, or with `run.anew` begun again, if it was begun with the same settings and the same ladder and not ended.
    Nothing else changes; where it fails before anything was measured nothing is left behind.

    Errors: as `measuring.measure`.
    """
    of = _of(folder)
    refreshed = next(place for place in _places(folder) if not place.exists() or _goes_on(place, settings, of))
    refreshed.mkdir(exist_ok=True)
    if settings.run.anew:
        start_over(refreshed, [measuring.STAGE])
    once = settings.model_copy(update={"run": settings.run.model_copy(update={"anew": False})})
    write_atomic(refreshed / RECORDED, dump_settings(once) + of)
    written_in = settings.arrange.format_prompt
    try:
        questions = mix_sequences([read_questions(folder / name) for name in _MEASURED], None, seed=0)
        ended = measuring.measure(refreshed, questions, settings, watch, written_in=written_in)
    except UserError:
        if not read_progress(refreshed):
            remove_files(refreshed, _MADE)
        raise
    return refreshed if ended else None


def unfinished(folder: Path) -> Path | None:
    """Return the settings of the first refresh of this very ladder that was begun and has not ended, if there is one.

    Errors: `UserError` where there is no ladder.
    """
    of = _of(folder)
    recorded = (place / RECORDED for place in takewhile(Path.exists, _places(folder)))
    return next((path for path in recorded if _is_open(path, of)), None)


def moves(folder: Path, refreshed: Path) -> Counter[tuple[float, float]]:
    """Count the questions by their difficulty before and in the new measurement, and write that to `moves.json`."""
    before = {row["id"]: row["difficulty"] for name in _MEASURED for row in read_rows(folder / name, _DIFFICULTY)}
    after = read_rows(refreshed / measuring.MEASURED, _DIFFICULTY)
    counts = Counter((before[row["id"]], row["difficulty"]) for row in after if row["id"] in before)
    rows = [{"was": old, "is": new, "questions": number} for (old, new), number in sorted(counts.items())]
    write_atomic(refreshed / MOVES, "[" + ",".join(f"\n {json.dumps(row)}" for row in rows) + "\n]\n")
    return counts


def _of(folder: Path) -> str:
    """Return the line by which a refresh knows its ladder."""
    digests = []
    for name in _MEASURED:
        _ = read_rows(folder / name)
        with (folder / name).open("rb") as file:
            digests.append(f"{name} {file_digest(file, 'sha256').hexdigest()}")
    return f"# measures, with these SHA-256 digests: {', '.join(digests)}\n"


def _places(folder: Path) -> Iterator[Path]:
    return (folder / f"refreshed-{number}" for number in count(1))


def _is_open(recorded: Path, of: str) -> bool:
    ended = is_complete(recorded.parent, measuring.STAGE)
    return not ended and recorded.is_file() and recorded.read_text(encoding="utf-8").endswith(of)


def _goes_on(refreshed: Path, settings: LadderSettings, of: str) -> bool:
    recorded = refreshed / RECORDED
    if not read_progress(refreshed):
        return True  # nothing was measured there yet
    return _is_open(recorded, of) and not any(changed(recorded, settings))
