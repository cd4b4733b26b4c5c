"""Options of the commands that have no settings, by argparse."""

from argparse import ArgumentParser
from typing import NoReturn

from observe_r1.errors import UserError


class Arguments(ArgumentParser):
    """argparse, with help and errors like those of all other commands.

    Args:
        command: As typed after `observe-r1`.
        description: What it does.
        epilog: What the help ends with: an example.
    """

    def __init__(self, command: str, description: str, epilog: str) -> None:
        super().__init__(f"observe-r1 {command}", description=description, epilog=epilog, allow_abbrev=False)

    def format_help(self) -> str:
        """Return the help, whose first word has a capital."""
        return super().format_help().replace("usage:", "Usage:", 1)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`, where argparse prints its usage and ends the process."""
        raise UserError(f"{message}; --help lists all options")
