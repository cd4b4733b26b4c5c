"""Every setting, typed, with its meaning, default and bounds.

A recipe is a YAML file with these sections; an option (`--objective.bonus 0.3`) overrides one setting. "Prompts" counts
questions (groups), "responses" counts samples: a rollout of 128 prompts × 8 has 1,024 responses.

`section` is what all sections have in common; `sampling` and `learning` hold the sections of training, `ladder` those
of the ladder, `cluster` those of many GPUs; `verbs` puts them together, command by command.
"""

from observe_r1.config.chatting import ChatOptions, ChatSettings
from observe_r1.config.cluster import ClusterSettings
from observe_r1.config.comparing import CompareOptions, CompareSettings
from observe_r1.config.evaluating import EvaluateSettings, ServerSettings
from observe_r1.config.exporting import ExportOptions, ExportSettings
from observe_r1.config.ladder import PUBLISHED_SHARES, ArrangeSettings, LadderSettings, ScreenSettings
from observe_r1.config.learning import (
    EvaluationSettings,
    ObjectiveSettings,
    OptimizerSettings,
    RunSettings,
    SFTOptimizerSettings,
    SFTRunSettings,
)
from observe_r1.config.plan import PlanOptions, PlanSettings
from observe_r1.config.pushing import PushOptions, PushSettings
from observe_r1.config.reporting import ReportOptions, ReportSettings
from observe_r1.config.sampling import (
    DataSettings,
    FileSettings,
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
    "ChatOptions",
    "ChatSettings",
    "ClusterSettings",
    "CompareOptions",
    "CompareSettings",
    "DataCheckSettings",
    "DataSettings",
    "EvaluateSettings",
    "EvaluationSettings",
    "ExportOptions",
    "ExportSettings",
    "FileSettings",
    "LadderSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "PlanOptions",
    "PlanSettings",
    "ProcessorSettings",
    "PushOptions",
    "PushSettings",
    "QuestionSettings",
    "ReportOptions",
    "ReportSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SFTOptimizerSettings",
    "SFTRunSettings",
    "SFTSettings",
    "SamplerSettings",
    "ScreenSettings",
    "Section",
    "ServerSettings",
    "TrainSettings",
    "dump_settings",
    "flat",
    "nest",
    "registry_of",
    "setting_names",
    "validate",
    "validate_each",
]
