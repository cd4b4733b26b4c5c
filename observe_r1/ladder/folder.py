"""The folder of a ladder: one build writes there at a time, and always with the settings that it began with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import LadderSettings
from observe_r1.config.verbs import dump_settings, flat
from observe_r1.errors import UserError
from observe_r1.files import LOCK, lock_folder, remove_files, unlock_folder, write_atomic
from observe_r1.ladder import arranging, measuring, screening, simple
from observe_r1.ladder.journal import PROGRESS, begun_before, start_over
from observe_r1.ladder.stage import DROPPED

RECORDED = "ladder.yaml"
"""Every setting, enough to build the ladder again."""

_MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "limit_mm_per_prompt")
_ANY_TIME = (
    *("run.", "data.skip_bad", "data.image_cache", "data.allow_private_addresses"),
    *("rollout.max_rows", "rollout.cuda_graphs"),
    *(f"rollout.vllm.{name}" for name in _MEMORY),
)
"""What changes no response: a build that ran out of memory goes on with less."""
_ASKING = ("data.format_prompt", "data.max_prompt_tokens", "model.", "rollout.")
_REFRESHED = (RECORDED, PROGRESS, measuring.MEASURED, measuring.RESPONSES, measuring.ASKED, DROPPED, "moves.json")
_WRITTEN = {
    screening.STAGE: (
        *(screening.QUESTIONS, DROPPED, simple.SCREENING, simple.SCREENED),
        *(f"refreshed-<n>/{name}" for name in _REFRESHED),
    ),
    measuring.STAGE: (measuring.MEASURED, measuring.RESPONSES, measuring.ASKED),
    arranging.STAGE: (
        *(arranging.UNSOLVED, arranging.LADDER),
        *("README.md", "ladder.html", "review.html", "review-<n>.html"),
        *(f"figures/{name}.png" for name in ("share", "complexity", "slots")),
    ),
}
"""What the stages and their reports leave there, `<n>` a number. Pictures stay, and the decisions in `review.yaml`."""
_FIRST_STAGE = {"build": screening.STAGE, "screen": screening.STAGE, "measure": measuring.STAGE}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into the folder. Errors: `UserError` where one does, or there is no folder."""
    try:
        lock = lock_folder(folder, "--output")
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {error.strerror}") from error
    try:
        yield
    finally:
        unlock_folder(folder, lock)


@contextmanager
def opened(settings: LadderSettings, verb: str) -> Iterator[Path]:
    """Give the folder `run.output` to write into, with the settings written down as `ladder.yaml`.

    With `run.anew`, what the stage of `verb` and the later ones wrote is removed. Settings of a command that fails
    before anything was written with them are forgotten.

    Errors: `UserError` where the folder cannot be made, holds something else, is written to by a live process, or was
    begun with other settings than those that `verb` goes on with.
    """
    folder = Path(settings.run.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {error.strerror}") from error
    with locked(folder):
        before = (folder / RECORDED).read_bytes() if (folder / RECORDED).is_file() else None
        if before is None and {entry.name for entry in folder.iterdir()} - {LOCK, f"{RECORDED}.partial"}:
            raise UserError(f"--output {str(folder)!r}: neither empty nor a ladder's folder: give another one")
        anew = [_FIRST_STAGE[verb]] if settings.run.anew and verb in _FIRST_STAGE else []
        if before is not None:
            _compare(folder, settings, verb, set(begun_before(folder, anew)))
        if anew:
            start_over(folder, anew)
            _remove_from(folder, anew[0])
        begun = begun_before(folder, [arranging.STAGE])
        once = settings.model_copy(update={"run": settings.run.model_copy(update={"anew": False})})
        write_atomic(folder / RECORDED, dump_settings(once))
        try:
            yield folder
        except UserError:
            # A setting that was refused must not come back; what a stage went on with must.
            if before is not None and begun_before(folder, [arranging.STAGE]) == begun:
                write_atomic(folder / RECORDED, before)
            raise


def _remove_from(folder: Path, stage: str) -> None:
    """Remove what `stage` and the later ones wrote: nobody shall train on a ladder of other questions."""
    later = dropwhile(lambda written: written[0] != stage, _WRITTEN.items())
    for name in (name for _, names in later for name in names):
        exactly = re.compile(re.escape(name).replace("<n>", "[1-9][0-9]*"))
        found = (str(path.relative_to(folder)) for path in folder.glob(name.replace("<n>", "*")))
        remove_files(folder, [path for path in found if exactly.fullmatch(path)])


def changed(recorded: Path, settings: LadderSettings) -> Iterator[tuple[str, object, object]]:
    """Yield each setting that is not as recorded: its name, what it was, and what it is.

    Errors: `UserError` for a file that is not as a build wrote it.
    """
    try:
        old = _flat(yaml.safe_load(recorded.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{recorded}: not as the build wrote it: put it back, or give another --output") from error
    new = _flat(settings.model_dump(mode="json"))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not name.startswith(_ANY_TIME):
            yield name, old.get(name), new.get(name)


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name, vLLM's arguments too."""
    settings = flat(sections)
    arguments = settings.pop("rollout.vllm", {})
    return settings | {f"rollout.vllm.{name}": value for name, value in arguments.items()}


def _compare(folder: Path, settings: LadderSettings, verb: str, begun: Set[str]) -> None:
    """Raise `UserError` for a setting that is not as the stages `begun` had it."""
    screened = bool(begun - {screening.STAGE})
    # Between the rounds with two screening models, too; then free until the measurement begins.
    asking = measuring.STAGE in begun or (screened and simple.STAGE not in begun)
    for name, old, new in changed(folder / RECORDED, settings):
        if name.startswith("arrange."):
            fixed = verb == "build" and arranging.STAGE in begun
            way = f"`observe-r1 ladder arrange {folder}` arranges anew without asking the model again"
        elif name.startswith(_ASKING):
            fixed, way = asking, f"`observe-r1 ladder refresh {folder}` measures anew, --anew begins again"
        else:
            by_models = name.startswith("screen.") and name != "screen.benchmarks"
            fixed, way = screened if by_models else bool(begun), "--anew begins again"
        if fixed:
            raise UserError(f"--output {str(folder)!r}: {name} was {old!r} and is {new!r} now: give the same; {way}")
