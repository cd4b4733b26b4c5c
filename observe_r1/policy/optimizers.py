"""Optimizers by their registered names: each takes the parameters and the settings.

Checkpoints read `state[parameter]["step"]`, so another one has to be of Adam's kind.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

from torch import nn
from torch.optim import AdamW, Optimizer

from observe_r1.config import OptimizerSettings
from observe_r1.errors import UserError, how_to_install


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


def moment_bytes(kind: str, parameters: int) -> int:
    """Return the bytes that the moments of so many float32 parameters take; optimizers not named here count as Adam."""
    return {"adamw_8bit": 2}.get(kind, 8) * parameters


def adamw(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """AdamW (arXiv 1711.05101) as torch has it; moments in the parameters' type: 8 bytes a float32 parameter."""
    return AdamW(parameters, **_common(settings), fused=True)


def adamw_8bit(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """AdamW with block-wise 8-bit moments (arXiv 2110.02861), 2 bytes a parameter; tensors under 4,096 keep float32.

    Errors: `UserError` without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"optimizer.kind = 'adamw_8bit' needs bitsandbytes: {how_to_install('quantize')}")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **_common(settings))


def _common(settings: OptimizerSettings) -> dict:
    return {
        "lr": settings.lr,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
