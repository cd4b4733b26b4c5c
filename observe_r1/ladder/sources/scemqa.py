r"""SceMQA as the repository SceMQA/SceMQA has it, and `Haozy/SceMQA-main` with it.

`Multiple_Choice/multiple_choice.json` and `Free_Response/free_response.json` hold one object of lists by subject.
Rows have `Question` (options at its end, "A. …" or "(A) …"), `Answer (final answer highlighted)` (a letter, perhaps
with an explanation, or a text with `\answer{…}`) and `ImagePath`, a path beside the file without its ending; read
there. Several `\answer{…}` are alternatives and make the row an error. Not confirmed: the licence, and rows of the
copy on the Hub.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import example, images, text
from observe_r1.ladder.sources.grouped import open_grouped
from observe_r1.ladder.sources.options import letter_of, split_options, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.ladder.sources.tagged import in_braces
from observe_r1.records import Example

_ANSWER = "Answer (final answer highlighted)"
_FIRST_OPTION = re.compile(r"^\s*(?=\(A\)|A[.):])", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])\)?(?![A-Za-z])")


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question, given = text(row, "Question", place), text(row, _ANSWER, place)
    starts = [match.end() for match in _FIRST_OPTION.finditer(question)]
    options = split_options(question[starts[-1] :]) if starts else []
    answer = _answer(given, options, f"{place}, {_ANSWER!r}")
    if options:
        question = with_options(question[: starts[-1]].strip(), options)
    return example(question, images([_file(row, place, folder)], "ImagePath", place, folder), answer, place)


def _answer(given: str, options: list[str], where: str) -> str:
    if highlighted := in_braces(given, "answer"):
        if len(highlighted) > 1:
            raise UserError(f"{where}: needs one answer, got {', '.join(highlighted)!r:.80}: keep the best")
        return highlighted[0]
    letter = _LETTER.match(given)
    if not letter or (not options and letter.end() < len(given)):
        raise UserError(f"{where}: needs a letter or \\answer{{…}}, got {given!r:.80}: add it")
    return letter_of(letter[1], options, where) if options else letter[1]


def _file(row: Mapping[str, Any], place: str, folder: Path | None) -> str:
    """Return the image's path with its ending, where there is such a file."""
    name = text(row, "ImagePath", place)
    endings = (".jpg", ".png", ".jpeg")
    return next((name + ending for ending in endings if folder and (folder / (name + ending)).is_file()), name)


SOURCE = Source(
    name="scemqa",
    title="SceMQA",
    hub="Haozy/SceMQA-main",
    split="train",
    licence="not confirmed: see its repository",
    adapt=_adapt,
    benchmark="all of it is a benchmark: do not report SceMQA after training on it",
    open=open_grouped,
)
