"""Mathematics with images: MathV360K, ViRL39K, MathVision, We-Math and PolyMATH."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import (
    IN_THE_IMAGE,
    decoded_or_file,
    field,
    image_under,
    images,
    in_braces,
    letter_at,
    letter_of,
    make_example,
    option_list,
    optional_text,
    split_options,
    text,
    with_options,
)
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_HINT = re.compile(r"Hint:[^\n]*\n\s*(?:Question:\s*)?")
_ANSWER = re.compile(r"\A(?:the )?answer\b(?: is\b)?\s*:?\s*", re.IGNORECASE)


def _mathv360k(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `Zhiqiang007/MathV360K`: `train_samples_all_tuning.json`, with its images in `data_images.zip`.

    Download both and unpack the images beside the file, as the README of HZQ950419/Math-LLaVA shows. Rows hold `id`
    ("identity_7"), `image` (a path inside `data_images/`) and `conversations`, a human and a gpt turn of `from` and
    `value`, by public scripts that read it. The question reads "Hint: … Question: … Choices: (A) … (B) …" as that
    repository's `evaluation_mathvista/build_query.py` writes MathVista's, some in Chinese; the answer "The answer is
    B". A hint on the form of a free answer stays in the question. The card states no licence, and its 24 datasets have
    several. Not confirmed: that every question with choices labels them.
    """
    turns = field(row, "conversations", place)
    where = f"{place}, 'conversations'"
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, Mapping) for turn in turns):
        raise UserError(f"{where}: needs a question and an answer, got {turns!r:.80}: split the row")
    answer = _ANSWER.sub("", text(turns[1], "value", where)).removesuffix(".").strip()
    stem, choices, listed = text(turns[0], "value", where).partition("Choices:")
    question = stem.strip()
    if choices:
        options = split_options(listed)
        if not options:
            raise UserError(f"{where}: needs choices such as (A) 1 (B) 2, got {listed!r:.80}: label them")
        question, answer = with_options(_HINT.sub("", question), options), letter_of(answer, options, where)
    name = text(row, "image", place)
    row_images = images([f"data_images/{name.removeprefix('data_images/')}"], "image", place, folder)
    return make_example(question, row_images, answer, place, optional_text(row, "id", place))


MATHV360K = Source(
    name="mathv360k",
    title="MathV360K",
    hub="Zhiqiang007/MathV360K",
    split="train",
    licence="none stated",
    adapt=_mathv360k,
    benchmark="MathVista draws on the same datasets: check for its items",
)


def _virl39k(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    r"""Adapt a row of `TIGER-Lab/ViRL39K`: a Parquet file of rows, with its images in `images.zip`.

    Columns `question` (with `<image>` marks, or none: then the images come first), `answer` (in `\boxed{…}`),
    `PassRate_32BTrained`, `PassRate_7BBase`, `category`, `source`, `qid` and `image` (a list of paths beside the file)
    by that dataset's card and by the training code in TIGER-AI-Lab/VL-Rethinker. Questions of text alone have no
    image: each is an error, since it is not a visual question. `datasets` cannot read it by its name, because it takes
    the archive for a table: download it, unpack the images and name the Parquet file. The licence is as a public
    review of the card quotes it.
    """
    given = text(row, "answer", place)
    answer = next(iter(in_braces(given, "boxed")), "") or given
    row_images = images(field(row, "image", place), "image", place, folder)
    return make_example(text(row, "question", place), row_images, answer, place, text(row, "qid", place))


VIRL39K = Source(
    name="virl39k",
    title="ViRL39K",
    hub="TIGER-Lab/ViRL39K",
    split="train",
    licence="MIT",
    adapt=_virl39k,
)

_NUMBERED_MARK = re.compile(r"\s*<image(\d+)>")


def _mathvision(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of MathVision (MATH-V), from `MathLLMs/MathVision` or the repository mathllm/MATH-V.

    Columns `id`, `question`, `options` (a list, empty for a free answer), `image` ("images/4.jpg"), `answer` (a letter
    if there are options), `solution`, `level` and `subject` by the repository's `data/test.jsonl`; on the Hub also
    `decoded_image`, by lmms-eval's `mathvision` task. The image is taken from there or else from the path. Each row
    has one image: if a question holds several marks such as `<image2>`, they name parts of it and stay as text.
    """
    question = text(row, "question", place)
    if len(set(_NUMBERED_MARK.findall(question))) == 1:
        question = _NUMBERED_MARK.sub("", question).strip()
    answer = text(row, "answer", place)
    if options := option_list(row, "options", place):
        question, answer = with_options(question, options), letter_of(answer, options, f"{place}, 'answer'")
    return make_example(question, decoded_or_file(row, place, folder), answer, place, text(row, "id", place))


MATHVISION = Source(
    name="mathvision",
    title="MathVision",
    hub="MathLLMs/MathVision",
    split="test",
    licence="MIT",
    adapt=_mathvision,
    benchmark="all of it is a benchmark: do not report MathVision after training on it",
)


def _we_math(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `We-Math/We-Math`, from the Hub or from the repository of that name.

    Columns `ID`, `split`, `knowledge concept`, `question`, `option` (one string, "A. 1;B. 2 ; C. 3"), `answer` (a
    letter), `key`, `question number`, `knowledge concept description` and `image_path` by the repository's
    `data/testmini.json`; `image_path` is an image in the Hub's rows and a path beside that file
    ("2steps/image/1-1.png"). The steps of one problem share its `ID` and differ in `key`. The licence is in the
    repository's README and on the card.
    """
    listed = text(row, "option", place)
    options = split_options(listed)
    if not options:
        raise UserError(f"{place}, 'option': needs options such as A. 1; B. 2, got {listed!r:.80}: label them")
    question = with_options(text(row, "question", place), options)
    answer = letter_of(text(row, "answer", place), options, f"{place}, 'answer'")
    row_id = f"{text(row, 'ID', place)}-{text(row, 'key', place)}"
    return make_example(question, image_under(row, "image_path", place, folder), answer, place, row_id)


WE_MATH = Source(
    name="we_math",
    title="We-Math",
    hub="We-Math/We-Math",
    split="testmini",
    licence="CC BY-NC 4.0",
    adapt=_we_math,
    benchmark="all of it is a benchmark: do not report We-Math after training on it",
)


def _polymath(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `him1411/polymath`, the multimodal PolyMATH.

    Image folders with a `metadata.csv` of `file_name` (an image beside it, `image` when the Hub is read),
    `question_text`, `answer_option` ("(a) 1 (b) 2", "(1) 1 (2) 2" or "1. 1 2. 2"), `category`, `final_answer_range`
    ("A-D" or "1-4"), `contains_diagram`, `diagram_description` and `final_answer`, a letter or a number, which need
    not be how the options are labelled: by `data/test/metadata.csv` and `data/testmini/metadata.csv` in
    kevinscaria/PolyMATH, either of which can be named. The image shows the whole question; if `question_text` is empty
    or "None", only the image does. Of the first twenty gold answers of that test split most are wrong, of the smaller
    testmini's hardly any. The licence is the card's; polymathbenchmark/PolyMATH has the MIT licence.
    """
    listed, given = text(row, "answer_option", place), text(row, "final_answer", place)
    options, where = split_options(listed), f"{place}, 'final_answer'"
    if not options:
        raise UserError(f"{place}, 'answer_option': needs options such as (a) 1 (b) 2, got {listed!r:.80}: label them")
    is_number = given.isdecimal() and len(given) < 3
    answer = letter_at(int(given) - 1, options, where) if is_number else letter_of(given, options, where)
    asked = field(row, "question_text", place)
    question = IN_THE_IMAGE if asked in (None, "", "None") else text(row, "question_text", place)
    row_images = image_under(row, "file_name" if "file_name" in row else "image", place, folder)
    return make_example(with_options(question, options), row_images, answer, place)


POLYMATH = Source(
    name="polymath",
    title="PolyMATH",
    hub="him1411/polymath",
    split="test",
    licence="AFL-3.0",
    adapt=_polymath,
    benchmark="all of it is a benchmark: do not report PolyMATH after training on it; check its gold answers",
)
