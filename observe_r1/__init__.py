"""Observe-R1: reinforcement learning that teaches a vision-language model to look first, then reason.

    from observe_r1 import read_recipe, train

    settings = read_recipe("observe_r1", {"model.path": "Qwen/Qwen2.5-VL-3B-Instruct", "data.path": "questions.jsonl"})
    folder = train(settings)

docs/python.md shows the rest. Importing this package imports nothing heavy: each name brings its module along when it
is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from observe_r1.api import build_ladder, read_recipe, sft, train
    from observe_r1.config import (
        ArrangeSettings,
        DataSettings,
        EvaluationSettings,
        LadderSettings,
        ModelSettings,
        ObjectiveSettings,
        OptimizerSettings,
        RewardSettings,
        RolloutSettings,
        RunSettings,
        ScreenSettings,
        SFTSettings,
        TrainSettings,
    )
    from observe_r1.data import load_examples
    from observe_r1.errors import UserError
    from observe_r1.model.loading import load_model
    from observe_r1.rewards import accuracy_reward, format_reward

_HOMES = {
    "observe_r1.api": ("build_ladder", "read_recipe", "sft", "train"),
    "observe_r1.config": (
        "ArrangeSettings",
        "DataSettings",
        "EvaluationSettings",
        "LadderSettings",
        "ModelSettings",
        "ObjectiveSettings",
        "OptimizerSettings",
        "RewardSettings",
        "RolloutSettings",
        "RunSettings",
        "SFTSettings",
        "ScreenSettings",
        "TrainSettings",
    ),
    "observe_r1.data": ("load_examples",),
    "observe_r1.errors": ("UserError",),
    "observe_r1.model.loading": ("load_model",),
    "observe_r1.rewards": ("accuracy_reward", "format_reward"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ArrangeSettings",
    "DataSettings",
    "EvaluationSettings",
    "LadderSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SFTSettings",
    "ScreenSettings",
    "TrainSettings",
    "UserError",
    "__version__",
    "accuracy_reward",
    "build_ladder",
    "format_reward",
    "load_examples",
    "load_model",
    "read_recipe",
    "sft",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
