r"""SceMQA as the repository SceMQA/SceMQA has it.

`Multiple_Choice/multiple_choice.json` and `Free_Response/free_response.json` hold one object of lists by subject.
Rows have `Question` (options at its end, "A. …" or "(A) …"), `Answer (final answer highlighted)` (a letter, perhaps
with an explanation, "B", "(B) since …" or "B: since …", or a text with `\answer{…}`), `ImagePath`, a path beside the
file without its ending, and some `Notes`: by those files. Several `\answer{…}` are alternatives and make the row an
error. Many texts are UTF-8 that was read as Latin-1 ("10 Î©"), which is undone. The repository states no licence.
Of the copy on the Hub, `Haozy/SceMQA-main`, the pictures do not come along when it is read by its name: download one of
the two and name a file. Not confirmed: how that copy's JSON files differ, and its LICENSE.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import example, images, is_file, text
from observe_r1.ladder.sources.grouped import open_grouped
from observe_r1.ladder.sources.options import letter_of, split_options, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.ladder.sources.tagged import in_braces
from observe_r1.records import Example

_ANSWER = "Answer (final answer highlighted)"
_FIRST_OPTION = re.compile(r"^\s*(?=\(A\)|A[.):])", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])\)?(?![A-Za-z])")
_MISREAD = re.compile(
    "\xc2[\x80-\xbf]|[\xc3-\xdf][\x80-\x9f\xa1-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}"
)
"""A character of two to four bytes in UTF-8, each read as one of Latin-1; but for what may be "×" and a fixed space."""


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    row = {key: _reread(value) if isinstance(value, str) else value for key, value in row.items()}
    question, given = text(row, "Question", place), text(row, _ANSWER, place)
    starts = [match.end() for match in _FIRST_OPTION.finditer(question)]
    options = split_options(question[starts[-1] :]) if starts else []
    answer = _answer(given, options, f"{place}, {_ANSWER!r}")
    if options:
        question = with_options(question[: starts[-1]].strip(), options)
    return example(question, images([_file(row, place, folder)], "ImagePath", place, folder), answer, place)


def _reread(value: str) -> str:
    return _MISREAD.sub(lambda found: found[0].encode("latin-1").decode(), value).replace("\r\n", "\n")


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
    return next((name + ending for ending in endings if folder and is_file(folder / (name + ending))), name)


SOURCE = Source(
    name="scemqa",
    title="SceMQA",
    hub="Haozy/SceMQA-main",
    split="train",
    licence="none stated",
    adapt=_adapt,
    benchmark="all of it is a benchmark: do not report SceMQA after training on it",
    open=open_grouped,
)
