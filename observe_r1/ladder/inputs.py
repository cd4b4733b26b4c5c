"""The models and files that a build reads from elsewhere, and whether they are still those that it began with."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from observe_r1.config import LadderSettings
from observe_r1.errors import UserError
from observe_r1.ladder.sources.stream import source_files
from observe_r1.ladder.stage import BEGUN, MEASURE, READ, round_name

_RECORD = TypeAdapter(dict[str, dict[str, str]])
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Endings of a checkpoint's files that change what the model answers."""


def model_digest(model: str) -> str:
    """Return a digest of the names, sizes and times of a model folder's files; empty for a name on the Hub.

    Reading gigabytes of weights would take longer than many an evaluation.
    """
    folder = Path(model)
    return _digest(path for path in folder.iterdir() if path.suffix in _MODEL_FILES) if folder.is_dir() else ""


def checked_inputs(folder: Path, settings: LadderSettings, begun: Collection[str]) -> str:
    """Check that what the stages `begun` have read is as it was.

    What is no longer there proves nothing: a stage that is complete needs its model no more.

    Args:
        folder: The ladder's.
        settings: Of the ladder.
        begun: Stages, and rounds of the screen, by their names in `progress.json`.

    Returns:
        The content of `begun.json`, which says what all stages read.

    Raises:
        UserError: A model or a file has changed.
    """
    path, now = folder / BEGUN, _inputs(settings)
    before = _recorded(path)
    for stage in [stage for stage in now if stage in begun]:
        for name, digest in before.get(stage, {}).items():
            if digest and now[stage].get(name) not in ("", None, digest):
                what = "the questions of" if stage == READ else "the model"
                again = f"`observe-r1 ladder refresh {folder}` measures again, " if stage == MEASURE else ""
                raise UserError(
                    f"{what} {name} changed since the ladder in {str(folder)!r} began with it: {again}--anew starts "
                    f"over; if its content is the same, remove {path}"
                )
    record = {stage: before[stage] if stage in begun and stage in before else now[stage] for stage in now}
    return json.dumps(record, indent=1) + "\n"


def _inputs(settings: LadderSettings) -> dict[str, dict[str, str]]:
    """Return a digest of each input that is on this machine, by stage and name; empty for others."""
    sources = {name: _digest(source_files(name)) for name in settings.data.sources}
    benchmarks = {name: _digest(source_files(name, benchmark=True)) for name in settings.screen.benchmarks}
    screening = {round_name(n): {model: model_digest(model)} for n, model in enumerate(settings.screen.models, start=1)}
    measuring = {settings.model.path: model_digest(settings.model.path)} if settings.model.path else {}
    return {READ: benchmarks | sources, **screening, MEASURE: measuring}


def _recorded(path: Path) -> dict[str, dict[str, str]]:
    try:
        return _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:  # an earlier version wrote none
        return {}
    except ValidationError as error:
        raise UserError(f"{path}: not as the build wrote it: restore the file, or remove it") from error


def _digest(files: Iterable[Path]) -> str:
    """Return a digest of files' names, sizes and times; empty for no files."""
    seen = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return sha256(repr(seen).encode()).hexdigest() if seen else ""
