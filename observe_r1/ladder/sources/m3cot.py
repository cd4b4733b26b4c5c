"""M3CoT as `LightChen2333/M3CoT` has it.

Columns `id`, `category`, `image_id`, `question`, `choices` (a list), `context` (often empty), `answer` (a letter),
`rationale`, `split`, `image`, `domain` and `topic` by that dataset's card and by `utils/data.py` in
LightChen233/M3CoT, whose `data/train.jsonl` has a path in `image`. The context, where there is one, stands above the
question. Some rows have no picture: each is an error, since it is not a visual question.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, optional_text, text
from observe_r1.ladder.sources.options import letter_of, option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    options = option_list(row, "choices", place, required=True)
    answer = letter_of(text(row, "answer", place), options, f"{place}, 'answer'")
    question = f"{optional_text(row, 'context', place)}\n{text(row, 'question', place)}".lstrip()
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(with_options(question, options), pictures, answer, place, text(row, "id", place))


SOURCE = Source(
    name="m3cot",
    title="M3CoT",
    hub="LightChen2333/M3CoT",
    split="train",
    licence="CC BY-SA 4.0",
    adapt=_adapt,
    benchmark="its test split is a benchmark; it draws on ScienceQA, too",
)
