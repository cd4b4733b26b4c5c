"""`observe-r1 data check`: goes over a whole dataset before a run does."""

from observe_r1.cli.heavy_imports import heavy_imports
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import starting
from observe_r1.config import DataCheckSettings
from observe_r1.errors import UserError


def run(argv: list[str]) -> int:
    """Parse the settings and check. Returns 0 where all rows are good, else 2."""
    command, words = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        command, words = "check", [command]
    if command != "check":
        raise UserError(f"unknown command 'data {command}': known: data check")
    if words and not words[0].startswith("-"):
        words = ["--data.path", *words]
    settings = parse_settings(DataCheckSettings, words, verb="data check")
    with starting("data check"), heavy_imports():  # they wait until the settings are known to be good
        from observe_r1.cli.data_check import check_data

    return check_data(settings)
