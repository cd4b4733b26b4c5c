"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """Bad input: a file, row, setting or value that the user can correct.

    The message is one line that names the place (file, row, key), the value and the fix. The command line prints
    it without a traceback and exits with code 2; every other exception is a bug of ours and keeps its traceback.
    """
