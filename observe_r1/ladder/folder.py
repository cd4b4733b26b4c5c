"""The folder of a ladder: one build at a time writes there, always with the settings that it began with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from itertools import dropwhile
from pathlib import Path
from typing import Any

import yaml

from observe_r1.config import LadderSettings
from observe_r1.config.verbs import dump_settings, flat, with_defaults
from observe_r1.errors import UserError, in_words
from observe_r1.files import LOCK, lock_folder, remove_files, unlock_folder, write_atomic
from observe_r1.ladder.inputs import checked_inputs
from observe_r1.ladder.journal import PROGRESS, begun_before, start_over
from observe_r1.ladder.stage import (
    ARRANGE,
    ASKED,
    BEGUN,
    DROPPED,
    IMAGES,
    LADDER,
    MEASURE,
    MEASURED,
    QUESTIONS,
    READ,
    RECORDED,
    RESPONSES,
    SCREEN,
    SCREENED,
    SCREENING,
    UNSOLVED,
)

_VLLM_MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "limit_mm_per_prompt")
_ANY_TIME = (
    *("run.", "cluster.", "data.skip_bad", "data.image_cache", "data.allow_private_addresses"),
    *("rollout.max_rows", "rollout.cuda_graphs"),
    *(f"rollout.vllm.{name}" for name in _VLLM_MEMORY),
)
"""Settings that change no response: a build that ran out of memory resumes with less."""
_OF_THE_MODEL = ("data.format_prompt", "data.max_prompt_tokens", "model.", "rollout.")
_REFRESHED = (RECORDED, PROGRESS, MEASURED, RESPONSES, ASKED, DROPPED, "moves.json")
_WRITTEN = {
    READ: (
        *(QUESTIONS, DROPPED, SCREENING, SCREENED),
        *(f"refreshed-<n>/{name}" for name in _REFRESHED),
    ),
    MEASURE: (MEASURED, RESPONSES, ASKED),
    ARRANGE: (
        *(UNSOLVED, LADDER),
        *("README.md", "ladder.html", "review.html", "review-<n>.html"),
        *(f"figures/{name}.png" for name in ("share", "complexity", "slots")),
    ),
}
"""The files that stages and their reports write, `<n>` a number. `--anew` keeps the images and `review.yaml`."""
_FIRST_STAGE = {"build": READ, "screen": READ, "measure": MEASURE}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into the folder during the block.

    Raises:
        UserError: Another process writes into it, or there is no such folder.
    """
    try:
        lock = lock_folder(folder, "--output")
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {in_words(error)}") from error
    try:
        yield
    finally:
        unlock_folder(folder, lock)


@contextmanager
def opened(settings: LadderSettings, verb: str) -> Iterator[Path]:
    """Yield the locked folder `run.output`, with the settings recorded in its `ladder.yaml`.

    With `run.anew`, the files of the verb's stage and of later ones are removed. If the command fails before anything
    was written with its settings, the recorded settings are put back, or nothing is left of a folder that was new.

    Args:
        settings: Of the ladder.
        verb: The command, such as `build`.

    Raises:
        UserError: The folder cannot be made, holds something else, is in use by another process, or was begun with
            other settings, models or files.
    """
    folder = Path(settings.run.output)
    with _made(folder), locked(folder):
        check_place(folder)
        before = (folder / RECORDED).read_bytes() if (folder / RECORDED).is_file() else None
        anew = [_FIRST_STAGE[verb]] if settings.run.anew and verb in _FIRST_STAGE else []
        going_on = begun_before(folder, anew).keys()
        if before is not None:
            _compare(folder, settings, verb, going_on)
        inputs = checked_inputs(folder, settings, going_on) if verb in _FIRST_STAGE else None
        if anew:
            start_over(folder, anew)
            _remove_from(folder, anew[0])
        begun = begun_before(folder, [ARRANGE])
        once = settings.model_copy(update={"run": settings.run.model_copy(update={"anew": False})})
        write_atomic(folder / RECORDED, dump_settings(once))
        if inputs is not None:
            write_atomic(folder / BEGUN, inputs)
        try:
            yield folder
        except UserError:
            # A setting that was refused must not come back; one that a stage has used must.
            if before is not None and begun_before(folder, [ARRANGE]) == begun:
                write_atomic(folder / RECORDED, before)
            if before is None and not begun_before(folder, []):
                _remove_from(folder, READ)
                remove_files(folder, [RECORDED, BEGUN, f"{IMAGES}/*"])
            raise


def check_place(folder: Path) -> None:
    """Raise `UserError` if the folder holds something else than a ladder, or a file is in its way."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {str(there)!r} is a file")
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {in_words(error)}") from error
    if names - {LOCK, f"{RECORDED}.partial"} and RECORDED not in names:
        raise UserError(f"--output {str(folder)!r}: neither empty nor a ladder's folder: name another one")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder, and those above it, for the block; if it fails, those that it leaves empty are removed again."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {str(folder)!r}: cannot be a ladder's folder: {in_words(error)}") from error
    try:
        yield
    except UserError:
        with suppress(OSError):  # what is not empty stays
            for each in new:
                each.rmdir()
        raise


def _remove_from(folder: Path, stage: str) -> None:
    """Remove what `stage` and the later ones wrote, so that nobody trains on a ladder of other questions."""
    later = dropwhile(lambda written: written[0] != stage, _WRITTEN.items())
    for name in (name for _, names in later for name in names):
        exactly = re.compile(re.escape(name).replace("<n>", "[1-9][0-9]*"))
        found = (str(path.relative_to(folder)) for path in folder.glob(name.replace("<n>", "*")))
        remove_files(folder, [path for path in found if exactly.fullmatch(path)])


def changed(recorded: Path, settings: LadderSettings) -> Iterator[tuple[str, object, object]]:
    """Yield each setting that differs from the recorded one: its name, its old value, its new value.

    Settings that change no response are left out.

    Raises:
        UserError: The file is not as a build wrote it.
    """
    try:
        old = _flat(with_defaults(yaml.safe_load(recorded.read_text(encoding="utf-8")), settings))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{recorded}: not as the build wrote it: restore the file, or name another --output") from error
    new = _flat(settings.model_dump(mode="json"))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not name.startswith(_ANY_TIME):
            yield name, old.get(name), new.get(name)


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name, including vLLM's arguments."""
    settings = flat(sections)
    arguments = settings.pop("rollout.vllm", {})
    return settings | {f"rollout.vllm.{name}": value for name, value in arguments.items()}


def _compare(folder: Path, settings: LadderSettings, verb: str, begun: Set[str]) -> None:
    """Raise `UserError` for a setting that differs from the one that the stages `begun` used."""
    screened = bool(begun - {READ})
    # Fixed while the screening models are asked, then free until the measurement begins.
    asking = MEASURE in begun or (screened and SCREEN not in begun)
    for name, old, new in changed(folder / RECORDED, settings):
        if name.startswith("arrange."):
            fixed = verb == "build" and ARRANGE in begun
            way = f"`observe-r1 ladder arrange {folder}` arranges again without asking a model"
        elif name.startswith(_OF_THE_MODEL):
            fixed, way = asking, f"`observe-r1 ladder refresh {folder}` measures again, --anew starts over"
        else:
            by_models = name.startswith("screen.") and name != "screen.benchmarks"
            fixed, way = screened if by_models else bool(begun), "--anew starts over"
        if fixed:
            raise UserError(
                f"--output {str(folder)!r}: {name} was {old!r} and is {new!r} now: use the same value; {way}"
            )
