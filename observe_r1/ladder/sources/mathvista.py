"""MathVista as `AI4Math/MathVista` has it.

Columns `pid`, `question`, `image` ("images/1.jpg"), `decoded_image`, `choices` (a list, or none), `unit`, `precision`,
`answer` (of a choice its text; empty in the split `test`), `question_type`, `answer_type`, `metadata` and `query` by
the README of lupantech/MathVista and lmms-eval's `mathvista` task. `testmini` is what is reported. The licence is the
card's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import decoded_image, example, optional_text, text
from observe_r1.ladder.sources.options import option_list, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question, answer = text(row, "question", place), optional_text(row, "answer", place)
    if row.get("choices") is not None and (options := option_list(row, "choices", place)):
        question = with_options(question, options)
    return example(question, decoded_image(row, place, folder), answer, place, text(row, "pid", place))


SOURCE = Source(
    name="mathvista",
    title="MathVista",
    hub="AI4Math/MathVista",
    split="testmini",
    licence="CC BY-SA 4.0",
    adapt=_adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
