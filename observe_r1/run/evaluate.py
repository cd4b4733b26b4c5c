"""An evaluation: each model answers the same questions, every response is kept, and all figures are made from those.

config.yaml                    every setting
1/greedy/responses.jsonl       the first model's response to each question at temperature 0 (`ladder.difficulty`)
1/sampled/responses.jsonl      those drawn with `rollout.samples`
2/…                            the next model's
summary.json                   figures of every model, and how far the first one is from each of the others
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml

from observe_r1.config import DataSettings, EvaluateSettings, LadderSettings, dump_settings, flat
from observe_r1.data import load_data
from observe_r1.data.format_prompts import asked_format
from observe_r1.data.lazy import LazySequence
from observe_r1.errors import UserError
from observe_r1.evaluation.figures import Answer, Answered, Figure, by, differences, figures
from observe_r1.files import LOCK, json_line, lock_folder, make_folder, unlock_folder, write_atomic
from observe_r1.ladder.difficulty import RESPONSE_COLUMNS, measure_questions
from observe_r1.ladder.journal import is_complete
from observe_r1.ladder.questions import stage_rows
from observe_r1.ladder.stage import MEASURE, RESPONSES, Watch
from observe_r1.model.device import choose_device, with_dtype
from observe_r1.records import Example
from observe_r1.rewards.accuracy import require_verifiable
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import kind
from observe_r1.run.progress import Progress
from observe_r1.run.setup import device_line

SUMMARY, CONFIG = "summary.json", "config.yaml"
_MAY_CHANGE = ("run.", "model.against", "rollout.max_rows", "rollout.cuda_graphs", "data.image_cache", "data.skip_bad")
"""Settings that change no response: more models may be compared with later, and an evaluation may run out of memory."""


def evaluate(settings: EvaluateSettings, view: Progress) -> dict[str, Any] | None:
    """Put the questions to every model, and write down what they answer and the figures.

    Called again with the same settings it resumes after the last whole batch.

    Args:
        settings: Of the evaluation.
        view: Shows how far it is, and takes Ctrl-C; entered already.

    Returns:
        What `summary.json` holds: see `summarize`. None if Ctrl-C ended it early.

    Raises:
        UserError: A question or model cannot be read, or the folder holds something else.
    """
    settings = with_dtype(settings)
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    view.now("reading the questions")
    questions = _questions(settings)
    models = (settings.model.path, *settings.model.against)
    device = device_line(choose_device(settings.model.device), settings.model.dtype)
    names = f"{settings.data.path} ({len(questions):,} questions)"
    view.about(model=", ".join(models), data=names, device=device, folder=settings.run.output)
    with _opened(settings) as folder:
        view.stop.after("this batch, which is kept")
        watch = Watch(view.stage, view.note, view.now, lambda: view.stop.requested)
        answered = []
        for number, model in enumerate(models, start=1):
            if not _ask(folder / str(number), model, questions, settings, watch):
                return None
            answered.append(_answers(folder / str(number), questions, settings))
        view.now("drawing the intervals")
        summary = summarize(models, answered, len(questions), settings.rollout.seed)
        write_atomic(folder / SUMMARY, json_line(summary))
        return summary


def summarize(models: Sequence[str], answered: Sequence[Sequence[Answered]], asked: int, seed: int) -> dict[str, Any]:
    """Return the figures of an evaluation, each as `mean`, `low` and `high` of its 95 % interval.

    Args:
        models: Their paths or names; the first is compared with each of the others.
        answered: Of each model, the questions that it answered.
        asked: Questions that there are.
        seed: Of the intervals.

    Returns:
        `models`: of each its `figures`, and those `by` difficulty, source and kind of answer; `differences`: of each
        model but the first, how far the first one is above it.

    Raises:
        UserError: A model answered no question.
    """
    found = []
    for model, questions in zip(models, answered, strict=True):
        if not questions:
            raise UserError(f"{model}: none of the {asked} questions could be asked: raise data.max_prompt_tokens")
        found.append(
            {
                "model": model,
                "questions": len(questions),
                "left_out": asked - len(questions),
                "figures": _plain(figures(questions, seed)),
                "by": {
                    "difficulty": _parts(questions, "difficulty", seed),
                    "source": _parts(questions, "source", seed),
                    "kind": _parts(questions, "kind", seed),
                },
            }
        )
    leads = [
        {"against": model, "differences": _plain(differences(answered[0], questions, seed))}
        for model, questions in zip(models[1:], answered[1:], strict=True)
    ]
    return {"models": found, "differences": leads}


def _plain(values: dict[str, Figure]) -> dict[str, dict[str, float]]:
    return {name: asdict(figure) for name, figure in values.items()}


def _parts(questions: Sequence[Answered], attribute: str, seed: int) -> dict[str, Any]:
    groups = by(questions, attribute)
    return {name: {"questions": len(group), "figures": _plain(figures(group, seed))} for name, group in groups.items()}


class _Questions(LazySequence[Example]):
    """The questions with their ids, of which no two are the same: responses are kept by them."""

    def __init__(self, examples: Sequence[Example], ids: Sequence[str]) -> None:
        self._examples = examples
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Example:
        return self._examples[index]


def _questions(settings: EvaluateSettings) -> _Questions:
    """Return the questions; raise `UserError` for one whose gold answer cannot be verified, and for a duplicate id."""
    data = settings.data
    named = {name: getattr(data, name) for name in ("path", "input_key", "label_key", "max_samples")}
    examples = load_data(DataSettings(**named), seed=0)
    origins: dict[str, str] = {}
    for example in examples:
        require_verifiable(example)
        if example.id in origins:
            raise UserError(f"{example.origin}: duplicate id {example.id!r}, it is that of {origins[example.id]} too")
        origins[example.id] = example.origin
    if not origins:
        raise UserError(f"data.path = {data.path!r}: no questions in it")
    return _Questions(examples, list(origins))


def _ask(place: Path, model: str, questions: _Questions, settings: EvaluateSettings, watch: Watch) -> bool:
    """Write the responses of `model` to `place`; return whether it came to the end."""
    greedy = {"group_size": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    rounds: dict[str, dict[str, Any]] = {"greedy": greedy}
    if settings.rollout.samples:
        rounds["sampled"] = {"group_size": settings.rollout.samples}
    for name, sampling in rounds.items():
        if is_complete(place / name, MEASURE):
            continue
        make_folder(place)
        make_folder(place / name)
        watch.note(f"{name} responses of {model}")
        written_in = asked_format(questions[0].messages)
        if not measure_questions(
            place / name, questions, _as_measurement(settings, model, sampling), watch, written_in=written_in
        ):
            return False
    return True


def _as_measurement(settings: EvaluateSettings, model: str, sampling: dict[str, Any]) -> LadderSettings:
    """Return the settings by which `measure_questions` asks `model`."""
    data = settings.data.model_dump(exclude={"path"})
    loading = settings.model.model_dump(exclude={"against"}) | {"path": model}
    rollout = settings.rollout.model_dump(exclude={"samples"})
    built = LadderSettings.model_validate({"data": data, "model": loading, "rollout": rollout})
    # Past validation, which knows no temperature of 0: a ladder has no use for it.
    return built.model_copy(update={"rollout": built.rollout.model_copy(update=sampling)})


def _answers(place: Path, questions: _Questions, settings: EvaluateSettings) -> list[Answered]:
    """Return the questions that the model of `place` answered, in their order."""
    greedy = _responses(place / "greedy")
    sampled = _responses(place / "sampled") if settings.rollout.samples else {}
    found = []
    for index, row_id in enumerate(questions.ids):
        if row_id in greedy:
            example, (answer,) = questions[index], greedy[row_id]
            reading = read(example.answer)
            found.append(
                Answered(
                    id=row_id,
                    source=example.source,
                    difficulty="" if example.difficulty is None else f"{example.difficulty:g}",
                    kind=kind(reading[0]) if reading else "text",
                    greedy=answer,
                    samples=tuple(sampled.get(row_id, ())),
                )
            )
    return found


def _responses(folder: Path) -> dict[str, list[Answer]]:
    rows = stage_rows(folder / RESPONSES, RESPONSE_COLUMNS)
    return {
        row_id: [Answer(row["text"], row["correct"], row["well_formed"], row["tokens"]) for row in group]
        for row_id, group in groupby(rows, key=lambda row: row["id"])
    }


@contextmanager
def _opened(settings: EvaluateSettings) -> Iterator[Path]:
    """Lock the folder `run.output` and write the settings into it; those of before must be the same."""
    folder = Path(settings.run.output)
    try:
        make_folder(folder)
        lock = lock_folder(folder, "--output")
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be an evaluation's folder: {error.strerror}") from error
    try:
        config = folder / CONFIG
        if config.is_file():
            _compare(config, settings)
        elif {entry.name for entry in folder.iterdir()} - {LOCK, f"{CONFIG}.partial"}:
            raise UserError(f"--output {str(folder)!r}: neither empty nor an evaluation's folder: give another one")
        write_atomic(config, dump_settings(settings))
        yield folder
    finally:
        unlock_folder(folder, lock)


def _compare(config: Path, settings: EvaluateSettings) -> None:
    """Raise `UserError` for a setting that is not as `config` has it and that responses depend on."""
    try:
        old = flat(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{config}: not as the evaluation wrote it: give another --output") from error
    new = flat(settings.model_dump(mode="json"))
    before, now = old.get("model.against", []), new["model.against"]
    if now[: len(before)] != before:
        raise UserError(f"--against: was {before} and is {now} now: add models at the end, or give another --output")
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not name.startswith(_MAY_CHANGE):
            place = f"--output {str(config.parent)!r}"
            raise UserError(
                f"{place}: {name} was {old.get(name)!r} and is {new.get(name)!r} now: give another --output"
            )
