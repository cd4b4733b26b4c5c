"""The simple-question filter: what a small model answers right away teaches nothing (arXiv 2505.12432, NeuraLadder)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from observe_r1.config import LadderSettings
from observe_r1.data.lazy import LazySequence
from observe_r1.ladder.asking import Graded, Round, load_engine, rewards, stream_of, with_request
from observe_r1.ladder.journal import Journal, is_complete
from observe_r1.ladder.rows import read_questions, read_rows
from observe_r1.ladder.screening import QUESTIONS
from observe_r1.ladder.stage import DROPPED, Watch, dropped
from observe_r1.model.encoding import encode_prompt
from observe_r1.records import Example, Prompt, Sampling
from observe_r1.rewards import Scorer

DIRECT_PROMPT = "Give only the final answer, without any explanation."
"""Stands after the question that a screening model is asked."""

SCREENING = "screening.jsonl"
"""One row a question and screening model: `id`, `model`, `tries`, `correct`, `answers`."""
SCREENED = "screened.jsonl"
"""What the whole screen lets pass."""
STAGE = "screen"


class Chosen(LazySequence[Example]):
    """Some rows of a file of questions."""

    def __init__(self, examples: Sequence[Example], rows: Sequence[int]) -> None:
        self._examples = examples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int) -> Example:
        """Read one row."""
        return self._examples[self._rows[index]]


def stage_of(number: int) -> str:
    """Return the name in `progress.json` of the round with screening model `number`, from 1."""
    return f"{STAGE} {number}"


def drop_simple(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Ask every screening model for the bare answers, and write the questions that none gets right.

    Each model is asked what those before it did not get right and could be asked. Goes on where it was stopped; returns
    whether it came to the end. Errors: `UserError` for a model that cannot be loaded, and as for `measure`.
    """
    for number, model in enumerate(settings.screen.models, start=1):
        if not is_complete(folder, stage_of(number)) and not _ask(folder, number, model, settings, watch):
            return False
    if not is_complete(folder, STAGE):
        _gather(folder, settings)
    return True


def _ask(folder: Path, number: int, model: str, settings: LadderSettings, watch: Watch) -> bool:
    screen, stage = settings.screen, stage_of(number)
    sampling = Sampling(
        n=screen.tries, temperature=screen.temperature, max_new_tokens=screen.max_new_tokens, seed=screen.seed
    )
    with Journal(folder, stage, [SCREENING, DROPPED], [QUESTIONS]) as journal, ExitStack() as stack:
        questions = read_questions(folder / QUESTIONS)
        gone = _simple(folder, settings, before=model).keys() | _unasked(folder, number - 1)
        rows = [row for row in range(len(questions)) if questions.rows[row]["id"] not in gone]
        rollout = settings.rollout.model_copy(update={"max_new_tokens": screen.max_new_tokens})
        watch.now(f"loading {model}")
        engine, processor = load_engine(model, settings.model_copy(update={"rollout": rollout}))
        stack.callback(engine.close)  # the next model needs the memory
        bare = settings.data.model_copy(update={"format_prompt": "none"})

        def encode(example: Example) -> Prompt:
            return encode_prompt(with_request(example, DIRECT_PROMPT), processor, bare, stream_of(example))

        def write(journal: Journal, graded: Graded) -> None:
            journal.append(SCREENING, (_row(example.id, model, given) for example, given in graded))

        scorer = stack.enter_context(Scorer(rewards(settings, bare.format_prompt)))
        round_ = Round(journal, engine, encode, scorer, sampling, rollout.batch, write)
        label = f"screen with {model}"
        return round_.run(Chosen(questions, rows), stage, watch, skip_bad=settings.data.skip_bad, label=label)


def _row(row_id: str, model: str, given: Sequence[Any]) -> dict[str, Any]:
    return {
        "id": row_id,
        "model": model,
        "tries": len(given),
        "correct": sum(response.correct for response in given),
        "answers": [response.text for response in given],
    }


def _simple(folder: Path, settings: LadderSettings, before: str | None = None) -> dict[str, str]:
    """Return which questions a model (one of those before `before`) gets right, by id, with that model's name."""
    found: dict[str, str] = {}
    for row in read_rows(folder / SCREENING, {"model": str, "tries": int, "correct": int}):
        if row["model"] == before:
            break
        if row["correct"] >= settings.screen.threshold:
            found[row["id"]] = f"{row['model']}: {row['correct']} of {row['tries']} right"
    return found


def _unasked(folder: Path, rounds: int) -> set[str]:
    """Return the ids of the questions that could not be put to one of the first so many models."""
    stages = {stage_of(number) for number in range(1, rounds + 1)}
    return {row["id"] for row in read_rows(folder / DROPPED, {"stage": str}) if row["stage"] in stages}


def _gather(folder: Path, settings: LadderSettings) -> None:
    """Write the questions that passed to `screened.jsonl`, and the simple ones to `dropped.jsonl`."""
    with Journal(folder, STAGE, [SCREENED, DROPPED]) as journal:
        rows = read_rows(folder / QUESTIONS, {"source": str})
        simple = _simple(folder, settings) if settings.screen.models else {}
        unasked = _unasked(folder, len(settings.screen.models))
        for row in rows:
            if row["id"] in simple:
                reason = dropped(row["id"], row["source"], STAGE, "simple", simple[row["id"]])
                journal.append(DROPPED, [reason])
            elif row["id"] not in unasked:
                journal.append(SCREENED, [row])
        journal.commit(len(rows), complete=True)
