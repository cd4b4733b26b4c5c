"""The stages of a build in their order, each going on where it was stopped."""

from __future__ import annotations

from pathlib import Path

from observe_r1.config import LadderSettings
from observe_r1.errors import UserError
from observe_r1.ladder import measuring, screening, simple
from observe_r1.ladder.arranging import arrange
from observe_r1.ladder.journal import is_complete
from observe_r1.ladder.stage import Watch


def build(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Screen, measure, arrange. Returns whether it came to the end; called again it goes on. Errors: as the stages."""
    if settings.model.path is None:
        raise UserError("setting 'model.path' is missing: name the model that measures (--model)")
    if not screen(folder, settings, watch) or not measure(folder, settings, watch):
        return False
    arrange(folder, settings, watch)
    return True


def screen(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Write `screened.jsonl`. Returns whether it came to the end. Errors: as `sift` and `drop_simple`."""
    if not is_complete(folder, screening.STAGE) and not screening.sift(folder, settings, watch):
        return False
    return simple.drop_simple(folder, settings, watch)


def measure(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Write `measured.jsonl`. Returns whether it came to the end. Errors: as `measuring.measure`."""
    if not is_complete(folder, simple.STAGE):
        raise UserError(f"{folder}: not screened to the end yet: run `observe-r1 ladder screen {folder}` first")
    if is_complete(folder, measuring.STAGE):
        return True
    return measuring.measure(folder, folder / simple.SCREENED, settings, watch)
