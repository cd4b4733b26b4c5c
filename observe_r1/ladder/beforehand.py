"""What would end a build is found before the slow part: nothing here loads a library for models."""

from __future__ import annotations

from pathlib import Path

from observe_r1.config import LadderSettings
from observe_r1.errors import UserError
from observe_r1.ladder.folder import check_place
from observe_r1.ladder.journal import read_progress
from observe_r1.ladder.mix import check_shares
from observe_r1.ladder.sources.stream import check_sources
from observe_r1.ladder.stage import MEASURE, READ


def check_settings(settings: LadderSettings, verb: str) -> None:
    """Check what `verb` will read and write, as far as that shows without loading a model.

    Args:
        settings: Of the ladder.
        verb: The command, such as `build`.

    Raises:
        UserError: The folder is not a ladder's, a source or the model is not named or not there, or there is not one
            share per level.
    """
    check_place(Path(settings.run.output))
    ended = stages_ended(settings)
    if verb in ("build", "screen") and READ not in ended:
        if not settings.data.sources:
            raise UserError("setting 'data.sources' is missing: name the files or datasets to build the ladder from")
        check_sources(settings.data.sources)
        check_sources(settings.screen.benchmarks, benchmark=True)
    if verb in ("build", "measure") and MEASURE not in ended:
        measuring_model(settings)
    if verb == "build" and settings.arrange.shares is not None and settings.arrange.measured == ".":
        check_shares(settings.arrange.shares, settings.rollout.group_size + 1)


def stages_ended(settings: LadderSettings) -> set[str]:
    """Return the stages that are complete, by their names in `progress.json`; none if the build begins anew."""
    progress = {} if settings.run.anew else read_progress(Path(settings.run.output))
    return {stage for stage, state in progress.items() if state["complete"]}


def measuring_model(settings: LadderSettings) -> str:
    """Return the path of the model that measures; raise `UserError` if none is named."""
    if settings.model.path is None:
        raise UserError("setting 'model.path' is missing: name the model that measures (--model)")
    return settings.model.path
