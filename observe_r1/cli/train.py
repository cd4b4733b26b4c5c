"""`observe-r1 train` and `observe-r1 sft`: from the words of a command to a run."""

from observe_r1.cli.needs import check_needs, heavy_imports
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import starting
from observe_r1.config import SFTSettings, TrainSettings


def train(argv: list[str]) -> int:
    """Parse the settings and train. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(TrainSettings, argv, verb="train")
    check_needs(settings)
    with starting("train") as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.run.train import train_model

        ended = train_model(settings, view)
    print(ended.hints)
    return ended.code


def sft(argv: list[str]) -> int:
    """Parse the settings and fine-tune. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(SFTSettings, argv, verb="sft")
    check_needs(settings)
    with starting("sft") as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.run.sft import fine_tune_model

        ended = fine_tune_model(settings, view)
    print(ended.hints)
    return ended.code
