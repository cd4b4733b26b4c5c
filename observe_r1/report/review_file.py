"""Writing `review.yaml`, where a person decides about unsolved questions, so that it reads back exactly."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import yaml

from observe_r1.files import write_atomic
from observe_r1.ladder.review import Decision

_HEADER = """\
# Questions that no response of the measuring model solved: too hard, or wrong. Look at them in review.html, which has
# them in this order, then decide for each by its action:
#
#   drop      leave it out of the ladder (as every question that you do not change)
#   keep      the gold answer is right: put it into the ladder at the highest difficulty
#   correct   put it into the ladder with what you write under answer
#
# note is yours. Then run `observe-r1 ladder arrange` on this folder. Decisions stay when this file is written again.

"""


class _Dumper(yaml.SafeDumper):
    """Escapes what is not printable: PyYAML itself writes some line breaks in a way that it does not read back."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Return the node of a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def write_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """Write the file whole, with a comment on top that explains it. Errors: `UserError` where it cannot be written."""
    entries = [asdict(decision) for decision in decisions]
    text = yaml.dump(entries, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    write_atomic(path, _HEADER + text)
