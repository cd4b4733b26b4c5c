"""Measuring: how hard a question is, and how much it takes to answer it, by the responses of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from observe_r1.config import LadderSettings
from observe_r1.evaluation.accuracy import GradedResponse
from observe_r1.ladder.asking import Graded, Round, load_engine, measuring_model, rewards, stream_of
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.simple import SCREENED
from observe_r1.ladder.stage import DROPPED, Watch
from observe_r1.model.encoding import encode_prompt
from observe_r1.records import Example, Prompt
from observe_r1.rewards import Scorer
from observe_r1.rollout.sampling import sampling_of

STAGE = "measure"
MEASURED = "measured.jsonl"
"""One row a question: see `figures`."""
FIGURES = {
    **{"tries": int, "correct": int, "difficulty": int | float, "complexity": int | float},
    **{"complexity_correct": int | float | None, "well_formed": int | float},
}
"""Its columns that the ladder is made of, beside `id`."""
RESPONSES = "responses.jsonl"
"""One row a response: see `RESPONSE`."""
RESPONSE = {"number": int, "text": str, "tokens": int, "correct": bool, "well_formed": bool, "finish": str}
"""Its columns by which it is graded again, beside `id`."""


def measure(
    folder: Path, examples: Sequence[Example], settings: LadderSettings, watch: Watch, *, written_in: str = "none"
) -> bool:
    """Sample `rollout.group_size` responses to each of `examples`, and write figures and responses to `folder`.

    Appends batch by batch and goes on where it was stopped. `written_in` names the format prompt that stands in the
    questions already, in place of `data.format_prompt`. Returns whether it came to the end.

    Errors: `UserError` without a model, for one that cannot be loaded and, unless `data.skip_bad`, for the first
    question that cannot be asked.
    """
    rollout = settings.rollout
    sampling = sampling_of(rollout, n=rollout.group_size, seed=rollout.seed)
    is_written_in = written_in != "none"
    data = settings.data.model_copy(update={"format_prompt": "none"}) if is_written_in else settings.data
    grading = rewards(settings, written_in if is_written_in else settings.data.format_prompt)

    def encode(example: Example) -> Prompt:
        return encode_prompt(example, processor, data, stream_of(example))

    watch.now("loading the model")
    engine, processor = load_engine(measuring_model(settings), settings)
    files = [MEASURED, RESPONSES, DROPPED]
    # A refresh reads other files, and knows them by itself.
    with closing(engine), Journal(folder, STAGE, files, [SCREENED]) as journal, Scorer(grading) as scorer:
        round_ = Round(journal, engine, encode, scorer, sampling, rollout.batch, _write)
        return round_.run(examples, STAGE, watch, skip_bad=settings.data.skip_bad)


def figures(row_id: str, responses: Sequence[GradedResponse]) -> dict[str, Any]:
    """Return the row of `measured.jsonl` for a question with these responses (arXiv 2505.12432, NeuraLadder).

    `difficulty` is the share of wrong responses, `complexity` their mean length in tokens, `complexity_correct` that
    of the correct ones (None where there is none), `well_formed` the share that keeps the format, `timeouts` how many
    took over the limit to grade and count as wrong.
    """
    right = [response.tokens for response in responses if response.correct]
    count = len(responses)
    return {
        "id": row_id,
        "tries": count,
        "correct": len(right),
        "difficulty": 1 - len(right) / count,
        "complexity": sum(response.tokens for response in responses) / count,
        "complexity_correct": sum(right) / len(right) if right else None,
        "well_formed": sum(response.well_formed for response in responses) / count,
        "timeouts": sum(response.timed_out for response in responses),
    }


def _write(journal: Journal, graded: Graded) -> None:
    journal.append(RESPONSES, (row for example, given in graded for row in _response_rows(example, given)))
    journal.append(MEASURED, (figures(example.id, given) for example, given in graded))


def _response_rows(example: Example, responses: Sequence[GradedResponse]) -> Iterator[dict[str, Any]]:
    for number, response in enumerate(responses):
        yield {
            "id": example.id,
            "number": number,
            "text": response.text,
            "tokens": response.tokens,
            "correct": response.correct,
            "well_formed": response.well_formed,
            "finish": response.finish,
            "timed_out": response.timed_out,
        }
