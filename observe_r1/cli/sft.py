"""`observe-r1 sft`: the warm start on demonstrations."""

from observe_r1.cli.heavy_imports import heavy_imports
from observe_r1.cli.needs import check_needs
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import starting
from observe_r1.config import SFTSettings


def run(argv: list[str]) -> int:
    """Parse the settings and fine-tune. Returns 0, or 130 after Ctrl-C."""
    settings = parse_settings(SFTSettings, argv, verb="sft")
    check_needs(settings)
    with starting("sft") as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.cli.sft_run import fine_tune_model

        ended = fine_tune_model(settings, view)
    print(ended.hints)
    return ended.code
