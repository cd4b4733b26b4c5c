"""Benchmarks to check a ladder against, never to train on: MathVista, MathVerse, MMMU, OlympiadBench and LogicVista."""

import ast
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
    make_example,
    option_list,
    optional_text,
    text,
    with_options,
)
from observe_r1.ladder.sources.science import adapt_mmk12
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_NOT_FOR_TRAINING = "all of it is a benchmark: name it in screen.benchmarks, do not train on it"


def _mathvista(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `AI4Math/MathVista`.

    Columns `pid`, `question`, `image` ("images/1.jpg"), `decoded_image`, `choices` (a list, or none), `unit`,
    `precision`, `answer` (the text of a choice; empty in the split `test`), `question_type`, `answer_type`, `metadata`
    and `query` by the README of lupantech/MathVista and lmms-eval's `mathvista` task. `testmini` is what papers
    report. The licence is the card's.
    """
    question, answer = text(row, "question", place), optional_text(row, "answer", place)
    if row.get("choices") is not None and (options := option_list(row, "choices", place)):
        question = with_options(question, options)
    return make_example(question, decoded_or_file(row, place, folder), answer, place, text(row, "pid", place))


MATHVISTA = Source(
    name="mathvista",
    title="MathVista",
    hub="AI4Math/MathVista",
    split="testmini",
    licence="CC BY-SA 4.0",
    adapt=_mathvista,
    benchmark=_NOT_FOR_TRAINING,
)


def _mathverse(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `AI4Math/MathVerse`, or of `CaraJ/MathVerse-lmmseval`, which lmms-eval reads.

    Columns `sample_index`, `problem_index`, `problem_version`, `question` (its choices are in it), `image` (none in
    the rows of text alone), `answer`, `question_type`, `metadata`, `query_wo`, `query_cot` and `question_for_eval` by
    the `mathverse` task of lmms-eval. Both have several configurations, so that `datasets` cannot read them by name:
    download `testmini.parquet` and name the file. The licence is the card's. Not confirmed: that the version "Vision
    Only" leaves `question` empty, which is read as a question that only the image shows.
    """
    question = IN_THE_IMAGE if field(row, "question", place) in (None, "") else text(row, "question", place)
    row_images = image_under(row, "image", place, folder)
    answer, row_id = optional_text(row, "answer", place), text(row, "sample_index", place)
    return make_example(question, row_images, answer, place, row_id)


MATHVERSE = Source(
    name="mathverse",
    title="MathVerse",
    hub="AI4Math/MathVerse",
    split="testmini",
    licence="MIT",
    adapt=_mathverse,
    benchmark=_NOT_FOR_TRAINING,
)

_MMMU_MARK = re.compile(r"<image ([1-7])>")


def _mmmu(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `lmms-lab/MMMU`, all subjects in one.

    Columns `id`, `question` (with marks such as `<image 1>`), `options` (a Python list as text, perhaps with marks in
    it, empty for an open question), `explanation`, `image_1` to `image_7`, `img_type`, `answer` ("?" in the split
    `test`), `topic_difficulty`, `question_type` and `subfield` by the metadata of HuggingFaceM4/MMMU, which has the
    same layout, and by lmms-eval's `mmmu` task. The licence is that of MMMU/MMMU.
    """
    question = text(row, "question", place)
    if options := option_list({"options": _python_list(row, place)}, "options", place):
        question = with_options(question, options)
    numbers = _MMMU_MARK.findall(question) or [number for number in "1234567" if row.get(f"image_{number}") is not None]
    row_images = [image for number in numbers for image in image_under(row, f"image_{number}", place, folder)]
    answer, row_id = text(row, "answer", place), text(row, "id", place)
    return make_example(_MMMU_MARK.sub("<image>", question), row_images, answer, place, row_id)


def _python_list(row: Mapping[str, Any], place: str) -> Any:
    listed = text(row, "options", place)
    try:
        return ast.literal_eval(listed)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:  # by how it is malformed
        raise UserError(f"{place}, 'options': needs a Python list as text, got {listed!r:.80}: correct it") from error


MMMU = Source(
    name="mmmu",
    title="MMMU",
    hub="lmms-lab/MMMU",
    split="validation",
    licence="Apache-2.0",
    adapt=_mmmu,
    benchmark=_NOT_FOR_TRAINING,
)

_OLYMPIAD_MARK = re.compile(r"<img_\d+>")


def _olympiadbench(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `lmms-lab/OlympiadBench`.

    Columns `question` (perhaps with marks such as `<img_3362>`, which are removed), `subfield`, `is_multiple_answer`,
    `final_answer` (a list, or none if it asks for a proof), `answer_type`, `error`, `images` (a list, empty in the
    rows of text alone) and `source`, and the splits `test_en` and `test_cn`, by lmms-eval's `olympiadbench` task and
    the README of OpenBMB/OlympiadBench. The licence is that of Hothan/OlympiadBench, its authors' copy.
    """
    answers = field(row, "final_answer", place) or []
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"{place}, 'final_answer': needs a list of texts, got {answers!r:.80}: correct it")
    row_images = images(field(row, "images", place), "images", place, folder)
    question = _OLYMPIAD_MARK.sub("", text(row, "question", place))
    return make_example(question, row_images, "; ".join(answers), place)


OLYMPIADBENCH = Source(
    name="olympiadbench",
    title="OlympiadBench",
    hub="lmms-lab/OlympiadBench",
    split="test_en",
    licence="Apache-2.0",
    adapt=_olympiadbench,
    benchmark=_NOT_FOR_TRAINING,
)

LOGICVISTA = Source(
    name="logicvista",
    title="LogicVista",
    hub="lscpku/LogicVista",
    split="test",
    licence="Apache-2.0",
    adapt=adapt_mmk12,
    benchmark=_NOT_FOR_TRAINING,
)
"""`lscpku/LogicVista`, which lmms-eval reads, has MMK12's columns and more.

Columns `id`, `question` (which names its options), `answer` (a letter, or some: "A, C"), `image`, and `reasoning`,
`skill`, `broad_capability`, `specific_capability`, `imagesource`, `sourcelink` and `liscenced`, by lmms-eval's
`logicvista` task and public scripts that read it. The licence is that of the repository Yijia-Xiao/LogicVista.
"""
