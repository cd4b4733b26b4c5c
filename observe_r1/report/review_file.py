"""Writing `review.yaml`, where a person decides about unsolved questions, so that it reads back exactly."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import yaml

from observe_r1.files import write_atomic
from observe_r1.ladder.review import Decision
from observe_r1.report.pages import printable

_HEADER = """\
# Questions that no response of the measuring model solved: too hard, or wrong. review.html shows them under the same
# numbers. Decide about each by its action:
#
#   undecided  as long as you say nothing: it stays aside, and comes into the ladder when a newer measurement solves it
#   keep       the gold answer is right: put it into the ladder at the highest difficulty
#   correct    the gold answer is wrong: put it into the ladder with the right one, which you write under answer
#   drop       leave it out of the ladder; it comes in all the same when a newer measurement solves it
#
# note is yours. Then run `observe-r1 ladder arrange` on this folder. Decisions stay when this file is written again.
"""


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable: PyYAML itself writes some line breaks in a way that it does not read back."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Return the node of a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def write_decisions(path: Path, decisions: Iterable[Decision], questions: Mapping[str, str]) -> None:
    """Write the file whole, explained by comments: on top, and above each entry its number and question.

    Args:
        path: Of the file.
        decisions: In the order of the pages, then those about questions that are not there.
        questions: The text of each question on the pages, by id.

    Errors: `UserError` where it cannot be written.
    """
    entries = [_entry(number, decision, questions) for number, decision in enumerate(decisions, start=1)]
    write_atomic(path, "\n".join([_HEADER, *entries]))


def _entry(number: int, decision: Decision, questions: Mapping[str, str]) -> str:
    question = printable(questions.get(decision.id, "(no longer unsolved)"), 100)
    entry = asdict(decision)
    seen = " ".join(" ".join(entry.values()).split()).isprintable()  # else escaped, as what turns a text around must be
    text = yaml.dump([entry], Dumper=_Dumper, sort_keys=False, allow_unicode=seen, width=float("inf"))
    return f"# {number}. {question}\n{text}"
