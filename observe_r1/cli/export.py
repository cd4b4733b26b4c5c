"""`observe-r1 export`: a run's model as a folder for others, and on the Hub."""

from pathlib import Path

import torch

from observe_r1.config import ExportOptions, ExportSettings
from observe_r1.errors import UserError, in_words
from observe_r1.files import replacing
from observe_r1.model.handover import copy_adapter, copy_checkpoint
from observe_r1.model.upload import check_repo_name, upload
from observe_r1.registry import beside
from observe_r1.report.folder_kinds import is_evaluation
from observe_r1.report.model_card import recorded_settings, write_model_card
from observe_r1.report.run_records import is_run
from observe_r1.run import Ended
from observe_r1.run.progress import Progress

_LONGEST = 2048
"""Longest response of a model that was trained on demonstrations, which have no limit, in tokens."""


def run(settings: ExportSettings, view: Progress) -> Ended:
    """Make the folder, and upload it if that is asked for.

    Args:
        settings: What, and where to.
        view: Shows what is being done; entered already.

    Raises:
        UserError: The run has no such model, the folder is taken, or the Hub refuses the upload.
    """
    options = settings.export
    new = Path(options.to)
    if options.push is not None:
        check_repo_name(options.push, "export.push")
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise UserError(f"export.to = {options.to!r}: something is there already: give a new folder")
    view.now(f"copying the model to {new}")
    _make(options, new)
    line = f"the model is in {new}, its card in {new / 'README.md'}"
    if options.push is not None:
        view.now(f"uploading to {options.push}")
        place = upload(options.push, new, "export.push", kind="model", private=options.private, begin=view.hand_over)
        line += f"; uploaded to {place}"
    view.close()
    print(line)
    return Ended(0, f"look at it: `observe-r1 chat {new}`; serve it: `vllm serve {new}`")


def _make(options: ExportOptions, new: Path) -> None:
    run_folder = Path(options.run)
    source = run_folder / ("best" if options.best else "model")
    if not run_folder.is_dir():
        raise UserError(f"export.run = {options.run!r}: no such folder{beside(run_folder, is_run)}")
    if not source.is_dir():
        why = "it has no best model: it was trained without held-out questions" if options.best else "it has no model"
        raise UserError(f"export.run = {options.run!r}: {why}, there is no {source}")
    adapter = options.weights == "adapter"
    evaluation = None if options.evaluation is None else Path(options.evaluation)
    if evaluation is not None and not evaluation.is_dir():
        place = f"export.evaluation = {options.evaluation!r}"
        raise UserError(f"{place}: no such folder{beside(evaluation, is_evaluation)}")
    longest = recorded_settings(run_folder).get("rollout", {}).get("max_new_tokens", _LONGEST)
    try:
        with replacing(new) as folder:
            if adapter:
                copy_adapter(source, folder)
            else:
                dtype = getattr(torch, options.dtype)
                copy_checkpoint(source, folder, dtype=dtype, max_new_tokens=longest)
            name = options.push or new.name
            write_model_card(folder, run_folder, source, name=name, adapter=adapter, evaluation=evaluation)
    except OSError as error:
        reason = in_words(error)
        if error.filename is not None and Path(error.filename).is_relative_to(run_folder):
            raise UserError(f"export.run = {options.run!r}: {error.filename} cannot be read: {reason}") from error
        raise UserError(f"export.to = {options.to!r}: cannot be written: {reason}") from error
