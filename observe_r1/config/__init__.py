"""Every setting, typed, with its meaning, default and bounds.

A recipe is a YAML file with these sections; a dotted option (`--objective.bonus 0.3`) overrides one setting.
"Prompts" count questions (groups), "responses" count samples: a rollout of 128 prompts × 8 has 1,024 responses.
"""

from observe_r1.config.ladder import PUBLISHED_SHARES, ArrangeSettings, LadderSettings, ScreenSettings
from observe_r1.config.learning import (
    EvaluationSettings,
    ObjectiveSettings,
    OptimizerSettings,
    RunSettings,
    SFTOptimizerSettings,
    SFTRunSettings,
)
from observe_r1.config.sampling import (
    DataSettings,
    ModelSettings,
    ProcessorSettings,
    QuestionSettings,
    RewardSettings,
    RolloutSettings,
    SamplerSettings,
)
from observe_r1.config.section import Section, registry_of, setting_names, validate, validate_each
from observe_r1.config.verbs import DataCheckSettings, SFTSettings, TrainSettings, dump_settings, flat, nest

__all__ = [
    "PUBLISHED_SHARES",
    "ArrangeSettings",
    "DataCheckSettings",
    "DataSettings",
    "EvaluationSettings",
    "LadderSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "ProcessorSettings",
    "QuestionSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SFTOptimizerSettings",
    "SFTRunSettings",
    "SFTSettings",
    "SamplerSettings",
    "ScreenSettings",
    "Section",
    "TrainSettings",
    "dump_settings",
    "flat",
    "nest",
    "registry_of",
    "setting_names",
    "validate",
    "validate_each",
]
