"""Every setting, typed, with its meaning, default and bounds.

A recipe is a YAML file with these sections; a dotted option (`--objective.bonus 0.3`) overrides one setting.
"Prompts" count questions (groups), "responses" count samples: a rollout of 128 prompts × 8 has 1,024 responses.
"""

from os.path import expanduser
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from observe_r1 import registry
from observe_r1.errors import UserError


def _registered(kind: str) -> AfterValidator:
    def known(name: str) -> str:
        try:
            return registry.check(kind, name)
        except UserError as error:
            raise ValueError(str(error)) from error

    return AfterValidator(known)


_Path = Annotated[str, AfterValidator(expanduser)]
_Decay = Annotated[float, Field(ge=0, lt=1)]
_Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings; unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ModelSettings(Section):
    """The vision-language model that is trained."""

    path: _Path
    """Folder or Hub name of a Hugging Face checkpoint (Qwen2.5-VL and its kin)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type. Master weights and optimizer states are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto` takes a GPU if there is one."""
    min_pixels: int = Field(4 * 28 * 28, ge=1)
    """Smaller images are enlarged to this many pixels."""
    max_pixels: int = Field(10000 * 16 * 16, ge=1)
    """Larger images are shrunk to this many pixels."""
    freeze: tuple[str, ...] = ()
    """Parameters whose names start with one of these are not trained (`model.visual` is the image tower)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run Python code that ships inside the checkpoint. Only for checkpoints whose code you have read."""


class DataSettings(Section):
    """The questions."""

    path: str
    """JSON, JSONL or Parquet file; several, comma-separated, are mixed."""
    probs: tuple[float, ...] | None = None
    """One probability a file, summing to 1: rows are interleaved until every file is exhausted, rows of the smaller
    ones repeating. Without it files are joined."""
    input_key: str = "message"
    """Column that holds the chat."""
    label_key: str = "answer"
    """Column that holds the gold answer."""
    order: Annotated[str, _registered("order")] = "ladder"
    """`ladder` keeps the file's order (easy to hard), `random` shuffles with the run's seed."""
    max_samples: int | None = Field(None, ge=1)
    """Use only the first so many rows."""
    max_prompt_tokens: int = Field(9216, ge=1)
    """Prompts longer than this, image tokens included, are dropped and counted, never cut."""
    format_prompt: Literal["observe", "think", "none"] = "observe"
    """The text that asks for the response format."""
    format_prompt_place: Literal["system", "suffix"] = "system"
    """Where that text stands: as the system message or after the question."""


class RolloutSettings(Section):
    """How responses are sampled."""

    engine: Annotated[str, _registered("engine")] = "embedded"
    """The sampler: `embedded` runs on the model being trained, in this process."""
    prompts: int = Field(128, ge=1)
    """Prompts (groups) a step: one rollout."""
    group_size: int = Field(8, ge=2)
    """Responses a prompt (G)."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the most probable tokens that together reach this probability."""
    top_k: int = Field(0, ge=0)
    """Keep the k most probable tokens; 0 keeps all."""
    max_new_tokens: int = Field(8192, ge=1)
    """Limit of a response, in tokens."""
    stop: tuple[_Text, ...] = ()
    """Strings that end a response."""
    max_rows: int = Field(256, ge=1)
    """Responses decoded at once by the embedded engine; waiting prompts enter as rows finish."""
    dynamic_sampling: bool = False
    """Set aside groups that teach nothing (all advantages zero) and sample more until the rollout is full."""
    max_rounds: int = Field(16, ge=1)
    """With dynamic sampling, rounds of sampling a step before the run ends with an error."""
    max_age: int = Field(1, ge=0)
    """Leftover groups older than this many weight versions are thrown away."""


class RewardSettings(Section):
    """How responses are scored."""

    functions: dict[Annotated[str, _registered("reward")], float] = {"accuracy": 1.0, "format": 1.0}
    """Reward functions by name, each with its weight in the sum. Accuracy gives 1 or 0, format 0.5 or 0."""
    template: Literal["observe", "think"] = "observe"
    """Which tags the format reward asks for."""
    timeout: float = Field(5.0, gt=0)
    """Seconds one response may take to score; over that it scores 0."""
    workers: int = Field(1, ge=1)
    """Processes that score."""


class ObjectiveSettings(Section):
    """What is maximised."""

    estimator: Annotated[str, _registered("estimator")] = "group_norm"
    """How a group's rewards become advantages."""
    whiten: bool = False
    """Normalise advantages once more over the whole rollout, weighted by tokens."""
    bonus: float = Field(0.2, ge=0)
    """Added to the reward of each group's shortest correct response; 0 turns it off."""
    bonus_min_length: int = Field(100, ge=0)
    """The bonus goes only to responses longer than this many tokens."""
    dynamic_weight: bool = True
    """Multiply advantages by 4σp(1−p), p the group's pass rate."""
    sigma: float = Field(1.8, gt=0)
    """σ of the dynamic weight: its value at p = ½."""
    kl_coef: float = Field(0.0, ge=0)
    """Coefficient of the KL divergence from the starting model; 0 needs no reference model."""
    kl_estimator: Annotated[str, _registered("kl estimator")] = "k1"
    """k1 = log π − log π_ref, k2 = ½·k1², k3 = exp(−k1) − 1 + k1."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Subtract the KL from the reward token by token, or add it to the loss (mean per sequence). In the loss take k2 or
    k3: the gradient of k1 is 0 on average."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """The ratio is clipped below at 1 − this."""
    clip_high: float = Field(0.2, gt=0)
    """The ratio is clipped above at 1 + this."""
    aggregation: Annotated[str, _registered("aggregation")] = "token"
    """Mean over all response tokens, mean over each response and then over responses, or a sum over tokens divided
    by responses × `rollout.max_new_tokens`."""
    old_logprobs: Literal["sampler", "policy"] = "sampler"
    """Whose log-probabilities the ratio is taken against: the sampler's, or the policy's own at the start of the step
    (one more forward pass)."""
    importance_cap: float | None = Field(None, gt=0)
    """With `old_logprobs: policy`, weigh each token by π_policy/π_sampler truncated at this cap."""
    mask_truncated: bool = False
    """Leave responses cut off at the length limit out of the loss."""


class OptimizerSettings(Section):
    """AdamW, its schedule, and how a rollout is split into optimizer steps."""

    lr: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.95)
    """Adam's moment decay rates."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the run over which the rate rises linearly from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """The rate at the end of the run, as a share of the peak."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    minibatch: int = Field(8, ge=1)
    """Groups an optimizer step. A rollout of 128 groups makes 16 steps of 8."""
    tokens_per_pack: int = Field(16384, ge=1)
    """Token budget of one forward and backward pass; a minibatch over it is accumulated over several passes."""
    head_chunk: int = Field(1024, ge=1)
    """Response tokens whose logits exist at once."""


class RunSettings(Section):
    """The run itself."""

    output: _Path = "runs/train"
    """Run folder: settings, metrics, rollouts, checkpoints and the final model."""
    epochs: float = Field(1.0, gt=0)
    """Length of the run in passes over the data, where neither `prompts` nor `steps` is given."""
    prompts: int | None = Field(None, ge=1)
    """Length of the run in prompts drawn."""
    steps: int | None = Field(None, ge=1)
    """Length of the run in steps: rollouts."""
    resume: bool = False
    """Go on from the run folder's newest checkpoint, with the same settings; start anew where there is none."""
    save_every: int = Field(20, ge=1)
    """Steps between checkpoints; one is also written at the end and after Ctrl-C."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are removed."""
    seed: int = Field(0, ge=0, lt=10**9)
    """Seeds order, sampling and initialisation."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of this process; all cores by default."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder."""
    wandb: str | None = None
    """Also log to this Weights & Biases project."""


class TrainSettings(Section):
    """All of `observe-r1 train`."""

    model: ModelSettings
    data: DataSettings
    rollout: RolloutSettings = RolloutSettings()
    rewards: RewardSettings = RewardSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _importance_needs_policy(self) -> "TrainSettings":
        if self.objective.importance_cap is not None and self.objective.old_logprobs != "policy":
            raise ValueError("objective.importance_cap needs objective.old_logprobs: policy")
        return self

    @model_validator(mode="after")
    def _truncated_sampling_needs_policy(self) -> "TrainSettings":
        # The sampler's log-probabilities are then those of the truncated distribution, the policy's never are.
        truncated = self.rollout.top_p < 1 or self.rollout.top_k > 0
        if truncated and self.objective.old_logprobs != "policy":
            raise ValueError("rollout.top_p below 1 and rollout.top_k need objective.old_logprobs: policy")
        return self


class SFTOptimizerSettings(OptimizerSettings):
    """AdamW and its schedule, for demonstrations."""

    lr: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    minibatch: int = Field(32, ge=1)
    """Demonstrations (rows) an optimizer step."""


class SFTRunSettings(RunSettings):
    """The run itself."""

    output: _Path = "runs/sft"
    """Run folder: settings, metrics and the final model."""
    steps: int | None = Field(None, ge=1)
    """Length of the run in optimizer steps."""
    save_every: int = Field(200, ge=1)
    """Optimizer steps between checkpoints; one is also written at the end and after Ctrl-C."""


class SFTSettings(Section):
    """All of `observe-r1 sft`."""

    model: ModelSettings
    data: DataSettings
    optimizer: SFTOptimizerSettings = SFTOptimizerSettings()
    run: SFTRunSettings = SFTRunSettings()


def validate(kind: type[Section], values: dict[str, Any], source: str) -> Any:
    """Return `values` as settings of `kind`. Errors: `UserError`, one line naming key, value and what is allowed."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(kind, error.errors()[0])}") from error


def setting_names(kind: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return every leaf setting of `kind` by its dotted name, with pydantic's `FieldInfo`."""
    names: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            names |= setting_names(info.annotation, f"{prefix}{name}.")
        else:
            names[prefix + name] = info
    return names


def _explain(kind: type[Section], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = list(setting_names(kind)) + list(kind.model_fields)
        return f"unknown setting {key!r}{registry.nearest(key, known)}"
    if error["type"] == "missing":
        return f"setting {key!r} is missing"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{key}{value}: {reason}" if key else reason
