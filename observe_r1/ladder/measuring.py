"""Measuring: how hard a question is, and how much it takes to answer it, by the responses of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from observe_r1.config import LadderSettings
from observe_r1.config.ladder import LadderDataSettings
from observe_r1.data.format_prompts import FORMAT_PROMPTS, asked_format
from observe_r1.errors import UserError
from observe_r1.evaluation.accuracy import GradedResponse
from observe_r1.files import write_atomic
from observe_r1.ladder.asking import Graded, Round, load_engine, measuring_model, rewards, stream_of, with_request
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.simple import SCREENED
from observe_r1.ladder.stage import DROPPED, Watch
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.saving import trained_format
from observe_r1.records import Example, Prompt
from observe_r1.rewards import Scorer
from observe_r1.rollout.engine import sampling_of

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

ASKED = "asked.yaml"
"""How the questions were put to the model: see `Asked`."""
STEPS_PROMPT = "Reason step by step, then give only the final answer between <answer> and </answer>."
"""Stands after the question that is put to a model which knows none of our formats (as arXiv 2505.12432 measures).
The tags are there for grading: of a longer text without them it cannot be told which letter is meant."""
_TAGS = ("<answer>", "</answer>")


class Asked(BaseModel, frozen=True, strict=True, extra="forbid"):
    """The request for a response format."""

    format_prompt: str
    """`steps`, or as in `FORMAT_PROMPTS`, or `none`."""
    place: str
    """Where it stands: `system` or `suffix`."""
    text: str
    """As the model read it."""


def measure(
    folder: Path, examples: Sequence[Example], settings: LadderSettings, watch: Watch, *, written_in: str = "none"
) -> bool:
    """Sample `rollout.group_size` responses to each of `examples`, and write figures and responses to `folder`.

    Appends batch by batch and goes on where it was stopped. `written_in` names the format prompt that stands in the
    questions already, in place of `data.format_prompt`. Returns whether it came to the end.

    Errors: `UserError` without a model, for one that cannot be loaded and, unless `data.skip_bad`, for the first
    question that cannot be asked.
    """
    rollout, model = settings.rollout, measuring_model(settings)
    sampling = sampling_of(rollout, n=rollout.group_size, seed=rollout.seed)
    watch.now("loading the model")
    engine, processor = load_engine(model, settings)
    files = [MEASURED, RESPONSES, DROPPED]
    # A refresh reads other files, and knows them by itself.
    with closing(engine), Journal(folder, STAGE, files, [SCREENED]) as journal:
        asked = _asked(folder, model, settings.data, written_in, journal.done)
        watch.note(f"{model} is asked {in_words(asked.format_prompt)}")
        in_steps = asked.format_prompt == "steps"
        ours = "none" if in_steps or written_in != "none" else asked.format_prompt
        data = settings.data.model_copy(update={"format_prompt": ours, "format_prompt_place": asked.place})

        def encode(example: Example) -> Prompt:
            if in_steps and asked_format(example.messages) == "none":
                example = with_request(example, STEPS_PROMPT)
            return encode_prompt(example, processor, data, stream_of(example))

        def write(journal: Journal, graded: Graded) -> None:
            if in_steps:
                graded = [(example, [_tagged(response) for response in given]) for example, given in graded]
            _write(journal, graded)

        with Scorer(rewards(settings, asked.format_prompt)) as scorer:
            round_ = Round(journal, engine, encode, scorer, sampling, rollout.batch, write)
            return round_.run(examples, STAGE, watch, skip_bad=settings.data.skip_bad)


def read_asked(folder: Path) -> Asked | None:
    """Return how the questions were put in the measurement in `folder`; None where it does not say.

    Errors: `UserError` for a file that is not as a build wrote it.
    """
    path = folder / ASKED
    if not path.is_file():
        return None
    try:
        return Asked.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{path}: not as the build wrote it: put it back, or begin the stage again (--anew)") from error


def in_words(format_prompt: str) -> str:
    """Return what a model was asked for."""
    names = {"steps": "to reason step by step", "none": "the bare question"}
    return names.get(format_prompt, f"for the {format_prompt} format")


def _asked(folder: Path, model: str, data: LadderDataSettings, written_in: str, done: int) -> Asked:
    """Return how the questions are put to the model, and write it down; as before where some were measured already."""
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


def _tagged(response: GradedResponse) -> GradedResponse:
    """Return `response`, well-formed where it keeps the format that `STEPS_PROMPT` asks for."""
    return replace(response, well_formed=all(response.text.count(tag) == 1 for tag in _TAGS))


def figures(row_id: str, responses: Sequence[GradedResponse]) -> dict[str, Any]:
    """Return the row of `measured.jsonl` for a question with these responses (arXiv 2505.12432, NeuraLadder).

    `difficulty` is the share of wrong responses, `complexity` their mean length in tokens, `complexity_correct` that
    of the correct ones (None where there is none), `well_formed` the share that keeps the format.
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
        }
