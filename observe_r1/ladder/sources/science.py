"""School science with images: ScienceQA, M3CoT, MMK12 and SceMQA."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import (
    field,
    image_under,
    images,
    in_braces,
    is_file,
    letter_at,
    letter_of,
    make_example,
    option_list,
    optional_text,
    split_options,
    text,
    with_options,
)
from observe_r1.ladder.sources.source import Source, open_grouped
from observe_r1.records import Example


def _scienceqa(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `derek-thomas/ScienceQA`.

    Columns `image`, `question`, `choices` (a list), `answer` (an index, from 0), `hint`, `task`, `grade`, `subject`,
    `topic`, `category`, `skill`, `lecture` and `solution` by that dataset's card. The hint, if there is one, comes
    above the question. About half of the rows have no image: each is an error, since it is no visual question. The
    licence is that of lupantech/ScienceQA, where the dataset is from; the copy's card says CC BY-SA 4.0.
    """
    options = option_list(row, "choices", place, required=True)
    answer = letter_at(field(row, "answer", place), options, f"{place}, 'answer'")
    question = f"{optional_text(row, 'hint', place)}\n{text(row, 'question', place)}".lstrip()
    return make_example(with_options(question, options), image_under(row, "image", place, folder), answer, place)


SCIENCEQA = Source(
    name="scienceqa",
    title="ScienceQA",
    hub="derek-thomas/ScienceQA",
    split="train",
    licence="CC BY-NC-SA 4.0",
    adapt=_scienceqa,
    benchmark="its test split is a benchmark, and part of MathVista",
)


def _m3cot(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `LightChen2333/M3CoT`.

    Columns `id`, `category`, `image_id`, `question`, `choices` (a list), `context` (often empty), `answer` (a letter),
    `rationale`, `split`, `image`, `domain` and `topic` by that dataset's card and by `utils/data.py` in
    LightChen233/M3CoT, whose `data/train.jsonl` has a path in `image`. The context, if there is one, comes above the
    question. Some rows have no image: each is an error, since it is no visual question.
    """
    options = option_list(row, "choices", place, required=True)
    answer = letter_of(text(row, "answer", place), options, f"{place}, 'answer'")
    question = f"{optional_text(row, 'context', place)}\n{text(row, 'question', place)}".lstrip()
    row_images = image_under(row, "image", place, folder)
    return make_example(with_options(question, options), row_images, answer, place, text(row, "id", place))


M3COT = Source(
    name="m3cot",
    title="M3CoT",
    hub="LightChen2333/M3CoT",
    split="train",
    licence="CC BY-SA 4.0",
    adapt=_m3cot,
    benchmark="its test split is a benchmark; it also draws on ScienceQA",
)


def adapt_mmk12(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `FanqingM/MMK12`, the data of MM-Eureka, or of another dataset with the same columns.

    Columns `id`, `question`, `answer`, `subject` and `image` by that dataset's card and public scripts that read it,
    such as lmms-eval's `mmk12` task. In the test split, `question` already lists the options as lines "A. …", and
    `answer` is the letter. The licence is as a public review of the dataset's files quotes it.
    """
    row_images = image_under(row, "image", place, folder)
    answer, row_id = text(row, "answer", place), text(row, "id", place)
    return make_example(text(row, "question", place), row_images, answer, place, row_id)


MMK12 = Source(
    name="mmk12",
    title="MMK12",
    hub="FanqingM/MMK12",
    split="train",
    licence="Apache-2.0",
    adapt=adapt_mmk12,
    benchmark="its test split is a benchmark",
)

_ANSWER = "Answer (final answer highlighted)"
_FIRST_OPTION = re.compile(r"^\s*(?=\(A\)|A[.):])", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])\)?(?![A-Za-z])")
_MISREAD = re.compile(
    "\xc2[\x80-\xbf]|[\xc3-\xdf][\x80-\x9f\xa1-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}"
)
"""A character of two to four bytes in UTF-8, each read as one of Latin-1, except what may be "×" and a fixed space."""


def _scemqa(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    r"""Adapt a row of the repository SceMQA/SceMQA.

    `Multiple_Choice/multiple_choice.json` and `Free_Response/free_response.json` hold one object of lists by subject.
    Rows have `Question` (options at its end, "A. …" or "(A) …"), `Answer (final answer highlighted)` (a letter, perhaps
    with an explanation, "B", "(B) since …" or "B: since …", or a text with `\answer{…}`), `ImagePath`, a path beside
    the file without its ending, and some have `Notes`: by those files. Several `\answer{…}` are alternatives and make
    the row an error. Many texts are UTF-8 that was read as Latin-1 ("10 Î©"), which is undone. The repository states no
    licence. The copy on the Hub, `Haozy/SceMQA-main`, comes without its images when it is read by name: download one
    of the two and name a file. Not confirmed: how that copy's JSON files differ, and its LICENSE.
    """
    row = {key: _reread(value) if isinstance(value, str) else value for key, value in row.items()}
    question, given = text(row, "Question", place), text(row, _ANSWER, place)
    starts = [match.end() for match in _FIRST_OPTION.finditer(question)]
    options = split_options(question[starts[-1] :]) if starts else []
    answer = _scemqa_answer(given, options, f"{place}, {_ANSWER!r}")
    if options:
        question = with_options(question[: starts[-1]].strip(), options)
    row_images = images([_with_ending(text(row, "ImagePath", place), folder)], "ImagePath", place, folder)
    return make_example(question, row_images, answer, place)


def _reread(value: str) -> str:
    return _MISREAD.sub(lambda found: found[0].encode("latin-1").decode(), value).replace("\r\n", "\n")


def _scemqa_answer(given: str, options: list[str], where: str) -> str:
    if highlighted := in_braces(given, "answer"):
        if len(highlighted) > 1:
            raise UserError(f"{where}: needs one answer, got {', '.join(highlighted)!r:.80}: keep the best")
        return highlighted[0]
    letter = _LETTER.match(given)
    if not letter or (not options and letter.end() < len(given)):
        raise UserError(f"{where}: needs a letter or \\answer{{…}}, got {given!r:.80}: add it")
    return letter_of(letter[1], options, where) if options else letter[1]


def _with_ending(name: str, folder: Path | None) -> str:
    """Return an image's path with its ending if there is such a file, else as it is."""
    endings = (".jpg", ".png", ".jpeg")
    return next((name + ending for ending in endings if folder and is_file(folder / (name + ending))), name)


SCEMQA = Source(
    name="scemqa",
    title="SceMQA",
    hub="Haozy/SceMQA-main",
    split="train",
    licence="none stated",
    adapt=_scemqa,
    benchmark="all of it is a benchmark: do not report SceMQA after training on it",
    open=open_grouped,
)
