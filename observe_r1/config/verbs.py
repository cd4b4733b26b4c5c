"""The settings of each command, section by section, and how they are written down."""

from typing import Any

from pydantic import model_validator

from observe_r1 import __version__
from observe_r1.config.cluster import ClusterSettings
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
    FileSettings,
    ModelSettings,
    ProcessorSettings,
    RewardSettings,
    RolloutSettings,
)
from observe_r1.config.section import Section
from observe_r1.yaml_text import dump_yaml


class TrainSettings(Section):
    """All of `observe-r1 train`."""

    model: ModelSettings
    data: DataSettings
    rollout: RolloutSettings = RolloutSettings()
    rewards: RewardSettings = RewardSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _importance_needs_policy(self) -> "TrainSettings":
        if self.objective.importance_cap is not None and self.objective.old_logprobs != "policy":
            raise ValueError("objective.importance_cap needs objective.old_logprobs: policy")
        return self

    @model_validator(mode="after")
    def _ahead_needs_engines_apart(self) -> "TrainSettings":
        if self.rollout.ahead and self.cluster.layout != "apart":
            raise ValueError("rollout.ahead needs cluster.layout: apart, with engines on GPUs of their own")
        if self.rollout.ahead and self.objective.importance_cap is None:
            raise ValueError(
                "rollout.ahead trains on responses of older weights, which importance weights must correct: set "
                "objective.old_logprobs: policy and objective.importance_cap (2, say)"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_needs_questions(self) -> "TrainSettings":
        if self.evaluation.path is None and (asked := self.evaluation.changed()):
            raise ValueError(f"evaluation.{asked[0]} needs evaluation.path, the held-out questions")
        return self

    @model_validator(mode="after")
    def _average_needs_samples(self) -> "TrainSettings":
        if self.evaluation.best_by == "avg" and self.evaluation.samples == 0:
            raise ValueError("evaluation.best_by: avg needs evaluation.samples of 1 or more")
        return self

    @model_validator(mode="after")
    def _prompt_asks_for_what_is_rewarded(self) -> "TrainSettings":
        asked, rewarded = self.data.format_prompt, self.rewards.template
        # Under `none` the questions may ask for the format themselves.
        if rewarded is not None and asked not in ("none", rewarded):
            raise ValueError(
                f"data.format_prompt = {asked!r} asks for other tags than rewards.template = {rewarded!r} rewards: "
                "leave rewards.template out, and it follows the prompt"
            )
        return self

    @model_validator(mode="after")
    def _truncated_sampling_needs_policy(self) -> "TrainSettings":
        # The sampler's log-probabilities are then those of the truncated distribution, the policy's never are.
        truncated = self.rollout.top_p < 1 or self.rollout.top_k > 0
        if truncated and self.objective.old_logprobs != "policy":
            raise ValueError("rollout.top_p below 1 and rollout.top_k need objective.old_logprobs: policy")
        return self


class SFTSettings(Section):
    """All of `observe-r1 sft`."""

    model: ModelSettings
    data: DataSettings
    optimizer: SFTOptimizerSettings = SFTOptimizerSettings()
    run: SFTRunSettings = SFTRunSettings()


class DataCheckSettings(Section):
    """All of `observe-r1 data check`."""

    data: FileSettings
    model: ProcessorSettings = ProcessorSettings()


def dump_settings(settings: Section) -> str:
    """Return every setting as YAML that works as a recipe."""
    values = settings.model_dump(mode="json")
    head = f"# observe-r1 {__version__}: every setting of this run; give this file as a recipe to repeat it.\n"
    return head + dump_yaml(values)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a recipe as settings by dotted name: `{"objective.bonus": 0.3}`."""
    return {f"{section}.{name}": value for section, part in values.items() for name, value in part.items()}


def with_defaults(recorded: dict[str, Any], settings: Section) -> dict[str, Any]:
    """Return recorded sections with the defaults of what an earlier version of the program did not record.

    A setting that `settings` change from its default, and that was not recorded, stays out: it differs.

    Args:
        recorded: As a file of settings has them.
        settings: What they are compared with.

    Raises:
        AttributeError: `recorded` is no dict of dicts.
    """
    whole = dict(recorded.items())
    for section, values in settings.model_dump(mode="json").items():
        changed = getattr(settings, section).changed()
        defaults = {name: value for name, value in values.items() if name not in changed}
        whole[section] = defaults | dict(recorded.get(section, {}).items())
    return whole


def nest(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings by dotted name as the sections of a recipe."""
    nested: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, _, setting = name.partition(".")
        nested.setdefault(section, {})[setting] = value
    return nested
