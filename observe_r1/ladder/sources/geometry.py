"""Geometry problems: Geometry3K, GeoQA, and multimodal-open-r1, which shares GeoQA's layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.ladder.sources.fields import (
    field,
    image_under,
    images,
    in_answer_tags,
    make_example,
    optional_text,
    text,
)
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _geometry3k(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `hiyouga/geometry3k`, the layout that EasyR1 and verl train on.

    Columns `images`, `problem` (with `<image>`) and `answer` by verl's `examples/data_preprocess/geo3k.py`. By its
    card, which shows the script that made it from lupantech/InterGPS, newer versions also have `id`, `choices` and
    `ground_truth`. The question is asked openly, as there: `answer` is the text of the right choice, which is harder
    to guess than its letter; `choices` and `ground_truth` are not used. The licence is in lupantech/InterGPS.
    """
    row_images = images(field(row, "images", place), "images", place, folder)
    row_id = optional_text(row, "id", place)
    return make_example(text(row, "problem", place), row_images, text(row, "answer", place), place, row_id)


GEOMETRY3K = Source(
    name="geometry3k",
    title="Geometry3K",
    hub="hiyouga/geometry3k",
    split="train",
    licence="MIT",
    adapt=_geometry3k,
    benchmark="its test split is a benchmark, and part of MathVista",
)


def _multimodal_open_r1(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `lmms-lab/multimodal-open-r1-8k-verified`, drawn from MathV360K and Geo170K.

    Columns `image`, `problem`, `solution` (`<think>…</think> <answer>…</answer>`), `original_question` and
    `original_answer` (prose) by that dataset's page and by scripts that train on it, such as TRL's
    `examples/scripts/grpo_vlm.py`. `problem` already lists the options. The page states no licence.
    """
    row_images = image_under(row, "image", place, folder)
    answer = in_answer_tags(text(row, "solution", place), f"{place}, 'solution'")
    return make_example(text(row, "problem", place), row_images, answer, place)


MULTIMODAL_OPEN_R1 = Source(
    name="multimodal_open_r1",
    title="multimodal-open-r1-8k",
    hub="lmms-lab/multimodal-open-r1-8k-verified",
    split="train",
    licence="none stated",
    adapt=_multimodal_open_r1,
    benchmark="MathVista draws on the same datasets: check for its items",
)


def _geoqa(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `leonardPKU/GEOQA_R1V_Train_8K` or of `Yuting6/geoqa_plus`.

    The first, the layout that R1-V and ms-swift train on, has columns `image`, `problem` and `solution`
    (`<answer> 145° </answer>`), the same as multimodal-open-r1's, by public scripts that train on it. Its page stated
    no licence in 2025; others list Apache-2.0. The second has `images` (a list), `problem` and `answer`, the same as
    Geometry3K's, and the splits `train` and `test`, by the metadata of its card, which states no licence.
    """
    return (_geometry3k if "images" in row else _multimodal_open_r1)(row, place, folder)


GEOQA = Source(
    name="geoqa",
    title="GeoQA",
    hub="leonardPKU/GEOQA_R1V_Train_8K",
    split="train",
    licence="none stated",
    adapt=_geoqa,
    benchmark="MathVista draws on GeoQA+: check for its items",
)
