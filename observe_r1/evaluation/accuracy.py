"""Accuracy and format of one response a question."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from observe_r1.config import DataSettings
from observe_r1.model.encoding import encode_prompt
from observe_r1.records import Completion, Example, Sampling
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import Engine


@dataclass(frozen=True, slots=True)
class Graded:
    """One question, the model's response and its scores."""

    example: Example
    response: str
    correct: bool
    well_formed: bool
    tokens: int


def evaluate(
    engine: Engine,
    processor: object,
    examples: Sequence[Example],
    data: DataSettings,
    scorer: Scorer,
    sampling: Sampling,
    on_progress: Callable[[int], None] = lambda done: None,
    batch: int = 128,
) -> list[Graded]:
    """Return every example with its response graded, in order; `sampling.n` must be 1.

    Questions are decoded `batch` at a time; `on_progress` is told how many are done.
    """
    graded: list[Graded] = []
    for start in range(0, len(examples), batch):
        part = [examples[i] for i in range(start, min(start + batch, len(examples)))]
        prompts = [encode_prompt(example, processor, data, start + i) for i, example in enumerate(part)]
        responses: list[Completion] = [group[0] for group in engine.generate(prompts, sampling)]
        pending = [scorer.submit([r.text], e.answer) for r, e in zip(responses, part, strict=True)]
        for example, response, scores in zip(part, responses, pending, strict=True):
            result = scores.result()
            graded.append(
                Graded(
                    example=example,
                    response=response.text,
                    correct=result.correct[0],
                    well_formed=result.parts["format"][0] > 0,
                    tokens=len(response.ids),
                )
            )
        on_progress(len(graded))
    return graded


def summary(graded: Sequence[Graded]) -> dict[str, float]:
    """Return mean accuracy, share well-formed and mean length in tokens."""
    count = len(graded)
    return {
        "accuracy": sum(g.correct for g in graded) / count,
        "format": sum(g.well_formed for g in graded) / count,
        "length": sum(g.tokens for g in graded) / count,
    }
