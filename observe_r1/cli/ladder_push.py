"""`observe-r1 ladder push`: a ladder as a dataset on the Hugging Face Hub."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from observe_r1.config import PushSettings
from observe_r1.errors import UserError
from observe_r1.files import replacing
from observe_r1.ladder.folder import locked
from observe_r1.ladder.stage import LADDER
from observe_r1.model.upload import check_repo_name, upload
from observe_r1.report.ladder_dataset import write_ladder_dataset
from observe_r1.run import Ended
from observe_r1.run.progress import Progress


def run(settings: PushSettings, view: Progress) -> Ended:
    """Make the dataset's folder, and upload it where a name is given.

    Args:
        settings: What, and where to.
        view: Shows what is being done; entered already.

    Raises:
        UserError: There is no such ladder, the folder is taken, or the Hub refuses the upload.
    """
    options = settings.push
    ladder = Path(options.ladder)
    if options.repo is not None:
        check_repo_name(options.repo, "push.repo")
    if not (ladder / LADDER).is_file():
        raise UserError(f"push.ladder = {options.ladder!r}: there is no {LADDER} in it: name the folder of a ladder")
    with ExitStack() as stack:
        if options.to is None:
            new = Path(stack.enter_context(TemporaryDirectory(prefix="observe-r1-push-"))) / "dataset"
        else:
            new = Path(options.to)
        if new.exists() and (not new.is_dir() or any(new.iterdir())):
            raise UserError(f"push.to = {options.to!r}: something is there already: give a new folder")
        view.now("writing the dataset")
        try:
            with locked(ladder), replacing(new) as folder:
                count = write_ladder_dataset(ladder, folder, name=options.repo or str(new))
        except OSError as error:
            raise UserError(f"push.to = {str(new)!r}: cannot be written: {error.strerror or error}") from error
        done = [f"{count:,} question" + "s" * (count != 1)] + [f"in {new}"] * (options.to is not None)
        if options.repo is not None:
            view.now(f"uploading to {options.repo}")
            stays = options.to is not None
            place = upload(options.repo, new, "push.repo", kind="dataset", private=options.private, stays=stays)
            done.append(f"uploaded to {place}")
    view.close()
    print("; ".join(done))
    name = options.repo or options.to
    return Ended(0, f"train on it: `observe-r1 train observe_r1 --model.path MODEL --data.path {name}`")
