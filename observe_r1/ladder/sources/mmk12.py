"""MMK12 as `FanqingM/MMK12` has it, the data of MM-Eureka.

Columns `id`, `question`, `answer`, `subject` and `image` by that dataset's card and public scripts that read it, such
as lmms-eval's `mmk12` task. The options of the test split's questions stand in `question` as lines "A. …" already, and
`answer` is then the letter. The licence is as a public review of the dataset's files quotes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Return the example of a row with `id`, `image`, `question` and `answer`."""
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(text(row, "question", place), pictures, text(row, "answer", place), place, text(row, "id", place))


SOURCE = Source(
    name="mmk12",
    title="MMK12",
    hub="FanqingM/MMK12",
    split="train",
    licence="Apache-2.0",
    adapt=adapt,
    benchmark="its test split is a benchmark",
)
