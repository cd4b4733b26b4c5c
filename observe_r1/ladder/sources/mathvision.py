"""MathVision (MATH-V) as `MathLLMs/MathVision` and the repository mathllm/MATH-V have it.

Columns `id`, `question`, `options` (a list, empty for a free answer), `image` ("images/4.jpg"), `answer` (a letter
where there are options), `solution`, `level` and `subject` by the repository's `data/test.jsonl`; on the Hub also
`decoded_image`, by lmms-eval's `mathvision` task. The picture is taken from there or else from the path. Each row has
one picture: where a question holds several marks such as `<image2>`, they name parts of it and stay as text.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import decoded_image, example, text
from observe_r1.ladder.sources.options import letter_of, option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_MARK = re.compile(r"\s*<image(\d+)>")


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question = text(row, "question", place)
    if len(set(_MARK.findall(question))) == 1:
        question = _MARK.sub("", question).strip()
    answer = text(row, "answer", place)
    if options := option_list(row, "options", place):
        question, answer = with_options(question, options), letter_of(answer, options, f"{place}, 'answer'")
    return example(question, decoded_image(row, place, folder), answer, place, text(row, "id", place))


SOURCE = Source(
    name="mathvision",
    title="MathVision",
    hub="MathLLMs/MathVision",
    split="test",
    licence="MIT",
    adapt=_adapt,
    benchmark="all of it is a benchmark: do not report MathVision after training on it",
)
