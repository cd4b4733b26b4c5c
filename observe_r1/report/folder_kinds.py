"""What the folders of a page are. Nothing slow is imported here: a wrong name is told at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from observe_r1.errors import UserError
from observe_r1.ladder.stage import BEGUN, LADDER
from observe_r1.registry import beside
from observe_r1.report.run_records import is_run
from observe_r1.run.folder import CONFIG, ROLLOUTS


def folder_kinds(folders: Sequence[Path]) -> dict[Path, str]:
    """Return of each folder whether it is that of a `run`, an `evaluation` or a `ladder`.

    Raises:
        UserError: It is none of these.
    """
    return {folder: _kind(folder) or _refuse(folder) for folder in folders}


def _kind(folder: Path) -> str:
    """Return what a folder is; nothing for any other."""
    if is_run(folder):
        return "run"
    if is_evaluation(folder):
        return "evaluation"
    return "ladder" if (folder / LADDER).is_file() else ""


def _refuse(folder: Path) -> NoReturn:
    known = "the folder of a run, a ladder or an evaluation"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder{beside(folder, lambda path: bool(_kind(path)))}: name {known}")
    inside = sorted(each.name for each in folder.iterdir() if is_run(each) or is_evaluation(each))
    hint = f": did you mean {folder / inside[0]}?" if inside else ": name one of them"
    raise UserError(f"{folder}: not {known}{hint}")


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is that of an evaluation."""
    return (folder / BEGUN).is_file() and (folder / CONFIG).is_file() and not (folder / ROLLOUTS).exists()
