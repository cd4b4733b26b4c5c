"""Accuracy and format of a model's responses to held-out questions: one greedy each, and samples on request."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from observe_r1.evaluation.figures import GradedResponse
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.records import Example, Prompt, Sampling
from observe_r1.rewards import PendingScores, Scorer
from observe_r1.rollout.engine import Answering, AnyPrompt, Engine, Reply
from observe_r1.threads import map_ahead


@dataclass(frozen=True, slots=True)
class GradedQuestion:
    """One question and the model's responses to it."""

    example: Example
    greedy: GradedResponse
    samples: tuple[GradedResponse, ...] = ()


def grade_questions(
    engine: Engine,
    encode: Callable[[Example, int], Prompt],
    examples: Sequence[Example],
    scorer: Scorer,
    greedy: Sampling,
    sampled: Sampling | None = None,
    batch: int = 128,
    answered: Callable[[int], None] = lambda count: None,
) -> Iterator[list[GradedQuestion]]:
    """Let a model answer questions, and grade its responses.

    Each call encodes the questions again, one batch ahead: the pixels of a thousand questions would fill gigabytes.

    Args:
        engine: Of the model that answers.
        encode: `(example, row) → Prompt`; the row seeds the question's samples, together with `sampled.seed`.
        examples: The questions.
        scorer: With the rewards `accuracy` and `format`.
        greedy: One response at temperature 0.
        sampled: `sampled.n` more responses per question; None for none.
        batch: Questions decoded at a time.
        answered: Called with the number of a question's responses once they are there.

    Yields:
        The graded questions of each batch, in order, without those over the prompt limit.
    """

    def question(row: int) -> tuple[Example, Prompt] | None:
        example = examples[row]
        with suppress(PromptTooLongError):
            return example, encode(example, row)
        return None

    encoded = map_ahead(question, range(len(examples)), ahead=batch)
    while rows := list(islice(encoded, batch)):
        questions = [row for row in rows if row is not None]
        first = [only for (only,) in grade(engine, questions, scorer, greedy, answered)]
        more = grade(engine, questions, scorer, sampled, answered) if sampled else [()] * len(questions)
        yield [
            GradedQuestion(example, one, many) for (example, _), one, many in zip(questions, first, more, strict=True)
        ]
        del rows, questions  # a batch's pixels can take gigabytes, and the next batch is encoded already


def grade(
    engine: Answering[AnyPrompt],
    questions: Sequence[tuple[Example, AnyPrompt]],
    scorer: Scorer,
    sampling: Sampling,
    answered: Callable[[int], None] = lambda count: None,
) -> list[tuple[GradedResponse, ...]]:
    """Sample responses to questions and grade them; those to one question are scored while others are sampled.

    Args:
        engine: Of the model that answers.
        questions: N pairs of a question and its prompt.
        scorer: With the rewards `accuracy` and `format`.
        sampling: How responses are drawn.
        answered: As for `grade_questions`.

    Returns:
        `sampling.n` graded responses to each of the N questions.
    """
    pending: dict[int, PendingScores] = {}

    def score(index: int, completions: Sequence[Reply]) -> None:
        example, prompt = questions[index]
        pending[index] = scorer.submit([c.text for c in completions], example, prompt.text)
        answered(len(completions))

    groups = engine.generate([prompt for _, prompt in questions], sampling, on_group=score)
    return [_graded(group, pending[index]) for index, group in enumerate(groups)]


def _graded(group: Sequence[Reply], pending: PendingScores) -> tuple[GradedResponse, ...]:
    scores = pending.result()
    return tuple(
        GradedResponse(c.text, correct, form > 0, c.tokens, c.finish)
        for c, correct, form in zip(group, scores.correct, scores.parts["format"], strict=True)
    )


def mean_scores(graded: Sequence[GradedQuestion]) -> dict[str, float]:
    """Return the means over questions.

    Args:
        graded: One question at least, each with k samples.

    Returns:
        `accuracy`, `format` (shares) and `length` (tokens) of the greedy responses. Where k is not 0 also `avg@k`, the
        share of samples that are right, and `pass@k`, the share of questions with a right sample. With k samples for
        pass@k, the unbiased estimate 1 − C(k−c, k) / C(k, k) (arXiv 2107.03374) is 1 if c ≥ 1 of them are right and
        0 elsewhere.
    """
    count, k = len(graded), len(graded[0].samples)
    result = {
        "accuracy": sum(g.greedy.correct for g in graded) / count,
        "format": sum(g.greedy.well_formed for g in graded) / count,
        "length": sum(g.greedy.tokens for g in graded) / count,
    }
    if k:
        right = [sum(sample.correct for sample in g.samples) for g in graded]
        result |= {f"avg@{k}": sum(right) / (count * k), f"pass@{k}": sum(c > 0 for c in right) / count}
    return result
