"""MathVerse as `AI4Math/MathVerse` has it, and `CaraJ/MathVerse-lmmseval`, which lmms-eval reads.

Columns `sample_index`, `problem_index`, `problem_version`, `question` (its choices are in it), `image` (none in the
rows of text alone), `answer`, `question_type`, `metadata`, `query_wo`, `query_cot` and `question_for_eval` by the
`mathverse` task of lmms-eval. Both have several configurations, so that `datasets` cannot read them by name: download
`testmini.parquet` and name the file. The licence is the card's. Not confirmed: that the version "Vision Only" leaves
`question` empty, which is read as a question that only the picture shows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import IN_THE_PICTURE, example, field, images, optional_text, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    question = IN_THE_PICTURE if field(row, "question", place) in (None, "") else text(row, "question", place)
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(question, pictures, optional_text(row, "answer", place), place, text(row, "sample_index", place))


SOURCE = Source(
    name="mathverse",
    title="MathVerse",
    hub="AI4Math/MathVerse",
    split="testmini",
    licence="MIT",
    adapt=_adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
