"""`observe-r1 train`: reinforcement learning on questions with verifiable answers."""

from observe_r1.cli.heavy_imports import heavy_imports
from observe_r1.cli.needs import check_needs
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import starting
from observe_r1.config import TrainSettings


def run(argv: list[str]) -> int:
    """Parse the settings and train. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(TrainSettings, argv, verb="train")
    check_needs(settings)
    with starting("train") as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.cli.train_run import train_model

        ended = train_model(settings, view)
    print(ended.hints)
    return ended.code
