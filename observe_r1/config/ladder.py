"""The settings of `observe-r1 ladder`, stage by stage."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from observe_r1.config.cluster import EngineClusterSettings
from observe_r1.config.sampling import ComputeType, Device, ProcessorSettings, QuestionSettings, SamplerSettings
from observe_r1.config.section import NamesText, PathText, Section

PUBLISHED_SHARES = (0.015, 0.036, 0.050, 0.075, 0.136, 0.150, 0.150, 0.200, 0.192)
"""Share of each level, d = 0 to d = 1 by eighths, in the ladder of arXiv 2505.12432, read off its figure (± 0.001)."""


def _preset(value: Any) -> Any:
    return PUBLISHED_SHARES if value in ("published", ["published"]) else value


def _not_all_zero(value: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if value is not None and not sum(value):
        raise ValueError("needs a level with a share above 0")
    return value


Shares = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...] | None, BeforeValidator(_preset), AfterValidator(_not_all_zero)
]

SourceName = Annotated[NamesText, Field(min_length=1)]


class AskedDataSettings(QuestionSettings):
    """Questions, and how a model that is not being trained is asked them."""

    format_prompt: Literal["auto", "observe", "think", "steps", "none"] = "auto"  # type: ignore[assignment]
    """Which text asks for a response format: `auto` takes the one that the model was trained with, if its folder says
    so, and otherwise `steps`, which asks for plain step-by-step reasoning."""


class LadderDataSettings(AskedDataSettings):
    """The questions to order."""

    sources: tuple[SourceName, ...] = ()
    """Files in message format (JSON, JSONL, Parquet), and public datasets as `name:PATH_OR_HUB_NAME` or
    `name:PATH_OR_HUB_NAME@SPLIT` (`ladder sources` lists the names)."""
    max_samples: int | None = Field(None, ge=1)
    """Use only this many rows of each source, from the start."""
    skip_bad: bool = False
    """Skip broken rows and report them; otherwise the first one ends the build."""


class ScreenSettings(Section):
    """Which questions are not worth measuring."""

    models: tuple[PathText, ...] = ()
    """Small models (folders or Hub names) that are asked for the answer alone; a question that any of them gets right
    is dropped."""
    tries: int = Field(1, ge=1)
    """Answers per question of each of them."""
    threshold: int = Field(1, ge=1)
    """A question is dropped if a model is right this often."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature of the answers; 0 is greedy."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer, in tokens."""
    seed: int = Field(0, ge=0)
    """Seeds the answers."""
    benchmarks: tuple[SourceName, ...] = ()
    """Benchmark items, as in `data.sources`: a question with the image or the text of one is dropped. If a public
    dataset has a training split, its `test` split is read, unless `name:PATH_OR_HUB_NAME@SPLIT` names another."""

    @model_validator(mode="after")
    def _tries_make_sense(self) -> "ScreenSettings":
        if self.threshold > self.tries:
            raise ValueError(f"screen.threshold = {self.threshold} is more than screen.tries = {self.tries}")
        if self.tries > 1 and self.temperature == 0:
            raise ValueError("screen.tries above 1 needs screen.temperature above 0: greedy answers are all the same")
        return self


class LadderModelSettings(ProcessorSettings):
    """The model that measures. Screening models are loaded the same way."""

    dtype: ComputeType = "auto"
    """Compute type; `auto` takes bfloat16 on a GPU (float32 takes ten times as long there), float32 on the CPU."""
    device: Device = "auto"
    """Where the model runs; `auto` takes a GPU if there is one. CUDA_VISIBLE_DEVICES chooses one of several GPUs."""


class LadderRolloutSettings(SamplerSettings):
    """How responses are sampled."""

    group_size: int = Field(8, ge=1)
    """Responses per question (N): its difficulty is the share of them that are wrong."""
    seed: int = Field(0, ge=0)
    """Seeds the responses."""
    batch: int = Field(128, ge=1)
    """Questions sampled at a time. More keep the sampler busier, but a killed build loses up to this many."""


class ArrangeSettings(Section):
    """How measured questions become a ladder."""

    min_complexity: float | None = Field(None, ge=0)
    """Questions whose responses have fewer tokens on average are dropped. The default is a fifth of the median
    question's, and at most 40, so that short answers are not dropped for being short. 0 drops none."""
    drop_solved: bool = False
    """Leave out questions that every response solved: a group whose responses are all right teaches next to nothing."""
    size: int | None = Field(None, ge=1)
    """Questions in the ladder; by default all of them, or as many as `shares` allow."""
    shares: Shares = None
    """Share of each level, easy to hard: one more than responses per question. `published` takes the shares of the
    published ladder. They need not sum to 1."""
    seed: int = Field(0, ge=0)
    """Seeds which questions are drawn and how they are mixed."""
    images: Literal["reference", "copy"] = "reference"
    """Whether images outside the folder are referred to by their path or copied into it."""
    format_prompt: Literal["none", "observe", "think"] = "none"
    """Write the text that asks for this response format into every question; training then does not add it again."""
    format_prompt_place: Literal["system", "suffix"] = "system"
    """Where that text goes: into the system message or after the question."""
    measured: NamesText = "."
    """Which measurement counts: `.` is the first, `refreshed-1` that of the first `ladder refresh`."""


class LadderRunSettings(Section):
    """The build itself; nothing here changes the ladder."""

    output: PathText = "runs/ladder"
    """Folder of the ladder. The same command resumes what is in it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of this process; all cores by default."""
    workers: int = Field(1, ge=1)
    """Processes that score."""
    anew: bool = False
    """Start this stage again, and delete what it and later stages have written."""


class LadderSettings(Section):
    """All of `observe-r1 ladder`."""

    data: LadderDataSettings = LadderDataSettings()
    screen: ScreenSettings = ScreenSettings()
    model: LadderModelSettings = LadderModelSettings()
    rollout: LadderRolloutSettings = LadderRolloutSettings()
    arrange: ArrangeSettings = ArrangeSettings()
    cluster: EngineClusterSettings = EngineClusterSettings()
    run: LadderRunSettings = LadderRunSettings()
