"""Writing files and folders so that nobody ever sees half of one, and no other process writes there."""

import fcntl
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from observe_r1.errors import UserError

LOCK = ".lock"
"""Name of the file in a folder that the process writing there keeps locked."""

_BESIDE = ".observe-r1-"
_UNFINISHED = re.compile(r"\.(?P<name>.+)" + re.escape(_BESIDE) + r"[a-z0-9_]{8}", re.DOTALL)
"""Names of the folders that `replacing` works in; nobody else uses such names."""


LFS_POINTER = b"version https://git-lfs"
"""How the small text begins that Git LFS leaves in place of a large file that it has not fetched."""


def refuse_lfs_pointer(path: Path) -> None:
    """Check that the file at `path`, whatever it should hold, is not a Git LFS pointer.

    Raises:
        UserError: It is one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if start == LFS_POINTER:
        raise UserError(f"{path}: is a Git LFS pointer, not the file itself: run `git lfs pull`")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under another name, synced to disk, then renamed.

    Args:
        path: Of the file; what was there is replaced.
        content: Of the file; text is written as UTF-8.

    Raises:
        UserError: It cannot be written (the disk is full, no permission); `path` is then as it was.
    """
    partial = path.with_name(path.name + ".partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):  # a file that cannot be written can often not be removed either
            partial.unlink()
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it if they do not exist, so that they survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which replaces `folder` when the block ends without an error.

    What `folder` held before is removed; after an error `folder` is as it was. The files get the permissions of the
    umask, whatever wrote them.
    """
    make_folder(folder.parent)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}{_BESIDE}") as beside:
        new = Path(beside) / "new"
        new.mkdir()
        yield new
        usual = new.stat().st_mode & 0o666
        for path in (*new.rglob("*"), new):
            if path.is_file():
                path.chmod(usual)  # safetensors makes them readable by their owner alone
            _sync(path)
        old = Path(beside) / "old"
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:  # Ctrl-C between the two renames, too, must leave one of them
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        _sync(folder.parent)


def clear_unfinished(parent: Path) -> None:
    """Remove what a killed `replacing` has left in `parent`; no other process may be writing there.

    A folder that it had moved away but not yet replaced is put back.
    """
    for beside in parent.iterdir():
        match = _UNFINISHED.fullmatch(beside.name)
        ours = match and beside.is_dir() and not beside.is_symlink()
        if match and ours and {path.name for path in beside.iterdir()} <= {"new", "old"}:
            folder, old = parent / match["name"], beside / "old"
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(beside)


def remove_files(folder: Path, patterns: Sequence[str]) -> None:
    """Remove the files of `folder` that match `patterns`, in that order, and then the folders that this leaves empty.

    What somebody else has put there stays, and so do the folders around it.
    """
    for pattern in patterns:
        for path in [*folder.glob(pattern)]:
            path.unlink()
    emptied = {(folder / pattern).parent for pattern in patterns}
    for each in sorted(emptied, key=lambda path: len(path.parts), reverse=True):
        if each.is_dir() and not any(each.iterdir()):
            each.rmdir()


def lock_folder(folder: Path, setting: str = "run.output") -> int:
    """Lock the folder until `unlock_folder`, or until this process ends in any way.

    It is a POSIX lock, because child processes do not inherit it: workers that outlive a killed run hold nothing.

    Args:
        folder: To lock.
        setting: The setting that names the folder, for errors.

    Returns:
        What `unlock_folder` takes.

    Raises:
        UserError: A live process holds the lock, or the lock file is something that no run has written.
    """
    while True:
        descriptor = _open_lock(folder, setting)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held it may have removed the file meanwhile, and another process locked a new one.
            if _is_at(folder / LOCK, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except (BlockingIOError, PermissionError) as error:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace")
            os.close(descriptor)
            who = f"process {owner}" if owner else "another process"
            raise UserError(f"{setting} = {str(folder)!r}: {who} is writing there; give another folder") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Release the lock that `lock_folder` took, and remove its file."""
    if _is_at(folder / LOCK, descriptor):
        (folder / LOCK).unlink()
    os.close(descriptor)


def _open_lock(folder: Path, setting: str) -> int:
    """Open the lock file, made if there is none. Its content will be overwritten, so it must be a lock's."""
    foreign = UserError(
        f"{setting} = {str(folder)!r}: {LOCK!r} in it is not a lock file of observe-r1; move it away, or give another "
        "folder"
    )
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if (folder / LOCK).is_symlink() or (folder / LOCK).is_dir():
            raise foreign from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not re.fullmatch(rb"[0-9]{0,20}", os.pread(descriptor, 32, 0)):
        os.close(descriptor)
        raise foreign
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def json_line(row: dict[str, Any]) -> str:
    r"""Return `row` as one line of strict JSON in ASCII; NaN and infinities become null.

    Responses may hold anything, even lone surrogates and control characters; these become `\u` escapes.
    """
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
