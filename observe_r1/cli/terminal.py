"""Text to standard output."""

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
