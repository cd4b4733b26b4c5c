"""The learning rate as a function of the run's progress."""

import math

from observe_r1.config import OptimizerSettings


def learning_rate(settings: OptimizerSettings, progress: float) -> float:
    """Return the rate at `progress` in [0, 1]: linear warm-up from 0, then the schedule's fall to `min_lr_ratio`.

    Progress counts prompts or steps, whichever the run's length is given in, so both lengths share one schedule.
    """
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    after = min(1.0, (progress - settings.warmup) / (1 - settings.warmup))
    falling = 1 - after if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * after))
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * falling)
