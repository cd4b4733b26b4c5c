"""Putting questions to a model, batch by batch: sampling, grading, and what stays of it when the build is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from observe_r1.config import LadderSettings, ModelSettings, RewardSettings
from observe_r1.data.alike import Alike
from observe_r1.errors import UserError
from observe_r1.evaluation.accuracy import GradedResponse, grade
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.stage import DROPPED, Watch, dropped
from observe_r1.model.device import compute_dtype
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.model.loading import load_model
from observe_r1.records import Example, Prompt, Sampling
from observe_r1.registry import load
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import Engine, RefusedPromptError
from observe_r1.threads import encoding_thread

Encode = Callable[[Example], Prompt]
Graded = list[tuple[Example, Sequence[GradedResponse]]]


def stream_of(example: Example) -> int:
    """Return the random stream of an item: with seed and response number all that its responses depend on."""
    return int.from_bytes(blake2b(example.id.encode(errors="surrogatepass"), digest_size=7).digest(), "big")


def with_request(example: Example, text: str) -> Example:
    """Return `example` with a request after its question."""
    *before, last = example.messages
    request = {"type": "text", "text": f"\n{text}"}
    return replace(example, messages=(*before, {**last, "content": [*last["content"], request]}))


def measuring_model(settings: LadderSettings) -> str:
    """Return the path of the model that measures. Errors: `UserError` without one."""
    if settings.model.path is None:
        raise UserError("setting 'model.path' is missing: name the model that measures (--model)")
    return settings.model.path


def load_engine(path: str, settings: LadderSettings) -> tuple[Engine, Any]:
    """Load the model at `path` for sampling, as `model` and `rollout` say; returns its engine and its processor."""
    loading = ModelSettings(**(settings.model.model_dump() | {"path": path}))
    kind = load("engine", settings.rollout.engine)
    vlm = load_model(loading, frozen=True, weights=not hasattr(kind, "load_weights"))  # a `CopyingEngine` has its own
    engine = kind.from_settings(vlm, settings.rollout, settings.data, compute_dtype(loading))
    return engine, vlm.processor


def rewards(settings: LadderSettings, format_prompt: str) -> RewardSettings:
    """Return how responses are graded: right or wrong, and well-formed by the format that was asked for."""
    template = "think" if format_prompt == "think" else "observe"
    return RewardSettings(functions={"accuracy": 1.0, "format": 1.0}, template=template, workers=settings.run.workers)


@dataclass(frozen=True)
class Round:
    """Questions that are put to one model, `batch` at a time, each batch written down before the next.

    Which questions share a batch depends on nothing but their order, so that a build that was stopped goes on with the
    very batches of one that was not.
    """

    journal: Journal
    engine: Engine
    encode: Encode
    scorer: Scorer
    sampling: Sampling
    batch: int
    write: Callable[[Journal, Graded], None]
    """Appends what is to stay of a batch."""

    def run(
        self, examples: Sequence[Example], stage: str, watch: Watch, *, skip_bad: bool, label: str | None = None
    ) -> bool:
        """Go on after the last whole batch; returns whether it came to the end. `watch` sees `label`, or the stage.

        Questions over the prompt limit are dropped; with `skip_bad` broken ones and those that the engine refuses, too.
        Errors: `UserError` for one of the latter without `skip_bad`.
        """
        with closing(Alike(watch.note)) as skipped:
            return self._run(examples, stage, watch, skipped, skip_bad=skip_bad, label=label or stage)

    def _run(
        self, examples: Sequence[Example], stage: str, watch: Watch, skipped: Alike, *, skip_bad: bool, label: str
    ) -> bool:
        total = len(examples)
        watch.progress(label, self.journal.done, total)
        if total == 0:
            self.journal.commit(0, complete=True)
        for done, questions in self._encoded(examples):
            for example, error in questions:
                if isinstance(error, UserError):
                    self._drop(example, error, stage, skipped, skip_bad)
            askable = [(example, prompt) for example, prompt in questions if isinstance(prompt, Prompt)]
            graded = self._grade(askable, stage, watch, skipped, skip_bad)
            self.write(self.journal, [(example, given) for (example, _), given in zip(askable, graded, strict=True)])
            self.journal.commit(done, complete=done == total)
            watch.progress(label, done, total)
            if done < total and watch.stopped():
                return False
        return True

    def _grade(
        self, askable: list[tuple[Example, Prompt]], stage: str, watch: Watch, skipped: Alike, skip_bad: bool
    ) -> list[tuple[GradedResponse, ...]]:
        """Return the graded responses to the questions, of which those that the engine refuses are taken out."""
        before = self.engine.finished
        while True:
            responses = len(askable) * self.sampling.n
            watch.now("sampling", responses, lambda: self.engine.finished - before)
            try:
                return grade(self.engine, askable, self.scorer, self.sampling)
            except RefusedPromptError as error:
                example, _ = askable.pop(error.index)
                self._drop(example, UserError(f"{example.origin}: {error}"), stage, skipped, skip_bad)

    def _drop(self, example: Example, error: UserError, stage: str, skipped: Alike, skip_bad: bool) -> None:
        too_long = isinstance(error, PromptTooLongError)
        if not too_long and not skip_bad:
            raise UserError(f"{error} (--skip-bad leaves such rows out)") from error
        skipped.add(str(error), start="skipped: ")
        reason = "prompt too long" if too_long else "broken row"
        self.journal.append(DROPPED, [dropped(example.id, example.source, stage, reason, str(error))])

    def _encoded(self, examples: Sequence[Example]) -> Iterator[tuple[int, list[tuple[Example, Prompt | UserError]]]]:
        """Yield batches, each with the rows done after it; the next one is encoded while this one is sampled."""
        starts = range(self.journal.done, len(examples), self.batch)
        with encoding_thread() as thread:
            ahead = thread.submit(self._encode, examples, starts[0]) if starts else None
            for start in starts:
                assert ahead is not None
                questions = ahead.result()
                following = start + self.batch
                ahead = thread.submit(self._encode, examples, following) if following in starts else None
                yield start + len(questions), questions

    def _encode(self, examples: Sequence[Example], start: int) -> list[tuple[Example, Prompt | UserError]]:
        questions: list[tuple[Example, Prompt | UserError]] = []
        for index in range(start, min(start + self.batch, len(examples))):
            example = examples[index]
            try:
                questions.append((example, self.encode(example)))
            except UserError as error:
                questions.append((example, error))
        return questions
