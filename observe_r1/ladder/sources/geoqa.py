"""GeoQA as `leonardPKU/GEOQA_R1V_Train_8K` and `Yuting6/geoqa_plus` have it.

The first, the layout that R1-V and ms-swift train on, has columns `image`, `problem` and `solution`
(`<answer> 145° </answer>`), the same as multimodal-open-r1's, by public scripts that train on it. Its page stated no
licence in 2025; others list Apache-2.0. The second has `images` (a list), `problem` and `answer`, the same as
Geometry3K's, and the splits `train` and `test`, by the metadata of its card, which states no licence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources import geometry3k, multimodal_open_r1
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    layout = geometry3k if "images" in row else multimodal_open_r1
    return layout.adapt(row, place, folder)


SOURCE = Source(
    name="geoqa",
    title="GeoQA",
    hub="leonardPKU/GEOQA_R1V_Train_8K",
    split="train",
    licence="none stated",
    adapt=_adapt,
    benchmark="MathVista draws on GeoQA+: check for its items",
)
