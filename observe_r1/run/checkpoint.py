"""Checkpoints on disk: all that a killed run needs to continue as if nothing had happened.

    checkpoints/step-000020/
        weights/                trained weights and optimizer state, in torch's distributed format
        state.json              step, position in the data, leftover groups without their tensors
        leftovers.safetensors   the tensors of leftover groups, and the states of the random number generators
        SHA256SUMS              every file's digest, as `sha256sum --check` reads it; the last line is a digest of these

A checkpoint is written under another name and renamed, so it is whole or absent. This happens in the background, from
copies: one at a time, and what follows from a checkpoint (older ones go, the best model is exported) waits until it is
there. A checkpoint counts as damaged if a file is missing or does not match its digest, and only then; it is set
aside as `damaged-step-000020`. Whatever else keeps it from being read (no permission, a disk that does not answer, too
little memory) proves nothing, and is raised.

Only torch's own format pickles anything (the list of its files), and it is only ever read from the run's own folder.
"""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from hashlib import file_digest, sha256
from itertools import chain, count
from pathlib import Path
from threading import Event
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from observe_r1.errors import UserError
from observe_r1.files import remove_files, replacing
from observe_r1.run.folder import step_name, steps_in
from observe_r1.training.parts import SavedPolicy, Writing

FORMAT = 4
"""Counted up when older checkpoints can no longer be read."""

_STATE, _LEFTOVERS, _WEIGHTS, _DIGESTS = "state.json", "leftovers.safetensors", "weights", "SHA256SUMS"
_FILES = (f"{_WEIGHTS}/__*_*.distcp", f"{_WEIGHTS}/.metadata", _LEFTOVERS, _STATE, _DIGESTS)
"""Everything in a checkpoint, in the order in which it is removed.

The digests go last: after a kill, what is left is known to be incomplete, and the next save removes it.
"""

_LOOK = 0.05
"""Seconds between two looks whether torch has written its files."""

_ASIDE = re.compile(r"damaged-step-[0-9]{6,}(-[0-9]+)?$")


class Checkpoints:
    """A run's checkpoints: the newest `keep` of them, and the best.

    Args:
        folder: The run folder's `checkpoints/`.
        keep: How many of the newest are kept.
        copy: Whether they are written in the background; see `run.save_in_background`.
    """

    def __init__(self, folder: Path, keep: int, *, copy: bool = True) -> None:
        self.folder = folder
        self.keep = keep
        self.copy = copy
        self.newest = 0
        """The step of the newest that is whole; 0 if there is none."""
        self._writing: Future[int] | None = None
        self._given_up = Event()

    def save(
        self, step: int, policy: SavedPolicy, state: dict[str, Any], tensors: dict[str, Tensor], best: int | None = None
    ) -> None:
        """Begin to write the checkpoint of `step`; then all but the newest `keep` and the best are removed.

        What is written are the values of this moment, whatever becomes of them. One that is still being written is
        waited for.

        Args:
            step: Steps done, counted from 1.
            policy: Whose weights and optimizer state are saved.
            state: What else is needed, as JSON values.
            tensors: What of it are tensors.
            best: The step of the best checkpoint, which stays; None if there is none.

        Raises:
            UserError: It, or the one before it, cannot be written; the disk is full, for example. Older checkpoints
                stay as they were.
        """
        self.finish()
        path = self.folder / step_name(step)
        if path.exists() and path not in self._newest_first():
            raise UserError(f"cannot write checkpoint {str(path)!r}: something else is there; move it away")
        with _named(path), ExitStack() as stack:
            new = stack.enter_context(replacing(path))
            save_file(tensors, new / _LEFTOVERS)
            (new / _STATE).write_text(json.dumps({"format": FORMAT, "step": step, **state}), encoding="ascii")
            writing = policy.save_state(new / _WEIGHTS, copy=self.copy)
            executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
            self._writing = executor.submit(self._complete, step, new, writing, stack.pop_all(), best)
            executor.shutdown(wait=False)
        if not self.copy:
            self.finish()

    def _complete(self, step: int, new: Path, writing: Writing, place: ExitStack, best: int | None) -> int:
        """Wait until torch has written its files to `new`, and let `place` rename them; return the step."""
        with _named(self.folder / step_name(step)), place:
            while not writing.done():
                if self._given_up.wait(_LOOK):
                    raise UserError("given up")
            _write_digests(new)
        self.remove_old(best)
        return step

    def look(self) -> None:
        """Raise the `UserError` of a checkpoint that could not be written, if that is known already."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is there.

        Raises:
            UserError: It cannot be written.
        """
        writing = self._writing
        if writing is not None:
            try:
                self.newest = writing.result()
            finally:
                if writing.done():  # else Ctrl-C has ended the waiting
                    self._writing = None

    def settle(self, *, give_up: bool = False) -> None:
        """Wait until nothing is being written any more, whatever became of it.

        Args:
            give_up: Abandon what is being written: the user cannot wait, or ranks that are to write it are lost.
        """
        if give_up:
            self._given_up.set()
        if self._writing is not None:
            wait([self._writing])

    def remove_old(self, best: int | None) -> None:
        """Remove all but the newest `keep` and the best, and what a kill left of one that was being removed.

        Raises:
            UserError: One cannot be removed.
        """
        try:
            for old in self._newest_first()[self.keep :]:
                if old.name != step_name(best or 0) and not old.is_symlink():
                    remove_files(old, _FILES)
        except OSError as error:
            raise UserError(f"cannot remove old checkpoints in {str(self.folder)!r}: {error.strerror}") from error

    def load_newest(
        self, policy: SavedPolicy, note: Callable[[str], None]
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Load the newest whole checkpoint into `policy`; damaged ones are set aside.

        Args:
            policy: Gets its weights and optimizer state.
            note: Told of every damaged checkpoint.

        Returns:
            Its state and its tensors; None if there is no checkpoint.

        Raises:
            UserError: It cannot be read, has another format or belongs to another model, or all were damaged.
        """
        try:
            for path in self._newest_first():
                damage = _damage(path)
                if damage is None:
                    return self._load(path, policy)
                aside = _set_aside(path)
                note(f"checkpoint {path} is damaged: {damage}; set aside as {aside.name}; trying the one before it")
            damaged = self.folder.is_dir() and any(_ASIDE.match(path.name) for path in self.folder.iterdir())
        except OSError as error:
            raise UserError(f"cannot read {str(error.filename or self.folder)!r}: {error.strerror or error}") from error
        if damaged:
            raise UserError(f"every checkpoint in {self.folder} is damaged: give another run.output for a new run")
        return None

    def _load(self, path: Path, policy: SavedPolicy) -> tuple[dict[str, Any], dict[str, Tensor]]:
        state = json.loads((path / _STATE).read_text(encoding="ascii"))
        _check_format(path, state["format"])
        tensors = load_file(path / _LEFTOVERS)
        policy.load_state(path / _WEIGHTS)
        self.newest = int(state["step"])
        return state, tensors

    def _newest_first(self) -> list[Path]:
        """Return the checkpoints; a folder with a step's name, but with no file of a checkpoint, is somebody else's."""
        own = {Path(name).parts[0] for name in _FILES}
        folders = {step: Path(entry) for step, entry in steps_in(self.folder).items() if entry.is_dir()}
        ours = {step: path for step, path in folders.items() if own & {inside.name for inside in path.iterdir()}}
        return [ours[step] for step in sorted(ours, reverse=True)]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise what keeps a checkpoint from being written as the `UserError` that says where."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        raise UserError(f"cannot write checkpoint {str(path)!r}: {reason}") from error


def _write_digests(checkpoint: Path) -> None:
    """Write the digests of all files, and as a comment the digest of these lines."""
    names = sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())
    lines = "".join(f"{_digest(checkpoint / name)}  {name}\n" for name in names)
    (checkpoint / _DIGESTS).write_text(f"{lines}# {sha256(lines.encode()).hexdigest()}\n", encoding="ascii")


def _damage(checkpoint: Path) -> str | None:
    """Return what proves that a checkpoint is not as it was written; None if it is as written.

    Raises:
        OSError: A file cannot be read.
        UserError: The checkpoint has another format.
    """
    try:
        *lines, last = (checkpoint / _DIGESTS).read_bytes().splitlines(keepends=True) or [b""]
    except FileNotFoundError:
        _check_readable_format(checkpoint)
        return f"{_DIGESTS} is missing"
    if last != f"# {sha256(b''.join(lines)).hexdigest()}\n".encode():
        _check_readable_format(checkpoint)
        return f"{_DIGESTS} has changed since it was written"
    for line in lines:
        digest, name = line.decode().rstrip("\n").split("  ", 1)
        try:
            found = _digest(checkpoint / name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"{name} is missing"
        if found != digest:
            return f"{name} has changed since it was written"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _check_readable_format(checkpoint: Path) -> None:
    """Raise `UserError` for a checkpoint of another format, which may keep its digests elsewhere."""
    try:
        found = json.loads((checkpoint / _STATE).read_bytes())["format"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    _check_format(checkpoint, found)


def _check_format(checkpoint: Path, found: object) -> None:
    if isinstance(found, int) and found > FORMAT:
        raise UserError(f"checkpoint {checkpoint} was written by a newer version of observe-r1: update observe-r1")
    if isinstance(found, int) and found < FORMAT:
        raise UserError(
            f"checkpoint {checkpoint} was written by an older version of observe-r1: resume with that version"
        )


def _set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that it is no longer a step's, and return its new path."""
    name = f"damaged-{checkpoint.name}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    aside = next(path for path in map(checkpoint.with_name, names) if not path.exists())
    return checkpoint.rename(aside)
