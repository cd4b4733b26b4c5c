"""`observe-r1 serve-rewards`: a reward as a server, by the protocol of the original release and OpenRLHF."""

import math
import signal
import sys
from argparse import ArgumentTypeError

from observe_r1.cli.arguments import Arguments
from observe_r1.cli.start import heavy_imports
from observe_r1.cli.terminal import show
from observe_r1.registry import REGISTRY, nearest


def run(argv: list[str]) -> int:
    """Serve until Ctrl-C (exit code 130) or SIGTERM (143), which end calls that are open, too."""
    parser = Arguments(
        "serve-rewards",
        description="Serve rewards over HTTP: POST {'query': [...], 'prompts': [...], 'labels': [...]} is answered by"
        " {'rewards': [...]}. It listens on this machine alone unless --host says otherwise. Ctrl-C stops it.",
        epilog="Example: observe-r1 serve-rewards my_reward.py --port 5000, then"
        " observe-r1 train RECIPE --rewards.functions http://127.0.0.1:5000/=1",
    )
    parser.add_argument(
        "rewards",
        nargs="+",
        metavar="FILE.py",
        type=_reward,
        help="a reward file (docs/rewards.md), or a built-in reward: accuracy, format; several are added up",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every network (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=5000, help="port to listen on; 0 takes a free one (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that one call may take (%(default)g)")
    parser.add_argument("--workers", type=int, default=1, help="processes per reward file (%(default)s)")
    parser.add_argument(
        "--template",
        default="observe",
        choices=("observe", "think"),
        help="whose tags the format reward looks for (%(default)s)",
    )
    asked = parser.parse_args(argv)
    if not 0 < asked.timeout < math.inf:
        parser.error(f"argument --timeout: should be a number of seconds above 0, not {asked.timeout:g}")
    if asked.workers < 1:
        parser.error(f"argument --workers: should be 1 or more, not {asked.workers}")
    with heavy_imports():
        from observe_r1.config import RewardSettings, validate
        from observe_r1.rewards.custom import part_names
        from observe_r1.rewards.serving import RewardServing

    settings = validate(
        RewardSettings,
        {
            "functions": dict.fromkeys(asked.rewards, 1.0),
            "call_timeout": asked.timeout,
            "workers": asked.workers,
            "template": asked.template,
        },
        "command line",
    )
    names = tuple(part_names(settings.functions))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with RewardServing(names, settings, asked.host, asked.port) as server:
        show(f"serving {' + '.join(names)} at {server.url} (Ctrl-C stops it)\n")
        server.serve_forever()
    return 0


def _reward(word: str) -> str:
    """Take a reward file or the name of a built-in reward."""
    known = REGISTRY["reward"]
    if word in known or word.endswith(".py"):
        return word
    raise ArgumentTypeError(
        f"{word!r} is neither a Python file (my_reward.py) nor a built-in reward: {', '.join(known)}"
        f"{nearest(word, known)}"
    )
