"""The learning rate of a step, and the optimizers by their registered names.

Checkpoints read `state[parameter]["step"]` of an optimizer, so a new one has to keep its state as Adam does.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

from torch import nn
from torch.optim import AdamW, Optimizer

from observe_r1.config import OptimizerSettings
from observe_r1.errors import UserError, how_to_install


def learning_rate(settings: OptimizerSettings, progress: float) -> float:
    """Return the learning rate: it rises linearly from 0, then falls as the schedule says.

    Args:
        settings: Peak, warm-up, schedule, and where it ends.
        progress: Share of the run that is done, in [0, 1], in prompts or in steps, as the run's length is given.
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
    """Return torch's AdamW (arXiv 1711.05101); its moments take 8 bytes per float32 parameter.

    Args:
        parameters: Float32, all on one device.
        settings: Betas, ε and weight decay; the rate is set before each step.
    """
    return AdamW(parameters, **_common(settings), fused=True)


def adamw_8bit(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """Return AdamW with block-wise 8-bit moments (arXiv 2110.02861), of 2 bytes per parameter.

    Args:
        parameters: Float32, all on one device; the moments of those under 4,096 numbers are float32, too.
        settings: Betas, ε and weight decay; the rate is set before each step.

    Raises:
        UserError: bitsandbytes is not installed.
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
