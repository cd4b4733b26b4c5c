"""`observe-r1 ladder`: NeuraLadder, from raw visual questions to a dataset ordered from easy to hard."""

from observe_r1.cli.heavy_imports import heavy_imports
from observe_r1.cli.needs import check_needs
from observe_r1.cli.terminal import show, starting
from observe_r1.errors import UserError
from observe_r1.registry import COMMAND_SLIP, nearest

VERBS = {
    "build": "screen, measure and arrange: questions in, a ladder out; stopped, it resumes where it was",
    "screen": "drop questions that cannot be verified, are repeated, are from a benchmark, or are too simple",
    "measure": "sample responses to what was screened: difficulty and complexity",
    "arrange": "order what was measured from easy to hard, mix it, and draw a size and shares",
    "review": "show the questions that no response solved, and write a file to decide about them",
    "refresh": "measure a ladder again with a newer model, and show how its questions moved",
    "sources": "list the public datasets that can be read as they are",
}


def run(argv: list[str]) -> int:
    """Run one of `VERBS`. Returns 0, or 130 after Ctrl-C."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        show(_usage())
        return 0
    verb, words = argv[0], argv[1:]
    if verb not in VERBS:
        raise UserError(
            f"unknown command 'ladder {verb}'{nearest(verb, VERBS, COMMAND_SLIP)}; `observe-r1 ladder` lists them"
        )
    if verb == "sources":
        return _sources(words)
    from observe_r1.cli.ladder_settings import ladder_settings

    settings = ladder_settings(verb, words)
    check_needs(settings)
    with starting(f"ladder {verb}") as view:
        with heavy_imports():  # they wait until the settings are known to be good
            from observe_r1.cli.ladder_run import run_verb

        return run_verb(verb, settings, view)


def _sources(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        show("Usage: observe-r1 ladder sources\n\nList the public datasets that `ladder build NAME:PATH` reads.\n")
        return 0
    if words:
        raise UserError(f"unexpected {words[0]!r}: `observe-r1 ladder sources` takes nothing")
    from observe_r1.ladder.sources import describe_sources

    show(describe_sources() + "\n")
    return 0


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "Usage: observe-r1 ladder COMMAND ...\n\n"
        "NeuraLadder: order raw visual questions from easy to hard for the model that is to learn from them.\n\n"
        f"Commands:\n{verbs}\n\n"
        "  observe-r1 ladder build questions.jsonl geometry3k:hiyouga/geometry3k --model MODEL --output DIR\n"
        "  observe-r1 train --model.path MODEL --data.path DIR\n\n"
        "  observe-r1 ladder COMMAND --help  explains every setting of a command\n"
    )
