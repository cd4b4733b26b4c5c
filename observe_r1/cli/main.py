"""The `observe-r1` command: finds the verb, and turns errors into exit codes."""

import sys
from collections.abc import Sequence
from importlib import import_module

from observe_r1 import __version__
from observe_r1.cli.terminal import Outlet, one_line, show, steady_streams
from observe_r1.errors import UserError, full_disk
from observe_r1.registry import COMMAND_SLIP, nearest

VERBS = {
    "train": ("observe_r1.cli.train:train", "train a vision-language model by reinforcement learning"),
    "sft": ("observe_r1.cli.train:sft", "warm-start a model on demonstrations (supervised fine-tuning)"),
    "data": ("observe_r1.cli.data:run", "check a dataset before a run, and show how an answer is judged"),
    "ladder": ("observe_r1.cli.ladder:run", "order questions from easy to hard for a model: build, review, refresh"),
    "demo": (
        "observe_r1.demo.steps:run",
        "watch a tiny model learn to look first, then reason; no GPU, no downloads",
    ),
}
"""Each verb's function, `(argv: list[str]) -> int`, imported when it is called, and its line in the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input (one line on stderr), 130 interrupted.

    Every other exception is a bug of ours and keeps its traceback.
    """
    with steady_streams() as outlets:
        try:
            return _exit_code(list(sys.argv[1:] if argv is None else argv)) or _incomplete(outlets)
        except SystemExit as ended:  # of `--help`
            raise SystemExit(ended.code or _incomplete(outlets)) from None


def _incomplete(outlets: dict[str, Outlet]) -> int:
    """Return 2, and say why, where standard output could not take everything and somebody may still read it; else 0."""
    show("")
    lost = outlets["stdout"].lost if "stdout" in outlets else None
    return _complain(f"standard output is incomplete: {lost.strerror}") if lost else 0


def _exit_code(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        full = full_disk(error)
        if full is None:
            raise
        return _complain(str(full))
    except KeyboardInterrupt:
        print("observe-r1: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"observe-r1: error: {one_line(message)}", file=sys.stderr)
    return 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show(_usage())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-V", "--version"):
        show(f"observe-r1 {__version__}\n")
        return 0
    if verb not in VERBS:
        raise UserError(f"unknown command {verb!r}{nearest(verb, VERBS, COMMAND_SLIP)}; `observe-r1 --help` lists them")
    module, _, function = VERBS[verb][0].partition(":")
    return int(getattr(import_module(module), function)(rest))


def _usage() -> str:
    width = max(len(verb) for verb in VERBS)
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items())
    return (
        "Usage: observe-r1 COMMAND [options]\n\n"
        "Reinforcement learning that teaches a vision-language model to look first, then reason.\n\n"
        f"Commands:\n{verbs}\n\n"
        "  observe-r1 COMMAND --help  explains every setting of a command\n"
        "  observe-r1 --version       prints the version\n"
    )


if __name__ == "__main__":
    sys.exit(main())
