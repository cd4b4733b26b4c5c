"""ScienceQA as `derek-thomas/ScienceQA` has it.

Columns `image`, `question`, `choices` (a list), `answer` (an index, from 0), `hint`, `task`, `grade`, `subject`,
`topic`, `category`, `skill`, `lecture` and `solution` by that dataset's card. The hint, where there is one, stands
above the question. About half of the rows have no picture: each is an error, since it is not a visual question. The
licence is that of lupantech/ScienceQA, whose dataset it is; the copy's card says CC BY-SA 4.0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, optional_text, text
from observe_r1.ladder.sources.options import letter_at, option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    options = option_list(row, "choices", place, required=True)
    answer = letter_at(field(row, "answer", place), options, f"{place}, 'answer'")
    question = f"{optional_text(row, 'hint', place)}\n{text(row, 'question', place)}".lstrip()
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(with_options(question, options), pictures, answer, place)


SOURCE = Source(
    name="scienceqa",
    title="ScienceQA",
    hub="derek-thomas/ScienceQA",
    split="train",
    licence="CC BY-NC-SA 4.0",
    adapt=_adapt,
    benchmark="its test split is a benchmark, and part of MathVista",
)
