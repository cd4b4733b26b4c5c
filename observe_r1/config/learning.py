"""Sections that say what is learned and for how long: objective, optimizer, evaluation, run."""

from typing import Annotated, Literal

from pydantic import Field

from observe_r1.config.section import NamesText, NonEmptyText, PathText, Section, registered

Decay = Annotated[float, Field(ge=0, lt=1)]


class ObjectiveSettings(Section):
    """What is maximised."""

    estimator: Annotated[str, registered("estimator")] = "group_norm"
    """How a group's rewards become advantages."""
    whiten: bool = False
    """Normalise advantages once more over the whole rollout, weighted by tokens."""
    bonus: float = Field(0.2, ge=0, le=1000)
    """Added to the reward of each group's shortest correct response; 0 turns it off."""
    bonus_min_length: int = Field(100, ge=0)
    """The bonus goes only to responses longer than this many tokens."""
    dynamic_weight: bool = True
    """Multiply advantages by 4σp(1−p), where p is the group's pass rate."""
    sigma: float = Field(1.8, gt=0)
    """σ of the dynamic weight: its value at p = ½."""
    kl_coef: float = Field(0.0, ge=0)
    """Coefficient of the KL divergence from the starting model; 0 needs no reference model."""
    kl_estimator: Annotated[str, registered("kl estimator")] = "k1"
    """k1 = log π − log π_ref, k2 = ½·k1², k3 = exp(−k1) − 1 + k1."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Subtract the KL from the reward token by token, or add it to the loss (mean per sequence). In the loss use k2 or
    k3: the gradient of k1 is 0 on average."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """The ratio is clipped below at 1 − this."""
    clip_high: float = Field(0.2, gt=0)
    """The ratio is clipped above at 1 + this."""
    aggregation: Annotated[str, registered("aggregation")] = "token"
    """`token`: mean over all response tokens; `sequence`: mean over each response, then over responses; `constant`: sum
    over tokens divided by responses × `rollout.max_new_tokens`."""
    old_logprobs: Literal["sampler", "policy"] = "sampler"
    """The log-probabilities in the ratio's denominator: the sampler's, or the policy's own at the start of the step
    (one more forward pass)."""
    importance_cap: float | None = Field(None, gt=0)
    """With `old_logprobs: policy`, weight each token by π_policy/π_sampler, truncated at this cap."""
    mask_truncated: bool = False
    """Leave responses that reach the length limit out of the loss."""


class OptimizerSettings(Section):
    """AdamW, its schedule, and how a rollout is split into optimizer steps."""

    kind: Annotated[str, registered("optimizer")] = "adamw"
    """`adamw` keeps its moments in float32, `adamw_8bit` in 8 bits (needs the extra `quantize`)."""
    offload: bool = False
    """Keep master weights and moments in CPU memory and step there; the device holds weights in `model.dtype`."""
    lr: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Adam's moment decay rates."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the run during which the rate rises linearly from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """The rate at the end of the run, as a share of the peak."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    minibatch: int = Field(8, ge=1)
    """Groups per optimizer step. A rollout of 128 groups makes 16 steps of 8."""
    tokens_per_pack: int = Field(16384, ge=1)
    """Most tokens in one forward and backward pass; a larger minibatch is accumulated over several passes."""
    head_chunk: int = Field(1024, ge=1)
    """Response tokens whose logits are in memory at once."""


class EvaluationSettings(Section):
    """Held-out questions, answered before the first step and at regular intervals."""

    path: NamesText | None = None
    """File or Hub name of the held-out questions, as in `data.path`; without it nothing is evaluated."""
    every: int = Field(20, ge=1)
    """Steps between evaluations; the last step is always evaluated."""
    max_samples: int | None = Field(None, ge=1)
    """Use only this many rows, from the start."""
    samples: int = Field(0, ge=0)
    """Besides the greedy response, sample this many at `rollout.temperature` and report their mean accuracy (avg@k)."""
    best_by: Literal["greedy", "avg"] = "greedy"
    """The accuracy that selects the best checkpoint. It is kept, and its model is written to `best/`."""
    patience: int | None = Field(None, ge=1)
    """End the run after this many evaluations in a row without a better one."""


class RunSettings(Section):
    """The run itself."""

    output: PathText = "runs/train"
    """Run folder: settings, metrics, rollouts, checkpoints and the final model."""
    epochs: float = Field(1.0, gt=0, le=10**6)
    """Length of the run in passes over the data, if neither `prompts` nor `steps` is given."""
    prompts: int | None = Field(None, ge=1)
    """Length of the run in prompts drawn."""
    steps: int | None = Field(None, ge=1)
    """Length of the run in steps (rollouts)."""
    resume: bool = False
    """Resume from the run folder's newest checkpoint, with the same settings; if there is none, start a new run."""
    save_every: int = Field(20, ge=1)
    """Steps between checkpoints; one is also written after each best evaluation, at the end and after Ctrl-C."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are removed."""
    save_in_background: bool = True
    """Write checkpoints while the run goes on, from a copy in the CPU's memory (12 bytes per trained parameter); false
    makes the run wait, and takes no copy."""
    seed: int = Field(0, ge=0, lt=10**9)
    """Seeds order, sampling and initialisation."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of this process; all cores by default. Results depend on it, through the rounding of sums."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder."""
    wandb: NonEmptyText | None = None
    """Also log to this Weights & Biases project."""
    trackio: NonEmptyText | None = None
    """Also log to this Trackio project, on this machine (`trackio show` draws it)."""
    mlflow: NonEmptyText | None = None
    """Also log to this MLflow experiment, where MLFLOW_TRACKING_URI says."""
    track_groups: int = Field(4, ge=0)
    """Groups that these trackers show at a time, with image, question, responses, rewards and advantages; 0 for none.
    """
    track_every: int = Field(20, ge=1)
    """Steps between groups that are shown, from the first step on. Every evaluation shows up to 32 of its answers."""
    track_bytes: int = Field(2_000_000, ge=10_000)
    """Most bytes of images and text that a tracker gets at a time: larger images are shrunk, longer texts cut."""


class SFTOptimizerSettings(OptimizerSettings):
    """AdamW and its schedule, for demonstrations."""

    lr: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    minibatch: int = Field(32, ge=1)
    """Demonstrations (rows) per optimizer step."""


class SFTRunSettings(RunSettings):
    """The run itself."""

    output: PathText = "runs/sft"
    """Run folder: settings, metrics and the final model."""
    steps: int | None = Field(None, ge=1)
    """Length of the run in optimizer steps."""
    save_every: int = Field(200, ge=1)
    """Optimizer steps between checkpoints; one is also written at the end and after Ctrl-C."""
