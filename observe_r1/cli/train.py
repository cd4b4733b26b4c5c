"""`observe-r1 train`: reinforcement learning on questions with verifiable answers."""

from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings


def run(argv: list[str]) -> int:
    """Parse the settings and train. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(TrainSettings, argv, verb="train")
    from observe_r1.cli.train_run import train_model  # heavy imports wait until the settings are known to be good

    return train_model(settings)
