"""Evaluation on held-out questions during a run: before the first step, every so many steps and after the last."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from observe_r1.config import RewardSettings, TrainSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.evaluation.accuracy import GradedQuestion, grade_questions, mean_scores
from observe_r1.records import Example, Sampling
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import Engine, sampling_of
from observe_r1.run.folder import RunFolder
from observe_r1.run.progress import Progress
from observe_r1.training.prompts import PromptEncoder

_SEED = 10**9
"""Added to `run.seed`, which is smaller: no random stream of an evaluation is one of training."""


def load_held_out(settings: TrainSettings) -> Sequence[Example] | None:
    """Return the questions of `evaluation.path`, read as `data.path` is; None if no path is given.

    Raises:
        UserError: They cannot be read.
    """
    if settings.evaluation.path is None:
        return None
    own = {"path": settings.evaluation.path, "probs": None, "max_samples": settings.evaluation.max_samples}
    return load_data(settings.data.model_copy(update=own), settings.run.seed, setting="evaluation.path")


def evaluation_rewards(settings: RewardSettings) -> RewardSettings:
    """Return accuracy and format alone: held-out figures mean the same whatever a run rewards."""
    return settings.model_copy(update={"functions": {"accuracy": 1.0, "format": 1.0}})


class HeldOutEvaluator:
    """Makes a run's evaluations. All of them have the same questions and random streams, none of which is training's.

    Args:
        settings: Of the run.
        questions: The held-out ones.
        engine: With the weights being trained.
        encode: As for training.
        scorer: With `evaluation_rewards`.
        folder: Every evaluation's responses are written there.
        view: Shows how far an evaluation is.
        stopped: Asked after every batch; if it says yes, the evaluation is abandoned.
    """

    def __init__(
        self,
        settings: TrainSettings,
        questions: Sequence[Example],
        engine: Engine,
        encode: PromptEncoder,
        scorer: Scorer,
        folder: RunFolder,
        view: Progress,
        stopped: Callable[[], bool],
    ) -> None:
        self.settings = settings.evaluation
        self.questions = questions
        self.engine = engine
        self.encode = encode
        self.scorer = scorer
        self.folder = folder
        self.view = view
        self.stopped = stopped
        rollout = settings.rollout
        greedy = Sampling(temperature=0, max_new_tokens=rollout.max_new_tokens, stop=rollout.stop)
        sampled = sampling_of(rollout, n=self.settings.samples, seed=settings.run.seed + _SEED)
        self._samplings = greedy, sampled if self.settings.samples else None
        self.best_by = "accuracy" if self.settings.best_by == "greedy" else f"avg@{self.settings.samples}"
        """The figure of an evaluation by which the best is chosen."""
        self.graded: list[GradedQuestion] = []
        """Of the last evaluation."""
        self._warned = False

    def due(self, step: int) -> bool:
        """Whether the weights after `step` steps are evaluated, even if they are not the last."""
        return step % self.settings.every == 0

    def evaluate(self, step: int) -> dict[str, float] | None:
        """Evaluate the weights after `step` steps, and write their responses down.

        Returns:
            The metrics, by names such as `evaluation/accuracy`; None if `stopped` said yes.

        Raises:
            UserError: No question is within the prompt limit.
        """
        started = time.perf_counter()
        answered: list[int] = []  # the engine's own count has the responses of steps that are sampled ahead, too
        responses = len(self.questions) * (1 + self.settings.samples)
        self.view.now("evaluating", responses, lambda: sum(answered))
        graded: list[GradedQuestion] = []
        batches = grade_questions(
            self.engine, self.encode, self.questions, self.scorer, *self._samplings, answered=answered.append
        )
        while not self.stopped():
            batch = next(batches, None)
            if batch is None:
                break
            graded += batch
        else:
            return None
        self._warn_of_long_questions(len(self.questions) - len(graded))
        self.folder.write_evaluation(step, evaluation_rows(graded))
        self.graded = graded
        metrics = {f"evaluation/{name}": value for name, value in mean_scores(graded).items()}
        return metrics | {"time/evaluation": time.perf_counter() - started}

    def _warn_of_long_questions(self, count: int) -> None:
        of = f"{count} of {len(self.questions)} held-out questions are over data.max_prompt_tokens"
        if count == len(self.questions):
            raise UserError(f"evaluation.path = {self.settings.path!r}: {of}: raise it")
        if count and not self._warned:
            self.view.note(f"{of} and left out of every evaluation")
        self._warned = True


def evaluation_rows(graded: Sequence[GradedQuestion]) -> Iterator[dict[str, Any]]:
    """Yield one row per response: first the question's greedy one (`response` 0), then its samples."""
    for question in graded:
        for number, response in enumerate((question.greedy, *question.samples)):
            yield {
                "id": question.example.id,
                "response": number,
                "sampling": "sampled" if number else "greedy",
                "text": response.text,
                "answer": question.example.answer,
                "tokens": response.tokens,
                "finish": response.finish,
                "correct": response.correct,
                "well_formed": response.well_formed,
            }
