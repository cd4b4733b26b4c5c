"""LogicVista as `lscpku/LogicVista` has it, which lmms-eval reads.

Columns `id`, `question` (which names its options), `answer` (a letter, or some: "A, C"), `image`, and `reasoning`,
`skill`, `broad_capability`, `specific_capability`, `imagesource`, `sourcelink` and `liscenced`, by lmms-eval's
`logicvista` task and public scripts that read it. The licence is that of the repository Yijia-Xiao/LogicVista.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import example, field, images, text
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    pictures = images([field(row, "image", place)], "image", place, folder)
    return example(text(row, "question", place), pictures, text(row, "answer", place), place, text(row, "id", place))


SOURCE = Source(
    name="logicvista",
    title="LogicVista",
    hub="lscpku/LogicVista",
    split="test",
    licence="Apache-2.0",
    adapt=_adapt,
    benchmark="all of it is a benchmark: name it in screen.benchmarks, do not train on it",
)
