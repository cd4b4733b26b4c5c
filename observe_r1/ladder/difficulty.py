"""Difficulty and complexity: how hard a question is, and how long the way to its answer, by one model's responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from observe_r1.config import LadderSettings
from observe_r1.config.ladder import LadderDataSettings
from observe_r1.data.format_prompts import FORMAT_PROMPTS, asked_format
from observe_r1.errors import UserError
from observe_r1.files import write_atomic
from observe_r1.ladder.beforehand import measuring_model
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.stage import ASKED, DROPPED, MEASURE, MEASURED, RESPONSES, SCREENED, Watch
from observe_r1.records import Example

if TYPE_CHECKING:  # inference loads torch, and whoever only reads a measurement needs none
    from observe_r1.evaluation.figures import GradedResponse
    from observe_r1.ladder.inference import EngineMaker, GradedBatch
    from observe_r1.rollout.engine import WrittenPrompt

FIGURE_COLUMNS = {
    **{"tries": int, "correct": int, "difficulty": int | float, "complexity": int | float},
    **{"complexity_correct": int | float | None, "well_formed": int | float},
}
"""Columns of `measured.jsonl` beside `id`, with their types."""
RESPONSE_COLUMNS = {"number": int, "text": str, "tokens": int, "correct": bool, "well_formed": bool, "finish": str}
"""Columns of `responses.jsonl` beside `id`, with their types."""

STEPS_PROMPT = "Reason step by step, then give only the final answer between <answer> and </answer>."
"""Asked after the question of a model that knows none of our formats (as arXiv 2505.12432 measures). The tags are there
for grading: in a longer text without them, nobody can tell which letter is the answer."""
_TAGS = ("<answer>", "</answer>")


def question_figures(row_id: str, responses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of `measured.jsonl` for a question (arXiv 2505.12432, NeuraLadder).

    Args:
        row_id: The question's id.
        responses: Its responses, at least one, as rows of `responses.jsonl`.

    Returns:
        `tries` and `correct` count responses; `difficulty` is the share of wrong ones, in [0, 1]; `complexity` is the
        mean length in tokens and `complexity_correct` that of the correct ones (None without any); `well_formed` is
        the share that keeps the format.
    """
    right = [response["tokens"] for response in responses if response["correct"]]
    count = len(responses)
    return {
        "id": row_id,
        "tries": count,
        "correct": len(right),
        "difficulty": 1 - len(right) / count,
        "complexity": sum(response["tokens"] for response in responses) / count,
        "complexity_correct": sum(right) / len(right) if right else None,
        "well_formed": sum(response["well_formed"] for response in responses) / count,
    }


class Asked(BaseModel, frozen=True, strict=True, extra="forbid"):
    """How a measurement asked its model for a response format."""

    format_prompt: str
    """`steps`, a key of `FORMAT_PROMPTS`, or `none`."""
    place: str
    """Where the prompt is: `system` or `suffix`."""
    text: str
    """The prompt as the model read it."""


def read_asked(folder: Path) -> Asked | None:
    """Return how the measurement in `folder` asked its model; None if the folder does not say.

    Raises:
        UserError: The file is not as a build wrote it.
    """
    path = folder / ASKED
    if not path.is_file():
        return None
    try:
        return Asked.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(
            f"{path}: not as the build wrote it: restore the file, or run the stage again with --anew"
        ) from error


def in_words(format_prompt: str) -> str:
    """Return what a model was asked for."""
    names = {"steps": "to reason step by step", "none": "the bare question"}
    return names.get(format_prompt, f"for the {format_prompt} format")


def measure_questions(
    folder: Path,
    examples: Sequence[Example],
    settings: LadderSettings,
    watch: Watch,
    start: EngineMaker,
    *,
    written_in: str = "none",
) -> bool:
    """Sample `rollout.group_size` responses to each question, and write figures and responses to `folder`.

    Saves batch by batch, and resumes after the last batch saved.

    Args:
        folder: Where `measured.jsonl`, `responses.jsonl` and `asked.yaml` are written.
        examples: The questions.
        settings: Of the ladder.
        watch: Is shown the progress.
        start: Starts the model's engine.
        written_in: The format prompt that the questions already contain, which replaces `data.format_prompt`.

    Returns:
        Whether all questions were measured; False if it was stopped.

    Raises:
        UserError: No model is named, it cannot be loaded or, unless `data.skip_bad`, a question cannot be asked.
    """
    from observe_r1.ladder.inference import (
        BatchInference,
        grading,
        random_stream,
        with_instruction,
    )
    from observe_r1.rewards import Scorer
    from observe_r1.rollout.engine import sampling_of

    rollout, model = settings.rollout, measuring_model(settings)
    sampling = sampling_of(rollout, n=rollout.group_size, seed=rollout.seed)
    files = [MEASURED, RESPONSES, DROPPED]
    # A refresh reads other files, and checks them itself.
    with start(model, settings) as (engine, encoder), Journal(folder, MEASURE, files, [SCREENED]) as journal:
        asked = _asked(folder, model, settings.data, written_in, journal.done)
        watch.note(f"{model} is asked {in_words(asked.format_prompt)}")
        in_steps = asked.format_prompt == "steps"
        ours = "none" if in_steps or written_in != "none" else asked.format_prompt
        data = settings.data.model_copy(update={"format_prompt": ours, "format_prompt_place": asked.place})

        def encode(example: Example) -> WrittenPrompt:
            if in_steps and asked_format(example.messages) == "none":
                example = with_instruction(example, STEPS_PROMPT)
            return encoder(example, settings=data, stream=random_stream(example))

        def save(journal: Journal, graded: GradedBatch) -> None:
            for example, given in graded:
                responses = [_response_row(example, number, each, in_steps) for number, each in enumerate(given)]
                journal.append(RESPONSES, responses)
                journal.append(MEASURED, [question_figures(example.id, responses)])

        with Scorer(grading(settings, asked.format_prompt)) as scorer:
            inference = BatchInference(journal, engine, encode, scorer, sampling, rollout.batch, save)
            return inference.run(examples, MEASURE, watch, skip_bad=settings.data.skip_bad)


def _asked(folder: Path, model: str, data: LadderDataSettings, written_in: str, done: int) -> Asked:
    """Return how to ask the model, and write it down; as before if some questions were measured already."""
    from observe_r1.model.saving import trained_format

    if done and (before := read_asked(folder)):
        return before
    name: str = data.format_prompt
    place: str = data.format_prompt_place
    if written_in != "none":
        name = written_in
    elif name == "auto":
        name, place = trained_format(model)
        name = "steps" if name == "none" else name
    if name == "steps":
        place = "suffix"
    text = STEPS_PROMPT if name == "steps" else FORMAT_PROMPTS.get(name, "")
    asked = Asked(format_prompt=name, place=place, text=text)
    write_atomic(folder / ASKED, yaml.safe_dump(asked.model_dump(), sort_keys=False, allow_unicode=True, width=1000))
    return asked


def _response_row(example: Example, number: int, response: GradedResponse, in_steps: bool) -> dict[str, Any]:
    """Return a row of `responses.jsonl`; after `STEPS_PROMPT`, well-formed is what keeps the format it asks for."""
    if in_steps:
        response = replace(response, well_formed=all(response.text.count(tag) == 1 for tag in _TAGS))
    return {
        "id": example.id,
        "number": number,
        "text": response.text,
        "tokens": response.tokens,
        "correct": response.correct,
        "well_formed": response.well_formed,
        "finish": response.finish,
    }
