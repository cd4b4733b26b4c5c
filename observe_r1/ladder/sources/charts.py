"""Questions about charts and rendered scenes: ChartQA and CLEVR-Math."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import field, images, make_example, text
from observe_r1.ladder.sources.source import Source, open_grouped
from observe_r1.records import Example


def _chartqa(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `HuggingFaceM4/ChartQA`, or of the JSON files of the repository vis-nlp/ChartQA.

    The Hub's rows hold `image`, `query`, `label` (a list of one text) and `human_or_machine` by that dataset's card.
    The repository's `ChartQA Dataset/train/train_human.json` and the like hold `imgname` (a file in `png/` beside
    them), `query` and `label` (a text). The benchmark accepts numbers within 5 %; here the answer counts as it is.
    """
    label = field(row, "label", place)
    if isinstance(label, list):
        if len(label) != 1:
            raise UserError(f"{place}, 'label': needs a list of one answer, got {label!r:.80}: keep one")
        (label,) = label
    key = "imgname" if "imgname" in row else "image"
    image = f"png/{text(row, key, place)}" if key == "imgname" else field(row, key, place)
    answer = text({"label": label}, "label", place)
    return make_example(text(row, "query", place), images([image], key, place, folder), answer, place)


CHARTQA = Source(
    name="chartqa",
    title="ChartQA",
    hub="HuggingFaceM4/ChartQA",
    split="train",
    licence="GPL-3.0",
    adapt=_chartqa,
    benchmark="its test split is a benchmark, and part of MathVista",
)


def _clevr_math(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    """Adapt a row of `dali-does/clevr-math`, exported to Parquet or as the JSON inside its archive.

    The Hub's rows hold `template`, `id` (the image's name, which several questions share), `question`, `image` and
    `label` (a count) by its loading script, `clevr-math-loader.py` in dali-does/clevr-math, which also names the
    licence. `datasets` no longer runs such scripts: name a Parquet export, or `clevr-math-train.json` from the
    dataset's `clevr-math.zip` with `CLEVR_v1.0` unpacked beside it. That file is one object with the list `questions`,
    rows of `image_filename`, `split`, `question`, `answer` and `template_filename`; all of it is read into memory.
    """
    if "image_filename" in row:
        key, answer = "image_filename", text(row, "answer", place)
        image: Any = f"CLEVR_v1.0/images/{text(row, 'split', place)}/{text(row, key, place)}"
    else:
        key, answer = "image", text(row, "label", place)
        image = field(row, key, place)
    return make_example(text(row, "question", place), images([image], key, place, folder), answer, place)


CLEVR_MATH = Source(
    name="clevr_math",
    title="CLEVR-Math",
    hub="dali-does/clevr-math",
    split="train",
    licence="CC BY-SA 4.0",
    adapt=_clevr_math,
    benchmark="MathVista draws on it: check for its items",
    open=open_grouped,
)
