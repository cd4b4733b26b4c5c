"""The stages of a build in their order, each going on where it was stopped."""

from __future__ import annotations

from pathlib import Path

from observe_r1.config import LadderSettings, ModelSettings
from observe_r1.errors import UserError
from observe_r1.ladder import measuring, screening, simple
from observe_r1.ladder.arranging import arrange
from observe_r1.ladder.asking import measuring_model
from observe_r1.ladder.journal import is_complete, read_progress
from observe_r1.ladder.mix import check_shares
from observe_r1.ladder.rows import read_questions
from observe_r1.ladder.stage import Watch
from observe_r1.model.hub import check_model_path
from observe_r1.model.loading import load_model


def check_settings(settings: LadderSettings, verb: str) -> None:
    """Raise `UserError` before the long work for what would end it.

    That is a model that `verb` has yet to ask and that cannot be had, and shares that are not one a level.
    """
    arranging = settings.arrange
    if verb == "build" and arranging.shares is not None and arranging.measured == ".":
        check_shares(arranging.shares, settings.rollout.group_size + 1)
    progress = {} if settings.run.anew else read_progress(Path(settings.run.output))
    ended = {stage for stage, state in progress.items() if state["complete"]}
    if verb in ("build", "measure") and measuring.STAGE not in ended:
        _check_model(measuring_model(settings), "model.path", settings)
    if verb in ("build", "screen") and simple.STAGE not in ended:
        for number, model in enumerate(settings.screen.models, start=1):
            if simple.stage_of(number) not in ended:
                _check_model(model, "screen.models", settings)


def _check_model(path: str, setting: str, settings: LadderSettings) -> None:
    check_model_path(path, setting, trust_code=settings.model.trust_remote_code)
    if Path(path).is_dir():  # what is on the Hub is fetched when it is its turn
        load_model(ModelSettings(**(settings.model.model_dump() | {"path": path})), frozen=True, weights=False)


def build(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Screen, measure, arrange. Returns whether it came to the end; called again it goes on. Errors: as the stages."""
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
    return measuring.measure(folder, read_questions(folder / simple.SCREENED), settings, watch)
