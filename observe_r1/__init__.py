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
    from observe_r1.api import build_ladder, evaluate, read_recipe, sft, train
    from observe_r1.config import (
        ArrangeSettings,
        DataSettings,
        EvaluateSettings,
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

__all__ = [
    "ArrangeSettings",
    "DataSettings",
    "EvaluateSettings",
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
    "evaluate",
    "format_reward",
    "load_examples",
    "load_model",
    "read_recipe",
    "sft",
    "train",
]

_HOMES = {
    "UserError": "errors",
    "accuracy_reward": "rewards",
    "build_ladder": "api",
    "evaluate": "api",
    "format_reward": "rewards",
    "load_examples": "data",
    "load_model": "model.loading",
    "read_recipe": "api",
    "sft": "api",
    "train": "api",
}
"""Modules of the names above; the settings are in `config`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'config')}"), name)


def __dir__() -> list[str]:
    return __all__
