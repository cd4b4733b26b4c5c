"""Settings parsed from the words of a command line."""

from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings

REQUIRED = ["--model.path", "m", "--data.path", "d"]


def parse(*argv, kind=TrainSettings, verb="train"):
    """Return the settings that these words give, behind those that every run must have."""
    return parse_settings(kind, [*REQUIRED, *argv], verb=verb)
