"""The settings of `observe-r1 plan`: a run's, and what is assumed of its data and its GPUs."""

from pydantic import Field

from observe_r1.config.section import PathText, Section
from observe_r1.config.verbs import TrainSettings


class PlanOptions(Section):
    """What is assumed of the GPUs and of the data; nothing here is measured."""

    gpu: str = "h100"
    """The GPUs: h100, h100_pcie, h200, h800, b200, a100, a100_40gb, l40s, l4, a10g, rtx4090 or rtx5090."""
    gpus_per_machine: int = Field(8, ge=1)
    """GPUs of one machine, which are linked directly; machines are linked by the network."""
    questions: int | None = Field(None, ge=1)
    """Questions of the dataset; by default `data.max_samples`, or else 20,000."""
    prompt_tokens: int = Field(1000, ge=1)
    """Mean length of a prompt, image tokens included."""
    image_tokens: int = Field(800, ge=0)
    """Mean image tokens of a prompt."""
    response_tokens: int = Field(400, ge=1)
    """Mean length of a response."""
    length_spread: float = Field(0.7, ge=0)
    """How much the lengths of responses vary in the simulated schedule: the standard deviation of their logarithm."""
    mfu: float = Field(0.25, gt=0, le=1)
    """Share of the GPU's peak that training and the computation of prompts reach, recomputation counted."""
    memory_bandwidth: float = Field(0.5, gt=0, le=1)
    """Share of the memory's bandwidth that decoding reaches."""
    network_bandwidth: float = Field(0.7, gt=0, le=1)
    """Share of the bandwidth between GPUs that gathering and reducing reach."""
    step_overhead: float = Field(0.004, ge=0)
    """Further seconds of each decoding step, for launching and scheduling."""
    switch_seconds: float = Field(3.0, ge=0)
    """Seconds a step in which an engine that shares its GPU with the policy falls asleep and wakes."""
    informative: float = Field(0.6, gt=0, le=1)
    """With `rollout.dynamic_sampling`, the share of sampled groups that teach something."""
    picture: PathText | None = None
    """Also draw the plan into this PNG or SVG file, and for dark pages into the one with `_dark` in its name
    (`--picture`)."""
    json_summary: bool = False
    """Print the plan as one JSON object instead of tables (`--json`)."""


class PlanSettings(TrainSettings):
    """All of `observe-r1 plan`: the settings of `observe-r1 train`, and `plan`."""

    plan: PlanOptions = PlanOptions()
