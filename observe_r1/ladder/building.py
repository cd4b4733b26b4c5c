"""The stages of a build in their order, each of which resumes where it was stopped."""

from __future__ import annotations

from pathlib import Path

from observe_r1.config import LadderSettings
from observe_r1.errors import UserError
from observe_r1.ladder import difficulty
from observe_r1.ladder.arranging import arrange
from observe_r1.ladder.beforehand import measuring_model, stages_ended
from observe_r1.ladder.filtering import filter_questions
from observe_r1.ladder.inference import EngineMaker, model_at
from observe_r1.ladder.journal import is_complete
from observe_r1.ladder.questions import read_questions
from observe_r1.ladder.screening import screen_with_models
from observe_r1.ladder.stage import MEASURE, READ, SCREEN, SCREENED, Watch, round_name
from observe_r1.model.hub import check_model_path
from observe_r1.model.loading import load_model


def check_models(settings: LadderSettings, verb: str) -> None:
    """Check each model that `verb` will ask, all but the values of its weights.

    Args:
        settings: Of the ladder.
        verb: The command, such as `build`.

    Raises:
        UserError: One is not available.
    """
    ended = stages_ended(settings)
    if verb in ("build", "measure") and MEASURE not in ended:
        _check_model(measuring_model(settings), "model.path", settings)
    if verb in ("build", "screen") and SCREEN not in ended:
        for number, model in enumerate(settings.screen.models, start=1):
            if round_name(number) not in ended:
                _check_model(model, "screen.models", settings)


def _check_model(path: str, setting: str, settings: LadderSettings) -> None:
    check_model_path(path, setting, trust_code=settings.model.trust_remote_code)
    if Path(path).is_dir():  # a model on the Hub is fetched when its turn comes
        # Its files alone: the machine that drives a cluster may have no GPU.
        load_model(model_at(path, settings).model_copy(update={"device": "cpu"}), frozen=True, weights=False)


def build(folder: Path, settings: LadderSettings, watch: Watch, start: EngineMaker) -> bool:
    """Screen, measure and arrange.

    Args:
        folder: The ladder's folder, see `folder.opened`.
        settings: Of the ladder.
        watch: Is shown the progress.
        start: Starts a model's engine.

    Returns:
        Whether it came to the end; False if it was stopped. Called again, it resumes.

    Raises:
        UserError: As the stages.
    """
    if not screen(folder, settings, watch, start) or not measure(folder, settings, watch, start):
        return False
    arrange(folder, settings, watch)
    return True


def screen(folder: Path, settings: LadderSettings, watch: Watch, start: EngineMaker) -> bool:
    """Write `screened.jsonl`; arguments, result and errors as `build`."""
    if not is_complete(folder, READ) and not filter_questions(folder, settings, watch):
        return False
    return screen_with_models(folder, settings, watch, start)


def measure(folder: Path, settings: LadderSettings, watch: Watch, start: EngineMaker) -> bool:
    """Write `measured.jsonl`; arguments, result and errors as `build`."""
    if not is_complete(folder, SCREEN):
        raise UserError(f"{folder}: the screen is not complete: run `observe-r1 ladder screen {folder}` first")
    if is_complete(folder, MEASURE):
        return True
    return difficulty.measure_questions(folder, read_questions(folder / SCREENED), settings, watch, start)
