"""MathVision (MATH-V) as `MathLLMs/MathVision` has it.

Columns `id`, `question`, `options` (a list, empty for a free answer), `image` (a path inside `images.zip`),
`decoded_image`, `answer`, `solution`, `level` and `subject` by that dataset's card; the picture is taken from
`decoded_image` and, where a file has none, from the path. Marks such as `<image1>` all mean that one picture.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, images, text
from observe_r1.ladder.sources.options import letter_of, option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_MARK = re.compile(r"\s*<image\d+>")


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question = _MARK.sub("", text(row, "question", place)).strip()
    answer = text(row, "answer", place)
    if options := option_list(row, "options", place):
        question, answer = with_options(question, options), letter_of(answer, options, f"{place}, 'answer'")
    key = "image" if row.get("decoded_image") is None else "decoded_image"
    return example(question, images([row.get(key)], key, place, folder), answer, place, text(row, "id", place))


SOURCE = Source(
    name="mathvision",
    title="MathVision",
    hub="MathLLMs/MathVision",
    split="test",
    licence="MIT",
    adapt=_adapt,
    benchmark="all of it is a benchmark: do not report MathVision after training on it",
)
