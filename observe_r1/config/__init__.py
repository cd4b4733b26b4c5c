"""Every setting, typed, with its meaning, default and bounds.

A recipe is a YAML file with these sections; a dotted option (`--objective.bonus 0.3`) overrides one setting.
"Prompts" count questions (groups), "responses" count samples: a rollout of 128 prompts × 8 has 1,024 responses.
"""

from observe_r1.config.learning import (
    EvaluationSettings,
    ObjectiveSettings,
    OptimizerSettings,
    RunSettings,
    SFTOptimizerSettings,
    SFTRunSettings,
)
from observe_r1.config.sampling import DataSettings, ModelSettings, RewardSettings, RolloutSettings
from observe_r1.config.section import Section, setting_names, validate
from observe_r1.config.verbs import SFTSettings, TrainSettings

__all__ = [
    "DataSettings",
    "EvaluationSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SFTOptimizerSettings",
    "SFTRunSettings",
    "SFTSettings",
    "Section",
    "TrainSettings",
    "setting_names",
    "validate",
]
