"""A run's parts put together, and what it writes down and resumes from."""

from typing import NamedTuple


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    """The command's exit code: 0, or 130 where Ctrl-C ended it early."""
    hints: str
    """What to do with its model next; empty where there is none."""
