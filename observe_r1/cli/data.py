"""`observe-r1 data`: a dataset checked before a run does, and single answers judged."""

from argparse import ArgumentParser

from observe_r1.cli.needs import heavy_imports
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import one_line, show, starting
from observe_r1.config import DataCheckSettings
from observe_r1.errors import UserError
from observe_r1.registry import COMMAND_SLIP, nearest

VERBS = {
    "check": "check a dataset before a run: every bad row in one line, the rest in figures",
    "judge": "show how the accuracy reward reads a gold answer and an answer, and whether they are the same",
}


def run(argv: list[str]) -> int:
    """Run one of `VERBS`. Returns 0 where all rows are good, or the answer right, else 2 or 1."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(_usage())
        return 0
    command, words = argv[0], argv[1:]
    if command not in VERBS:
        meant = nearest(command, VERBS, COMMAND_SLIP)
        raise UserError(f"unknown command 'data {command}'{meant}; `observe-r1 data` lists them")
    if command == "judge":
        return _judge(words)
    if words and not words[0].startswith("-"):
        words = ["--data.path", *words]
    settings = parse_settings(DataCheckSettings, words, verb="data check")
    with starting("data check"), heavy_imports():  # they wait until the settings are known to be good
        from observe_r1.cli.data_check import check_data

    return check_data(settings)


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "Usage: observe-r1 data COMMAND ...\n\n"
        f"Commands:\n{verbs}\n\n"
        "  observe-r1 data check questions.jsonl\n"
        "  observe-r1 data judge --gold '\\frac{1}{2}' --answer 0.5\n\n"
        "  observe-r1 data COMMAND --help  explains every setting of a command\n"
    )


def _judge(words: list[str]) -> int:
    """Print how a gold answer and an answer are read, and whether they are the same."""
    parser = ArgumentParser(
        "observe-r1 data judge",
        description="Shows how the accuracy reward reads a gold answer and an answer, and whether they are the same. "
        "Exit code 0 where the answer is right, 1 where it is wrong.",
        epilog="Example: observe-r1 data judge --gold '\\frac{1}{2}' --answer 'The answer is 0.5.'",
    )
    parser.add_argument("--gold", required=True, help="the gold answer, as it stands in a dataset")
    parser.add_argument("--answer", required=True, help="a final answer, or a response with one; --answer=-5 for -5")
    asked = parser.parse_args(words)
    with heavy_imports():
        from observe_r1.data.wrong_value import shorten
        from observe_r1.rewards.accuracy import gold_fault
        from observe_r1.rewards.judge.answer import final_answer
        from observe_r1.rewards.judge.comparing import matches, verdict
        from observe_r1.rewards.judge.reading import read
        from observe_r1.rewards.judge.values import described

    if fault := gold_fault(asked.gold):
        raise UserError(f"--gold {shorten(asked.gold)}: {fault}")
    gold, answer = final_answer(asked.gold), final_answer(asked.answer)
    for name, text in (("gold", gold), ("answer", answer)):
        readings = "; or ".join(map(described, read(text))) or "no answer as a whole"
        print(f"{name:<7} {one_line(text)}\n   read {one_line(readings)}")
    print(verdict(answer, gold))
    return 0 if matches(answer, gold) else 1
