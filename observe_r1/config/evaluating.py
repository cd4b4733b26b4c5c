"""The settings of `observe-r1 evaluate`."""

import os
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from observe_r1.config.cluster import EngineClusterSettings
from observe_r1.config.ladder import AskedDataSettings, LadderModelSettings
from observe_r1.config.sampling import SamplerSettings
from observe_r1.config.section import NamesText, NonEmptyText, PathText, Section


def _base_url(url: str) -> str:
    """Take the address of a server; one without a path gets OpenAI's `/v1`."""
    parts = re.fullmatch(r"(https?://[^/?#@\s]+)(/[^?#@\s]*?)?(/chat/completions)?/*", url)
    if parts is None:
        raise ValueError("needs an http(s) address such as http://localhost:8000/v1, without key, password or '?'")
    return parts[1] + ((parts[2] or "").rstrip("/") or "/v1")


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


_SET_BY = {
    "temperature": "rollout.temperature (0 for the greedy response)",
    **{name: f"rollout.{name}" for name in ("top_p", "top_k", "seed", "stop")},
    "max_tokens": "rollout.max_new_tokens",
}
"""Fields of a request that settings give."""


class ServerSettings(Section):
    """A server that answers for the first model by OpenAI's API. The variable OBSERVE_R1_SERVER_KEY holds its key."""

    url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Its address: http://localhost:8000/v1."""
    model: NonEmptyText | None = None
    """Name of the model there; by default `model.path` or, if that is a folder, the name of the server's only model.
    """
    at_once: int = Field(16, ge=1)
    """Requests under way at a time, one for each response."""
    timeout: float = Field(600.0, gt=0)
    """Seconds for a response."""
    retries: int = Field(8, ge=0)
    """How often a request is sent again that was refused (429), failed (5xx) or got no answer: at once, then after 1,
    2, 4, … seconds, 30 at most."""
    fields: dict[str, Any] | None = None
    """More fields of each request, `reasoning_effort=low`; `null` leaves one out: `max_tokens=null`."""

    @model_validator(mode="after")
    def _needs_an_address(self) -> Self:
        if self.url is None and (given := self.changed()):
            raise ValueError(f"server.{given[0]} needs server.url, the server's address")
        fields = self.fields or {}
        if unread := sorted(fields.keys() & {"messages", "model", "n", "stream", "logprobs"}):
            raise ValueError(f"server.fields: {unread[0]} is not for you to set")
        for name in sorted(name for name in fields.keys() & _SET_BY.keys() if fields[name] is not None):
            raise ValueError(
                f"server.fields: {name} = {fields[name]!r}: the evaluation sets this field, by {_SET_BY[name]}: set "
                f"that; {name}=null leaves the field out"
            )
        return self


class EvaluateSettings(Section):
    """All of `observe-r1 evaluate`."""

    model: EvaluateModelSettings
    data: EvaluateDataSettings
    rollout: EvaluateRolloutSettings = EvaluateRolloutSettings()
    cluster: EngineClusterSettings = EngineClusterSettings()
    benchmarks: BenchmarkSettings = BenchmarkSettings()
    server: ServerSettings = ServerSettings()
    run: EvaluateRunSettings = EvaluateRunSettings()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.data.path and not self.benchmarks.names:
            raise ValueError("setting 'data.path' is missing: name a file of questions, or --benchmarks")
        # An evaluation writes down where the questions of its benchmarks are, and resumes with that.
        own = os.path.join(self.run.output, "benchmarks", "questions.jsonl")  # noqa: PTH118 (as it is written down)
        if self.benchmarks.names and self.data.path not in ("", own):
            raise ValueError(
                f"--benchmarks asks questions of its own, and data.path = {self.data.path!r} names others: give one of "
                "the two"
            )
        return self
