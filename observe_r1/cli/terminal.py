"""Text for the terminal."""

import os
import sys


def show(text: str) -> None:
    """Write `text` to standard output; a reader that has seen enough (`… | head`) is not an error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: str) -> str:
    """Return `text` with everything that is no printable character as an escape, and addresses without passwords.

    Messages quote files, servers and settings: line breaks in them, codes that steer a terminal, halves of characters.
    """
    from observe_r1.web import without_password  # takes long to import

    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in without_password(text))
