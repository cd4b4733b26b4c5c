"""The one exception that means "the user can fix this"."""

import errno


class UserError(Exception):
    """Bad input: a file, row, setting or value that the user can correct.

    The message is one line that names the place (file, row, key), the value and the fix. The command line prints
    it without a traceback and exits with code 2; every other exception is a bug of ours and keeps its traceback.
    """


def explain_yaml(error: Exception) -> str:
    """Return a `yaml.YAMLError` as one line, with line and column where they are known."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}broken YAML: {reason}"


def is_disk_full(error: Exception) -> bool:
    """Whether writing failed for want of room: on the disk, in the user's share of it, or in a file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
