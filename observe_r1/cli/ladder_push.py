"""`observe-r1 ladder push`: a ladder as a dataset on the Hugging Face Hub."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from observe_r1.cli.start import heavy_imports
from observe_r1.config import PushSettings
from observe_r1.errors import UserError, in_words
from observe_r1.files import replacing
from observe_r1.ladder.folder import locked
from observe_r1.ladder.stage import LADDER, RECORDED
from observe_r1.registry import beside
from observe_r1.run import Ended
from observe_r1.run.progress import Progress


def run(settings: PushSettings, view: Progress) -> Ended:
    """Make the dataset's folder, and upload it if a name is given. A folder that could not be uploaded stays.

    Args:
        settings: What, and where to.
        view: Shows what is being done; entered already.

    Raises:
        UserError: There is no such ladder, the folder is taken, or the Hub refuses the upload.
    """
    options = settings.push
    ladder = Path(options.ladder)
    _check_ladder(ladder)
    if options.to is not None and _is_taken(Path(options.to)):
        raise UserError(f"push.to = {options.to!r}: something is there already: give a new folder")
    with heavy_imports():
        from observe_r1.model.upload import check_repo_name, upload
        from observe_r1.report.ladder_dataset import write_ladder_dataset

    if options.repo is not None:
        check_repo_name(options.repo, "push.repo")
    with ExitStack() as at_the_end:
        new = Path(options.to) if options.to is not None else _passing_folder(at_the_end)
        view.now("writing the dataset")
        try:
            with locked(ladder), replacing(new) as folder:
                count = write_ladder_dataset(ladder, folder, name=options.repo or str(new))
        except OSError as error:
            raise UserError(f"push.to = {str(new)!r}: cannot be written: {in_words(error)}") from error
        done = [f"{count:,} question" + "s" * (count != 1)] + [f"in {new}"] * (options.to is not None)
        if options.repo is not None:
            view.now(f"uploading to {options.repo}")
            try:
                place = upload(
                    options.repo, new, "push.repo", kind="dataset", private=options.private, begin=view.hand_over
                )
            except UserError:
                at_the_end.pop_all()  # the error says how to upload the folder
                raise
            done.append(f"uploaded to {place}")
    view.close()
    print("; ".join(done))
    name = options.repo or options.to
    return Ended(0, f"train on it: `observe-r1 train observe_r1 --model.path MODEL --data.path {name}`")


def _check_ladder(folder: Path) -> None:
    """Raise `UserError` unless there is a ladder in `folder`."""
    place = f"push.ladder = {str(folder)!r}"
    if not folder.is_dir():
        raise UserError(f"{place}: no such folder{beside(folder, lambda path: (path / LADDER).is_file())}")
    if not (folder / LADDER).is_file():
        unfinished = (folder / RECORDED).is_file()
        way = f"`observe-r1 ladder build {folder}` finishes it" if unfinished else "name the folder of a ladder"
        raise UserError(f"{place}: there is no {LADDER} in it: {way}")


def _is_taken(new: Path) -> bool:
    return new.exists() and (not new.is_dir() or any(new.iterdir()))


def _passing_folder(stack: ExitStack) -> Path:
    """Return a folder, not made yet, that is removed when the stack is closed."""
    above = mkdtemp(prefix="observe-r1-push-")
    stack.callback(shutil.rmtree, above)
    return Path(above) / "dataset"
