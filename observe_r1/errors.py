"""The one exception that means "the user can fix this"."""

import errno
import os
import re
from pathlib import Path


class UserError(Exception):
    """Bad input: a file, row, setting or value that the user can correct.

    The message is one line that names the place (file, row, key), the value and the fix. The command line prints
    it without a traceback and exits with code 2; every other exception is a bug of ours and keeps its traceback.
    """


def how_to_install(extra: str, *options: str) -> str:
    """Return the command that installs `extra` of this package, which is not on a package index."""
    return " ".join(["pip install", *options, f"-e '.[{extra}]' in the clone of the repository (docs/install.md)"])


def explain_yaml(error: Exception) -> str:
    """Return a `yaml.YAMLError` as one line of text, with line and column if they are known."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    hint = " (check the indentation of the line before; use spaces, not tabs)" if _INDENTATION.search(reason) else ""
    return f"{place}broken YAML: {reason}{hint}"


_INDENTATION = re.compile(r"expected <block end>|mapping values are not allowed|'\\t'")
"""What YAML says when the cause is most often a line that is indented too little or too much, or by a tab."""


def disk_fault(error: OSError) -> UserError | None:
    """Return what the user is told if a disk, a quota or a file is full, or a file is where a folder has to be.

    Any other `error` gives None.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"cannot write {str(error.filename or 'a file')!r}: {error.strerror}")
    if (file := _in_the_way(error)) is not None:
        return UserError(f"{str(file)!r} is a file, and a folder of that name is needed: move the file away")
    return None


def in_words(error: OSError) -> str:
    """Return why something cannot be a folder: `'results' is a file`, or what the system says."""
    file = _in_the_way(error)
    return str(error.strerror or error) if file is None else f"{str(file)!r} is a file"


def _in_the_way(error: OSError) -> Path | None:
    """Return the file that is where a folder has to be, if that is why."""
    if error.errno not in (errno.ENOTDIR, errno.EEXIST) or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    return next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None)
