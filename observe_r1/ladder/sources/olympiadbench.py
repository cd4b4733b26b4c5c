"""OlympiadBench as `lmms-lab/OlympiadBench` has it.

Columns `question` (perhaps with marks such as `<img_3362>`, which go), `subfield`, `is_multiple_answer`, `final_answer`
(a list, or none where it asks for a proof), `answer_type`, `error`, `images` (a list, empty in the rows of text alone)
and `source`, and the splits `test_en` and `test_cn`, by lmms-eval's `olympiadbench` task and the README of
OpenBMB/OlympiadBench. The licence is that of Hothan/OlympiadBench, its authors' copy.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example

_MARK = re.compile(r"<img_\d+>")


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    answers = field(row, "final_answer", place) or []
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"{place}, 'final_answer': needs a list of texts, got {answers!r:.80}: correct it")
    pictures = images(field(row, "images", place), "images", place, folder)
    return example(_MARK.sub("", text(row, "question", place)), pictures, "; ".join(answers), place)


SOURCE = Source(
    name="olympiadbench",
    title="OlympiadBench",
    hub="lmms-lab/OlympiadBench",
    split="test_en",
    licence="Apache-2.0",
    adapt=_adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
