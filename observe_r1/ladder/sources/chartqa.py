"""ChartQA as `HuggingFaceM4/ChartQA` has it.

Columns `image`, `query`, `label` (a list of one text) and `human_or_machine` by that dataset's card. The benchmark
accepts numbers within 5 %; here the answer counts as it stands.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    labels = field(row, "label", place)
    if not isinstance(labels, list) or len(labels) != 1:
        raise UserError(f"{place}, 'label': needs a list of one answer, got {labels!r:.80}: keep one")
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(text(row, "query", place), pictures, text({"label": labels[0]}, "label", place), place)


SOURCE = Source(
    name="chartqa",
    title="ChartQA",
    hub="HuggingFaceM4/ChartQA",
    split="train",
    licence="GPL-3.0",
    adapt=_adapt,
    benchmark="its test split is a benchmark, and part of MathVista",
)
