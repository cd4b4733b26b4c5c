"""Measuring a ladder again, with a newer model, and how its questions moved between the levels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from observe_r1.config import LadderSettings
from observe_r1.config.recorded import dump_settings
from observe_r1.files import write_atomic
from observe_r1.ladder import measuring
from observe_r1.ladder.arranging import LADDER
from observe_r1.ladder.folder import RECORDED, changed
from observe_r1.ladder.journal import is_complete
from observe_r1.ladder.rows import read_rows
from observe_r1.ladder.stage import Watch


def refresh(folder: Path, settings: LadderSettings, watch: Watch) -> Path | None:
    """Measure the questions of `ladder.jsonl` into `refreshed-<n>/`, and return that folder; None where it was stopped.

    The newest such folder is gone on with if it was begun with the same settings and not ended. Nothing else changes.
    Errors: as `measuring.measure`.
    """
    _ = read_rows(folder / LADDER)
    number = 1
    while (refreshed := folder / f"refreshed-{number}").exists() and not _goes_on(refreshed, settings):
        number += 1
    refreshed.mkdir(exist_ok=True)
    write_atomic(refreshed / RECORDED, dump_settings(settings))
    return refreshed if measuring.measure(refreshed, folder / LADDER, settings, watch) else None


def moves(folder: Path, refreshed: Path) -> Counter[tuple[float, float]]:
    """Count the questions by their difficulty in the ladder and in the new measurement."""
    before = {row["id"]: row["difficulty"] for row in read_rows(folder / LADDER)}
    return Counter((before[row["id"]], row["difficulty"]) for row in read_rows(refreshed / measuring.MEASURED))


def _goes_on(refreshed: Path, settings: LadderSettings) -> bool:
    recorded = refreshed / RECORDED
    if is_complete(refreshed, measuring.STAGE) or not recorded.is_file():
        return False
    return not any(True for _ in changed(recorded, settings))
