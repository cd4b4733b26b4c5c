"""Commands that only answer a question: how the accuracy reward reads an answer, which datasets a ladder can read."""

from observe_r1.cli.arguments import Arguments
from observe_r1.cli.start import heavy_imports
from observe_r1.cli.terminal import one_line, show
from observe_r1.errors import UserError


def judge(argv: list[str]) -> int:
    """Print how a gold answer and an answer are read, and whether they match. Returns 0 if they do, else 1."""
    parser = Arguments(
        "data judge",
        description="Show how the accuracy reward reads a gold answer and an answer, and whether they match."
        " Exit code 0: the answer is right; 1: it is wrong.",
        epilog="Example: observe-r1 data judge --gold '\\frac{1}{2}' --answer 'The answer is 0.5.'",
    )
    parser.add_argument("--gold", required=True, help="the gold answer, as in a dataset")
    parser.add_argument("--answer", required=True, help="a final answer, or a whole response; --answer=-5 for -5")
    asked = parser.parse_args(argv)
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
        readings = "; or ".join(map(described, read(text))) or "nothing: not an answer as a whole"
        print(f"{name:<7} {one_line(text)}\n   read {one_line(readings)}")
    print(verdict(answer, gold))
    return 0 if matches(answer, gold) else 1


def sources(argv: list[str]) -> int:
    """Print the public datasets that a ladder can read. Returns 0."""
    parser = Arguments(
        "ladder sources",
        description="List the public datasets that `observe-r1 ladder build NAME:PATH_OR_HUB_NAME` reads.",
        epilog="Example: observe-r1 ladder build geometry3k:hiyouga/geometry3k --model MODEL --output ladder",
    )
    parser.parse_args(argv)
    from observe_r1.ladder.sources.stream import describe_sources

    show(describe_sources() + "\n")
    return 0
