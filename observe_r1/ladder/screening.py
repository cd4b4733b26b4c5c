"""Screening models: what a small model answers right away teaches nothing (arXiv 2505.12432, NeuraLadder)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from observe_r1.config import LadderSettings
from observe_r1.data.mixture import Mixture
from observe_r1.evaluation.figures import GradedResponse
from observe_r1.ladder.inference import (
    BatchInference,
    EngineMaker,
    GradedBatch,
    grading,
    random_stream,
    with_instruction,
)
from observe_r1.ladder.journal import Journal, is_complete
from observe_r1.ladder.questions import read_questions, stage_rows
from observe_r1.ladder.stage import DROPPED, QUESTIONS, SCREEN, SCREENED, SCREENING, Watch, dropped, round_name
from observe_r1.records import Example, Sampling
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import WrittenPrompt

DIRECT_PROMPT = "Give only the final answer, without any explanation."
"""Asked of a screening model after the question."""


def screen_with_models(folder: Path, settings: LadderSettings, watch: Watch, start: EngineMaker) -> bool:
    """Ask every screening model for the bare answers, and write the questions that none of them gets right.

    Each model is asked the questions that earlier ones could be asked and did not get right.

    Returns:
        Whether it came to the end; False if it was stopped. Called again, it resumes.

    Raises:
        UserError: A model cannot be loaded, or as `measure_questions`.
    """
    for number, model in enumerate(settings.screen.models, start=1):
        if not is_complete(folder, round_name(number)) and not _ask(folder, number, model, settings, watch, start):
            return False
    if not is_complete(folder, SCREEN):
        _write_screened(folder, settings)
    return True


def _ask(folder: Path, number: int, model: str, settings: LadderSettings, watch: Watch, start: EngineMaker) -> bool:
    screen, name = settings.screen, round_name(number)
    sampling = Sampling(
        n=screen.tries, temperature=screen.temperature, max_new_tokens=screen.max_new_tokens, seed=screen.seed
    )
    with Journal(folder, name, [SCREENING, DROPPED], [QUESTIONS]) as journal, ExitStack() as stack:
        questions = read_questions(folder / QUESTIONS)
        gone = _simple(folder, settings, before=model).keys() | _never_asked(folder, number - 1)
        rows = [row for row in range(len(questions)) if questions.rows[row]["id"] not in gone]
        rollout = settings.rollout.model_copy(update={"max_new_tokens": screen.max_new_tokens})
        engine, encoder = stack.enter_context(start(model, settings.model_copy(update={"rollout": rollout})))
        bare = settings.data.model_copy(update={"format_prompt": "none"})

        def encode(example: Example) -> WrittenPrompt:
            return encoder(with_instruction(example, DIRECT_PROMPT), settings=bare, stream=random_stream(example))

        def save(journal: Journal, graded: GradedBatch) -> None:
            journal.append(SCREENING, (_screening_row(example.id, model, given) for example, given in graded))

        scorer = stack.enter_context(Scorer(grading(settings, bare.format_prompt)))
        inference = BatchInference(journal, engine, encode, scorer, sampling, rollout.batch, save)
        label = f"screen with {model}"
        return inference.run(Mixture([questions], rows), name, watch, skip_bad=settings.data.skip_bad, label=label)


def _screening_row(row_id: str, model: str, given: Sequence[GradedResponse]) -> dict[str, Any]:
    return {
        "id": row_id,
        "model": model,
        "tries": len(given),
        "correct": sum(response.correct for response in given),
        "answers": [response.text for response in given],
    }


def _simple(folder: Path, settings: LadderSettings, before: str | None = None) -> dict[str, str]:
    """Return the questions that a model (one of those before `before`) gets right, by id, and which model that is."""
    found: dict[str, str] = {}
    for row in stage_rows(folder / SCREENING, {"model": str, "tries": int, "correct": int}):
        if row["model"] == before:
            break
        if row["correct"] >= settings.screen.threshold:
            found[row["id"]] = f"{row['model']}: {row['correct']} of {row['tries']} right"
    return found


def _never_asked(folder: Path, rounds: int) -> set[str]:
    """Return the ids of the questions that one of the first `rounds` models could not be asked."""
    names = {round_name(number) for number in range(1, rounds + 1)}
    return {row["id"] for row in stage_rows(folder / DROPPED, {"stage": str}) if row["stage"] in names}


def _write_screened(folder: Path, settings: LadderSettings) -> None:
    """Write the questions that passed to `screened.jsonl`, and the simple ones to `dropped.jsonl`."""
    with Journal(folder, SCREEN, [SCREENED, DROPPED]) as journal:
        rows = stage_rows(folder / QUESTIONS, {"source": str})
        simple = _simple(folder, settings) if settings.screen.models else {}
        never_asked = _never_asked(folder, len(settings.screen.models))
        for row in rows:
            if row["id"] in simple:
                journal.append(DROPPED, [dropped(row["id"], row["source"], SCREEN, "simple", simple[row["id"]])])
            elif row["id"] not in never_asked:
                journal.append(SCREENED, [row])
        journal.commit(len(rows), complete=True)
