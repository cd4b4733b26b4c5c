"""Geometry3K as `hiyouga/geometry3k` has it, the layout that EasyR1 and verl train on.

Columns `images`, `problem` (with `<image>`), `answer`, `id`, `choices` and `ground_truth` by that dataset's card, which
shows the script that made it from lupantech/InterGPS. The question is asked openly, as there: `answer` is the text of
the right choice, which is harder to guess than its letter; `choices` and `ground_truth` are not used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    pictures = images(field(row, "images", place), "images", place, folder)
    return example(text(row, "problem", place), pictures, text(row, "answer", place), place, text(row, "id", place))


SOURCE = Source(
    name="geometry3k",
    title="Geometry3K",
    hub="hiyouga/geometry3k",
    split="train",
    licence="MIT",
    adapt=_adapt,
    benchmark="its test split is a benchmark, and part of MathVista",
)
