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
    """Return `text` with everything that is no printable character as an escape.

    Messages quote files and servers: line breaks in them, codes that steer a terminal, halves of characters.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
