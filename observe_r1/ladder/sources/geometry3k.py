"""Geometry3K as `hiyouga/geometry3k` has it, the layout that EasyR1 and verl train on.

Columns `images`, `problem` (with `<image>`) and `answer` by verl's `examples/data_preprocess/geo3k.py`; by its card,
which shows the script that made it from lupantech/InterGPS, newer versions also have `id`, `choices` and
`ground_truth`. The question is asked openly, as there: `answer` is the text of the right choice, which is harder to
guess than its letter; `choices` and `ground_truth` are not used. The licence is in lupantech/InterGPS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, optional_text, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Return the example of a row with `images`, `problem`, `answer` and perhaps `id`."""
    pictures = images(field(row, "images", place), "images", place, folder)
    row_id = optional_text(row, "id", place)
    return example(text(row, "problem", place), pictures, text(row, "answer", place), place, row_id)


SOURCE = Source(
    name="geometry3k",
    title="Geometry3K",
    hub="hiyouga/geometry3k",
    split="train",
    licence="MIT",
    adapt=adapt,
    benchmark="its test split is a benchmark, and part of MathVista",
)
