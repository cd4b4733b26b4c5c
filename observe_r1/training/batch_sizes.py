"""Batch sizes that no run could meet, told before a model is loaded."""

from observe_r1.config import TrainSettings
from observe_r1.errors import UserError


def check_batch_sizes(settings: TrainSettings, rows: int, prompts: int | None) -> None:
    """Check that a rollout splits evenly into optimizer steps and that the run is at least one rollout long.

    Args:
        settings: Of the run.
        rows: Of the dataset.
        prompts: Length of the run in prompts; None where it is given in steps.

    Errors: `UserError` for sizes that do not fit.
    """
    rollout, minibatch = settings.rollout.prompts, settings.optimizer.minibatch
    if minibatch > rollout:
        raise UserError(
            f"optimizer.minibatch = {minibatch}: more than the rollout has, rollout.prompts = {rollout}: "
            "lower the one or raise the other"
        )
    if rollout % minibatch:
        raise UserError(
            f"rollout.prompts = {rollout}: not a multiple of optimizer.minibatch = {minibatch}, so each rollout's last "
            f"optimizer step would have only {rollout % minibatch} groups of them: "
            f"take {rollout - rollout % minibatch} or {rollout + minibatch - rollout % minibatch}"
        )
    if prompts is not None and prompts < rollout:
        run = settings.run
        length = f"run.prompts = {prompts}"
        if run.prompts is None:
            length = f"run.epochs = {run.epochs:g} over {rows} rows of {settings.data.path} is {prompts} prompts"
        raise UserError(f"{length}: less than one rollout, rollout.prompts = {rollout}: lower that or run longer")
