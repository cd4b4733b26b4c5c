"""The settings of `observe-r1 evaluate`."""

from typing import Self

from pydantic import Field, model_validator

from observe_r1.config.cluster import EngineClusterSettings
from observe_r1.config.ladder import AskedDataSettings, LadderModelSettings
from observe_r1.config.sampling import SamplerSettings
from observe_r1.config.section import NamesText, PathText, Section


class EvaluateModelSettings(LadderModelSettings):
    """The models that answer."""

    path: PathText
    """Folder or Hub name of a Hugging Face checkpoint."""
    against: tuple[PathText, ...] = ()
    """Models to compare with, which answer the same questions: the one that training began with, say."""


class EvaluateDataSettings(AskedDataSettings):
    """The questions."""

    path: NamesText = ""
    """File of rows (JSON, JSONL, Parquet, CSV, TSV), folder, ladder or Hub name, as in training; several with commas
    between them. Needed unless `benchmarks.names` says what is asked."""
    max_samples: int | None = Field(None, ge=1)
    """Use only this many questions, from the start."""
    skip_bad: bool = False
    """Skip broken rows and report them; otherwise the first one ends the evaluation."""


class EvaluateRolloutSettings(SamplerSettings):
    """How responses are sampled."""

    max_new_tokens: int = Field(2048, ge=1)
    """Limit of a response, in tokens."""
    samples: int = Field(0, ge=0)
    """Responses per question drawn at `rollout.temperature`, besides the greedy one: for avg@k, pass@k and maj@k."""
    seed: int = Field(0, ge=0)
    """Seeds the samples, and the intervals."""
    batch: int = Field(128, ge=1)
    """Questions answered at a time. More keep the sampler busier, but a killed evaluation loses up to this many."""


class EvaluateRunSettings(Section):
    """The evaluation itself; nothing here changes its figures."""

    output: PathText = "runs/evaluation"
    """Folder of the evaluation. The same command resumes with what is in it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of this process; all cores by default."""
    json_summary: bool = False
    """Print the summary as one JSON object instead of tables (`--json`)."""


class BenchmarkSettings(Section):
    """Public benchmarks, through lmms-eval (extra `benchmarks`), in place of `data.path`."""

    names: tuple[NamesText, ...] = ()
    """Which ones: mathvista, mathverse, mathvision, mmmu, wemath, logicvista, olympiadbench. NAME:FOLDER reads a copy
    of its repository on the Hub. The model that training began with answers, too (`model.against`)."""
    limit: int | None = Field(None, ge=1)
    """Ask only this many questions of each task, from the start: to see that all works."""


class EvaluateSettings(Section):
    """All of `observe-r1 evaluate`."""

    model: EvaluateModelSettings
    data: EvaluateDataSettings
    rollout: EvaluateRolloutSettings = EvaluateRolloutSettings()
    cluster: EngineClusterSettings = EngineClusterSettings()
    benchmarks: BenchmarkSettings = BenchmarkSettings()
    run: EvaluateRunSettings = EvaluateRunSettings()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.data.path and not self.benchmarks.names:
            raise ValueError("setting 'data.path' is missing: name a file of questions, or --benchmarks")
        return self
