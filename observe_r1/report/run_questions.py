"""The questions of a run: those it was trained on and the held-out ones, by the ids that its responses name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from observe_r1.config import DataSettings, validate
from observe_r1.data import load_data
from observe_r1.data.mixture import file_names
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.report.run_records import RunRecord
from observe_r1.run.folder import CONFIG

_READ = ("path", "probs", "input_key", "label_key", "max_samples", "image_cache", "allow_private_addresses")


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions by id, each read when it is asked for."""

    settings: DataSettings
    examples: Sequence[Example] = ()
    row: dict[str, int] = field(default_factory=dict)
    """Place in the dataset, from 0."""
    difficulty: dict[str, float] = field(default_factory=dict)
    """Of those whose difficulty was measured, in [0, 1]."""
    source: dict[str, str] = field(default_factory=dict)
    missing: str = ""
    """Why there are none, in one line."""

    def get(self, row_id: str) -> Example | None:
        """Return a question; None if the dataset no longer has it."""
        return self.examples[self.row[row_id]] if row_id in self.row else None


def training_questions(run: RunRecord) -> Questions:
    """Return the questions of `data.path`; none, and why, if they can no longer be read."""
    return _questions(run, "training", {})


def held_out_questions(run: RunRecord) -> Questions:
    """Return the questions of `evaluation.path`; none, and why, if they can no longer be read."""
    own = {name: run.settings.get(f"evaluation.{name}") for name in ("path", "max_samples")}
    return _questions(run, "held-out", own | {"probs": None})


def _questions(run: RunRecord, kind: str, own: dict[str, Any]) -> Questions:
    """Return the questions of a run, which are the same from its beginning to its end, resumed or not."""
    values = {name.removeprefix("data."): value for name, value in run.settings.items() if name.startswith("data.")}
    seed, output = (run.settings.get(f"run.{name}") for name in ("seed", "output"))
    config = run.path / CONFIG
    read = partial(read_questions, values | own, int(seed or 0), config, str(output))
    return run.memory.of_file(config, f"{kind} questions", read, enough=lambda found: not found.missing)


def read_questions(values: dict[str, Any], seed: int, recorded: Path, output: str) -> Questions:
    """Return the questions of a section `data`; none, and why, if they can no longer be read.

    The run may have been made elsewhere, or its data be gone: a page shows what else there is.

    Args:
        values: The section; of it only what says which questions there are, and how to open their images, is used.
        seed: Of the mixture, if there is one.
        recorded: The file that has the section, in the folder of the run or the evaluation.
        output: What that folder was called when the command wrote it.

    Raises:
        UserError: The section is broken.
    """
    values = {name: values[name] for name in _READ if values.get(name) is not None}
    settings = validate(DataSettings, values, str(recorded))
    try:
        names = [_found(name, recorded.parent, output) for name in file_names(settings)]
        settings = settings.model_copy(update={"path": ",".join(name.replace(",", "\\,") for name in names)})
        questions = Questions(settings, load_data(settings, seed))
        for row, example in enumerate(questions.examples):
            questions.row.setdefault(example.id, row)
            questions.source[example.id] = example.source
            if example.difficulty is not None:
                questions.difficulty[example.id] = example.difficulty
    except UserError as error:
        return Questions(settings, missing=str(error))
    return questions


def _found(name: str, folder: Path, output: str) -> str:
    """Return where the data is: a relative name begins where the command was, which wrote `folder` as `output`."""
    own, place = Path(output).parts, folder.resolve()
    if not Path(name).is_absolute() and place.parts[-len(own) :] == own:
        there = Path(*place.parts[: -len(own)]) / name
        return str(there) if there.exists() else name
    return name
