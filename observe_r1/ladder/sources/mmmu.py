"""MMMU as `lmms-lab/MMMU` has it, all subjects in one.

Columns `id`, `question` (with marks such as `<image 1>`), `options` (a Python list as text, perhaps with marks in it,
empty for an open question), `explanation`, `image_1` to `image_7`, `img_type`, `answer` ("?" in the split `test`),
`topic_difficulty`, `question_type` and `subfield` by the metadata of HuggingFaceM4/MMMU, which has the same layout, and
by lmms-eval's `mmmu` task. The licence is that of MMMU/MMMU.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.options import option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_MARK = re.compile(r"<image ([1-7])>")


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question = text(row, "question", place)
    if options := option_list({"options": _listed(row, place)}, "options", place):
        question = with_options(question, options)
    numbers = _MARK.findall(question) or [number for number in "1234567" if row.get(f"image_{number}") is not None]
    pictures = [
        picture
        for key in (f"image_{number}" for number in numbers)
        for picture in images([field(row, key, place)], key, place, folder)
    ]
    answer, row_id = text(row, "answer", place), text(row, "id", place)
    return example(_MARK.sub("<image>", question), pictures, answer, place, row_id)


def _listed(row: Mapping[str, Any], place: str) -> Any:
    listed = text(row, "options", place)
    try:
        return ast.literal_eval(listed)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:  # by how it is malformed
        raise UserError(f"{place}, 'options': needs a Python list as text, got {listed!r:.80}: correct it") from error


SOURCE = Source(
    name="mmmu",
    title="MMMU",
    hub="lmms-lab/MMMU",
    split="validation",
    licence="Apache-2.0",
    adapt=_adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
