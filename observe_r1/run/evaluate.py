"""An evaluation: each model answers the same questions, every response is kept, and all figures are made from those.

config.yaml                    every setting
begun.json                     digests of the questions and of each model's files, which must not change
1/greedy/responses.jsonl       the first model's response to each question at temperature 0 (`ladder.difficulty`)
1/sampled/responses.jsonl      those drawn with `rollout.samples`
2/…                            the next model's
summary.json                   figures of every model, and how far the first one is from each of the others
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from observe_r1.config import EvaluateSettings, FileSettings, LadderSettings, dump_settings, flat
from observe_r1.config.verbs import with_defaults
from observe_r1.data.alike import Alike
from observe_r1.data.examples import open_examples
from observe_r1.data.format_prompts import asked_format
from observe_r1.data.lazy import Joined, LazySequence
from observe_r1.data.mixture import file_names, mix_sequences
from observe_r1.errors import UserError, in_words
from observe_r1.evaluation.figures import SUMMARY, Answered, GradedResponse, summarize
from observe_r1.files import LOCK, json_line, lock_folder, make_folder, unlock_folder, write_atomic
from observe_r1.ladder.difficulty import RESPONSE_COLUMNS, measure_questions
from observe_r1.ladder.inference import EngineMaker
from observe_r1.ladder.inputs import model_digest
from observe_r1.ladder.journal import is_complete
from observe_r1.ladder.questions import stage_rows
from observe_r1.ladder.stage import BEGUN, DROPPED, MEASURE, RESPONSES, Watch
from observe_r1.model.device import with_dtype
from observe_r1.model.hub import check_model_path
from observe_r1.records import Example
from observe_r1.rewards.accuracy import require_verifiable
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import kind
from observe_r1.rollout.server import ChatServer
from observe_r1.run.engines import at_server, engines_for
from observe_r1.run.folder import CONFIG
from observe_r1.run.progress import Progress
from observe_r1.run.setup import asked_where

BENCHMARKS, LOG = "benchmarks", "lmms_eval.log"
"""What `run.benchmarks` puts there before any question is asked."""
_MAY_CHANGE = (
    *("run.", "cluster.", "model.against", "rollout.max_rows", "rollout.cuda_graphs"),
    *("data.image_cache", "data.skip_bad"),
    *("server.url", "server.at_once", "server.timeout", "server.retries"),
)
"""Settings that change no response: more models may be compared with later, an evaluation may run out of memory, and a
server may move."""
_DIGESTS = TypeAdapter(dict[str, str])


def evaluate(settings: EvaluateSettings, view: Progress) -> dict[str, Any] | None:
    """Put the questions to every model, and write down what they answer and the figures.

    Called again with the same settings it resumes after the last whole batch.

    Args:
        settings: Of the evaluation.
        view: Shows how far it is, and takes Ctrl-C; entered already.

    Returns:
        What `summary.json` holds: see `evaluation.figures.summarize`. None if Ctrl-C ended it early.

    Raises:
        UserError: A question or model cannot be read, or the folder holds something else.
    """
    settings = with_dtype(settings)
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    models = (settings.model.path, *settings.model.against)
    view.now("looking for the models")  # the Hub may take seconds to answer
    settings, server = _with_server(settings, view)
    for number, model in enumerate(models):
        if number or server is None:
            check_model_path(
                model, "model.against" if number else "model.path", trust_code=settings.model.trust_remote_code
            )
    questions = _questions(settings, view)
    device = asked_where(settings)
    if server is not None:
        device = f"{settings.server.url} for {server.model}" + f", {device}" * bool(settings.model.against)
    names = f"{settings.data.path} ({len(questions):,} questions)"
    view.about(model=", ".join(models), data=names, device=device, folder=settings.run.output)
    with _opened(settings, questions) as folder, engines_for(settings, view) as start:
        view.stop.after("this batch, which is kept")
        watch = Watch(view.stage, view.note, view.now, lambda: view.stop.requested)
        answered = []
        for number, model in enumerate(models, start=1):
            maker = at_server(server) if server is not None and number == 1 else start
            shown = replace(watch, note=_once(view.note))  # two rounds say the same of a model
            if not _ask(folder / str(number), model, questions, settings, shown, maker):
                return None
            answered.append(_answers(folder / str(number), questions, settings))
        view.stop.after("")  # every response is kept: from here on Ctrl-C loses nothing and ends at once
        view.now("comparing the responses")
        summary = summarize(models, answered, questions.read, settings.rollout.seed)
        write_atomic(folder / SUMMARY, json_line(summary))
        return summary


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """Return a `note` that says each line once."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            note(line)

    return say


def _with_server(settings: EvaluateSettings, view: Progress) -> tuple[EvaluateSettings, ChatServer | None]:
    """Return the server that answers for the first model, and the settings with that model's name there."""
    if settings.server.url is None:
        return settings, None
    path = settings.model.path
    server = ChatServer(settings.server, path, is_folder=Path(path).is_dir(), note=view.note)
    named = settings.server.model_copy(update={"model": server.model})
    return settings.model_copy(update={"server": named}), server


class _Questions(LazySequence[Example]):
    """The questions with their ids, of which no two are the same: responses are kept by them."""

    def __init__(self, examples: Sequence[Example], rows: Sequence[int], ids: Sequence[str], digest: str) -> None:
        self._examples = examples
        self._rows = rows
        self.ids = ids
        self.digest = digest
        """Of all that the models are asked and judged by, except what is in the images' files."""
        self.read = len(examples)
        """Rows that there are, with those that are broken."""

    def __len__(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Example:
        return self._examples[self._rows[index]]


def _questions(settings: EvaluateSettings, view: Progress) -> _Questions:
    """Return the questions; raise `UserError`, unless `data.skip_bad`, for a broken row and a duplicate id."""
    data = settings.data
    files = [
        Joined(open_examples(name, data.input_key, data.label_key, data.columns, require_answer=True))
        for name in file_names(FileSettings(path=data.path))
    ]
    examples = mix_sequences(files, None, seed=0, limit=data.max_samples)
    rows: list[int] = []
    origins: dict[str, str] = {}
    digest = sha256()
    row = 0
    view.now("reading the questions", len(examples), lambda: row)
    with closing(Alike(view.note)) as skipped:
        for row in range(len(examples)):
            try:
                example = examples[row]
                require_verifiable(example)
                if example.id in origins:
                    raise UserError(
                        f"{example.origin}: duplicate id {example.id!r}, it is that of {origins[example.id]} too"
                    )
            except UserError as error:
                if not data.skip_bad:
                    raise UserError(f"{error} (--skip-bad leaves such rows out)") from error
                skipped.add(str(error), start="skipped: ")
                continue
            rows.append(row)
            origins[example.id] = example.origin
            images = [image if isinstance(image, bytes) else image.rpartition("/")[2] for image in example.images]
            digest.update(repr((example.id, example.messages, images, example.answer)).encode())
    if not origins:
        raise UserError(f"data.path = {data.path!r}: no questions in it that can be asked")
    return _Questions(examples, rows, list(origins), digest.hexdigest())


def _ask(
    place: Path, model: str, questions: _Questions, settings: EvaluateSettings, watch: Watch, start: EngineMaker
) -> bool:
    """Write the responses of `model` to `place`; return whether it came to the end."""
    greedy = {"group_size": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
    rounds: dict[str, dict[str, Any]] = {"greedy": greedy}
    if settings.rollout.samples:
        rounds["sampled"] = {"group_size": settings.rollout.samples}
    rounds = {name: sampling for name, sampling in rounds.items() if not is_complete(place / name, MEASURE)}
    if not rounds:
        return True
    if watch.stopped():
        return False
    make_folder(place)
    with start(model, _as_measurement(settings, model, {})) as loaded:  # once: rounds differ in how they sample alone
        for name, sampling in rounds.items():
            if watch.stopped():
                return False
            make_folder(place / name)
            watch.note(f"{name} responses of {model}")
            label = f"{name}, model {place.name}" if settings.model.against else name
            written_in = asked_format(questions[0].messages)
            measurement, shown = _as_measurement(settings, model, sampling), _labelled(watch, label)
            if not measure_questions(
                place / name, questions, measurement, shown, lambda *_: nullcontext(loaded), written_in=written_in
            ):
                return False
    return True


def _labelled(watch: Watch, label: str) -> Watch:
    return replace(watch, progress=lambda _, done, total: watch.progress(label, done, total))


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
    greedy = _responses(place / "greedy", questions, 1)
    samples = settings.rollout.samples
    sampled = _responses(place / "sampled", questions, samples) if samples else {}
    found = []
    for index, row_id in enumerate(questions.ids):
        if row_id in greedy:
            example, (answer,) = questions[index], greedy[row_id]
            reading = read(final_answer(example.answer))
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


def _responses(folder: Path, questions: _Questions, count: int) -> dict[str, list[GradedResponse]]:
    """Return the responses of a round; raise `UserError` unless each question has `count` of them or was dropped."""
    damaged = f"{folder}: not as the evaluation wrote it: remove that folder, and the same command asks again"
    try:
        rows = stage_rows(folder / RESPONSES, RESPONSE_COLUMNS)
        found = {
            row_id: [
                GradedResponse(row["text"], row["correct"], row["well_formed"], row["tokens"], row["finish"])
                for row in group
            ]
            for row_id, group in groupby(rows, key=lambda row: row["id"])
        }
        left_out = {row["id"] for row in stage_rows(folder / DROPPED)}
    except UserError as error:
        raise UserError(damaged) from error
    if found.keys() | left_out != set(questions.ids) or any(len(group) != count for group in found.values()):
        raise UserError(damaged)
    return found


@contextmanager
def _opened(settings: EvaluateSettings, questions: _Questions) -> Iterator[Path]:
    """Lock the folder `run.output` and write down what is evaluated; what was begun before must be the same."""
    folder = Path(settings.run.output)
    try:
        make_folder(folder)
        lock = lock_folder(folder, "--output")
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be an evaluation's folder: {in_words(error)}") from error
    try:
        config = folder / CONFIG
        begun = {"questions": questions.digest} | {
            model: model_digest(model) for model in (settings.model.path, *settings.model.against)
        }
        if config.is_file() and (folder / BEGUN).is_file():  # a training run has a file of settings, too
            _compare(config, settings)
            _compare_inputs(folder / BEGUN, begun, settings)
        else:
            refuse_another_folder(folder)
        write_atomic(folder / BEGUN, json.dumps(begun, indent=1) + "\n")
        write_atomic(config, dump_settings(settings))
        yield folder
    finally:
        unlock_folder(folder, lock)


def refuse_another_folder(folder: Path) -> None:
    """Raise `UserError` if `folder` holds something and is not an evaluation's."""
    ours = {LOCK, BEGUN, f"{BEGUN}.partial", f"{CONFIG}.partial", BENCHMARKS, LOG}
    begun = (folder / CONFIG).is_file() and (folder / BEGUN).is_file()
    if folder.is_dir() and not begun and {entry.name for entry in folder.iterdir()} - ours:
        raise UserError(f"--output {str(folder)!r}: neither empty nor an evaluation's folder: give another one")


def _compare_inputs(path: Path, begun: dict[str, str], settings: EvaluateSettings) -> None:
    """Raise `UserError` for questions or a model that changed since `path` was written."""
    try:
        before = _DIGESTS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: not as the evaluation wrote it: give another --output") from error
    if changed := [name for name in begun if before.get(name, begun[name]) != begun[name]]:
        what = f"the questions of {settings.data.path}" if changed[0] == "questions" else f"the model {changed[0]}"
        raise UserError(f"{what} changed since this evaluation began in {str(path.parent)!r}: give another --output")


def _compare(config: Path, settings: EvaluateSettings) -> None:
    """Raise `UserError` for a setting that is not as `config` has it and that responses depend on."""
    try:
        old = flat(with_defaults(yaml.safe_load(config.read_text(encoding="utf-8")), settings))
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
