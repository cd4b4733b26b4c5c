"""A ladder as a dataset for others: Parquet files with the images inside, its card and its figures."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Features, Image, List, Value
from pyarrow.parquet import ParquetWriter

from observe_r1.config import QuestionSettings
from observe_r1.data.examples import Examples
from observe_r1.ladder.questions import encoded_image, read_questions
from observe_r1.ladder.stage import LADDER
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_figures import FIGURES, draw_figure
from observe_r1.report.ladder_page import ladder_card
from observe_r1.report.ladder_summary import summarize_ladder

_FILE = 400 << 20
"""Bytes of a file, about."""
_ROWS = 100
"""Rows that are read together: the Hub shows so many at a time."""
_NUMBERS = ("difficulty", "complexity", "complexity_correct", "well_formed")
_SCHEMA = Features(
    {
        **dict.fromkeys(("id", "source", "message"), Value("string")),
        "images": List(Image()),
        "answer": Value("string"),
        **dict.fromkeys(_NUMBERS, Value("float64")),
        "slot": Value("int64"),
    }
).arrow_schema
"""With what tells `datasets` that images are images."""


def write_ladder_dataset(ladder: Path, folder: Path, *, name: str) -> int:
    """Write a dataset that `datasets.load_dataset` and `observe-r1 train` read as they read the ladder.

    Args:
        ladder: The ladder's folder.
        folder: An empty one.
        name: How others load the dataset: a name on the Hub, or a folder.

    Returns:
        The number of questions.

    Raises:
        UserError: The ladder is not complete, or an image cannot be opened.
    """
    build = open_build(ladder)
    questions = read_questions(ladder / LADDER)
    summary = summarize_ladder(build)
    (folder / "figures").mkdir()
    for figure in FIGURES:
        (folder / "figures" / f"{figure}.png").write_bytes(draw_figure(figure, summary))
    (folder / "README.md").write_text(ladder_card(summary, dataset=name), encoding="utf-8")
    (folder / "data").mkdir()
    left = _tables(questions, build.data)
    for number, first in enumerate(left):
        with ParquetWriter(folder / "data" / f"train-{number:05}.parquet", _SCHEMA) as file:
            file.write_table(first)
            size = first.nbytes
            while size < _FILE and (table := next(left, None)) is not None:
                file.write_table(table)
                size += table.nbytes
    return len(questions)


def _tables(questions: Examples, data: QuestionSettings) -> Iterator[pyarrow.Table]:
    rows = (_row(questions, number, data) for number in range(len(questions)))
    while some := list(islice(rows, _ROWS)):
        yield pyarrow.Table.from_pylist(some, _SCHEMA)


def _row(questions: Examples, number: int, data: QuestionSettings) -> dict[str, Any]:
    """Return a row whose chat has marks where the images of the column beside it are."""
    example, written = questions[number], questions.rows[number]
    images = [encoded_image(image, example.origin, data) for image in example.images]
    return {
        **{column: written.get(column) for column in (*_NUMBERS, "slot")},
        **{"id": example.id, "source": example.source, "answer": example.answer},
        "message": json.dumps(example.messages),
        "images": [{"bytes": image, "path": None} for image in images],
    }
