"""The `observe-r1` command: finds what to run, and turns errors into exit codes."""

import sys
from collections.abc import Sequence

from observe_r1 import __version__
from observe_r1.cli.commands import COMMANDS, Command
from observe_r1.cli.terminal import Outlet, one_line, show, steady_streams
from observe_r1.errors import UserError, disk_fault
from observe_r1.registry import nearest, resolve

_HELP = ("-h", "--help", "help")
_SLIP_IN = 3
"""Commands are few and unlike each other: one typing error in this many characters still finds the command."""
_TOP = Command(
    "",
    "teach a vision-language model to look first, then reason, by reinforcement learning",
    examples=(
        "observe-r1 demo",
        "observe-r1 train observe_r1 --model.path MODEL --data.path LADDER",
        "observe-r1 --version",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input (one line on stderr), 130 interrupted.

    Every other exception is a bug of ours and keeps its traceback.
    """
    with steady_streams() as outlets:
        try:
            return _exit_code(list(sys.argv[1:] if argv is None else argv)) or _incomplete(outlets)
        except SystemExit as ended:  # argparse's, of commands that read their own options
            raise SystemExit(ended.code or _incomplete(outlets)) from None


def _incomplete(outlets: dict[str, Outlet]) -> int:
    """Return 2, and say why, if output was lost that somebody may still read (a full disk); else 0."""
    show("")
    lost = outlets["stdout"].lost if "stdout" in outlets else None
    return _complain(f"standard output is incomplete: {lost.strerror}") if lost else 0


def _exit_code(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        return _complain(str(fault))
    except KeyboardInterrupt:
        print("observe-r1: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"observe-r1: error: {one_line(message)}", file=sys.stderr)
    return 2


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-V", "--version"):
        show(f"observe-r1 {__version__}\n")
        return 0
    command, rest = _TOP, arguments
    while not command.run and rest and rest[0] not in _HELP:
        command, rest = _find(command, rest[0]), rest[1:]
    if not command.run:
        show(_usage(command))
        return 0
    if not command.settings:
        return int(resolve(command.run)(rest))
    from observe_r1.cli.start import start_command  # with pydantic, which the list of commands does not wait for

    return start_command(command, rest)


def _find(group: Command, word: str) -> Command:
    """Return the command of `group` that `word` names. Raises: UserError: there is none."""
    inside = _inside(group)
    if word in inside:
        return inside[word]
    listed = f"observe-r1 {group.name or '--help'}"
    name = f"{group.name} {word}".strip()
    raise UserError(f"unknown command {name!r}{nearest(word, inside, _SLIP_IN)}; `{listed}` lists them")


def _inside(group: Command) -> dict[str, Command]:
    """Return the commands of `group` by their last words."""
    prefix = f"{group.name} ".lstrip()
    inside = {name.removeprefix(prefix): each for name, each in COMMANDS.items() if name.startswith(prefix)}
    return {word: each for word, each in inside.items() if " " not in word}


def _usage(group: Command) -> str:
    inside = _inside(group)
    width = max(map(len, inside))
    called = f"observe-r1 {group.name}".rstrip()
    parts = [
        f"Usage: {called} COMMAND ...",
        group.about or group.sentence,
        "\n".join(["Commands:", *(f"  {word:<{width}}  {each.summary}" for word, each in inside.items())]),
        "\n".join(["Examples:", *(f"  {example}" for example in group.examples)]),
        f"`{called} COMMAND --help` explains every setting of a command.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
