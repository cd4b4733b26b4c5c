"""Inference over a dataset: questions sampled and graded batch by batch, each batch saved before the next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar

from observe_r1.config import LadderSettings, ModelSettings, QuestionSettings, RewardSettings
from observe_r1.data.alike import Alike
from observe_r1.errors import UserError
from observe_r1.evaluation.accuracy import grade
from observe_r1.evaluation.figures import GradedResponse
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.stage import DROPPED, Watch, dropped
from observe_r1.model.device import compute_dtype
from observe_r1.model.encoding import PromptTooLongError, encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Example, Sampling
from observe_r1.registry import load
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import Answering, AnyPrompt, RefusedPromptError, WrittenPrompt
from observe_r1.threads import map_ahead

GradedBatch = list[tuple[Example, Sequence[GradedResponse]]]
"""The questions of a batch, each with its graded responses."""

_Made = TypeVar("_Made", bound=WrittenPrompt, covariant=True)


class Encoder(Protocol[_Made]):
    """Makes an engine's prompts, as `encode_prompt` does."""

    def __call__(self, example: Example, *, settings: QuestionSettings, stream: int) -> _Made:
        """Return the prompt; arguments and errors as those of `encode_prompt`."""
        ...


Loaded = tuple[Answering[Any], Encoder[Any]]
"""A model's engine, and what makes its prompts."""
EngineMaker = Callable[[str, LadderSettings], AbstractContextManager[Loaded]]
"""Loads the model at a path for sampling during a block, as `model` and `rollout` say: here (`load_engine`), on many
GPUs, or at a server, which has it loaded. The next model needs the memory, and is loaded after the block."""


def random_stream(example: Example) -> int:
    """Return the random stream of a question: its responses depend on this, the seed and their number alone."""
    return int.from_bytes(blake2b(example.id.encode(errors="surrogatepass"), digest_size=7).digest(), "big")


def with_instruction(example: Example, text: str) -> Example:
    """Return `example` with an instruction after its question."""
    *before, last = example.messages
    instruction = {"type": "text", "text": f"\n{text}"}
    return replace(example, messages=(*before, {**last, "content": [*last["content"], instruction]}))


def model_at(path: str, settings: LadderSettings) -> ModelSettings:
    """Return how the model at `path` is loaded."""
    return ModelSettings(**(settings.model.model_dump() | {"path": path}))


@contextmanager
def load_engine(path: str, settings: LadderSettings) -> Iterator[Loaded]:
    """Load the model at `path` in this process; see `EngineMaker`."""
    loading = model_at(path, settings)
    kind = load("engine", settings.rollout.engine)
    vlm = load_model(loading, frozen=True, weights=not hasattr(kind, "load_weights"))  # a `CopyingEngine` has its own
    engine = kind.from_settings(vlm, settings.rollout, settings.data, compute_dtype(loading))
    with closing(engine):
        yield engine, partial(encode_prompt, processor=vlm.processor)


def grading(settings: LadderSettings, format_prompt: str) -> RewardSettings:
    """Return how responses are graded: correct or not, and well-formed by the format that was asked for."""
    template = "think" if format_prompt == "think" else "observe"
    return RewardSettings(functions={"accuracy": 1.0, "format": 1.0}, template=template, workers=settings.run.workers)


@dataclass(frozen=True)
class BatchInference(Generic[AnyPrompt]):
    """Asks one model a dataset's questions, `batch` at a time.

    Which questions share a batch depends on nothing but their order, so that a build that was stopped resumes with the
    same batches as one that was not.
    """

    journal: Journal
    engine: Answering[AnyPrompt]
    encode: Callable[[Example], AnyPrompt]
    scorer: Scorer
    sampling: Sampling
    batch: int
    save: Callable[[Journal, GradedBatch], None]
    """Appends what a batch leaves."""

    def run(
        self, examples: Sequence[Example], stage: str, watch: Watch, *, skip_bad: bool, label: str | None = None
    ) -> bool:
        """Continue after the last batch saved. Questions over the prompt limit are dropped.

        Args:
            examples: All questions, those already asked included.
            stage: The name in `progress.json` and `dropped.jsonl`.
            watch: Is shown the progress.
            skip_bad: Whether questions that are broken, or that the engine refuses, are dropped, too.
            label: Shown in place of the stage.

        Returns:
            Whether all questions were asked; False if it was stopped.

        Raises:
            UserError: A question is broken or refused, unless `skip_bad`.
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
        with closing(self._encoded(examples)) as batches:
            for done, questions in batches:
                for example, error in questions:
                    if isinstance(error, UserError):
                        self._drop(example, error, stage, skipped, skip_bad)
                askable = [(example, prompt) for example, prompt in questions if not isinstance(prompt, UserError)]
                graded = self._grade(askable, stage, watch, skipped, skip_bad)
                self.save(self.journal, [(example, given) for (example, _), given in zip(askable, graded, strict=True)])
                self.journal.commit(done, complete=done == total)
                watch.progress(label, done, total)
                if done < total and watch.stopped():
                    return False
        return True

    def _grade(
        self, askable: list[tuple[Example, AnyPrompt]], stage: str, watch: Watch, skipped: Alike, skip_bad: bool
    ) -> list[tuple[GradedResponse, ...]]:
        """Return the graded responses to the questions; those that the engine refuses are removed from `askable`."""
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

    def _encoded(
        self, examples: Sequence[Example]
    ) -> Generator[tuple[int, list[tuple[Example, AnyPrompt | UserError]]], None, None]:
        """Yield batches, each with the rows done after it; the next one is encoded while this one is sampled."""

        def encode(start: int) -> tuple[int, list[tuple[Example, AnyPrompt | UserError]]]:
            end = min(start + self.batch, len(examples))
            return end, [self._encode(examples[index]) for index in range(start, end)]

        return map_ahead(encode, range(self.journal.done, len(examples), self.batch), ahead=1)

    def _encode(self, example: Example) -> tuple[Example, AnyPrompt | UserError]:
        try:
            return example, self.encode(example)
        except UserError as error:
            return example, error
