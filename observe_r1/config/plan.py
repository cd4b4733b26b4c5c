"""The settings of `observe-r1 plan`: a run's, and what is assumed of its data and its GPUs."""

from pydantic import Field

from observe_r1.config.section import Section
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
    mfu: float = Field(0.3, gt=0, le=1)
    """Share of the GPU's peak that training and the computation of prompts reach."""
    memory_bandwidth: float = Field(0.6, gt=0, le=1)
    """Share of the memory's bandwidth that decoding reaches."""
    network_bandwidth: float = Field(0.7, gt=0, le=1)
    """Share of the bandwidth between GPUs that gathering and reducing reach."""
    step_overhead: float = Field(0.004, ge=0)
    """Seconds that a decoding step takes besides, for launching and scheduling."""
    informative: float = Field(0.6, gt=0, le=1)
    """With `rollout.dynamic_sampling`, the share of sampled groups that teach something."""
    json_summary: bool = False
    """Print the plan as one JSON object instead of tables (`--json`)."""


class PlanSettings(TrainSettings):
    """All of `observe-r1 plan`: the settings of `observe-r1 train`, and `plan`."""

    plan: PlanOptions = PlanOptions()
