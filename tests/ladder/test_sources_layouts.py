"""Every source on a small file in exactly its public layout: whole rows in, whole examples out, broken rows named."""

import csv
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ladder_layouts import BLUE, HUB_LAYOUTS, IMAGE, NO_IMAGE, RED, SECOND, Layout, examples_of
from ladder_layouts_benchmarks import BENCHMARK_LAYOUTS
from ladder_layouts_files import FILE_LAYOUTS

from observe_r1 import registry
from observe_r1.data import open_image
from observe_r1.errors import UserError
from observe_r1.ladder.sources.stream import adapt_row
from observe_r1.records import Example

LAYOUTS = HUB_LAYOUTS + BENCHMARK_LAYOUTS + FILE_LAYOUTS
BY_NAME = [pytest.param(layout, id=f"{layout.name}-{layout.file}") for layout in LAYOUTS]
LOST = [pytest.param(layout, key, id=f"{layout.name}-{key}") for layout in LAYOUTS for key in layout.needed]
BROKEN = [
    pytest.param(layout, key, value, id=f"{layout.name}-{key}-{number}")
    for layout in LAYOUTS
    for key, values in layout.broken.items()
    for number, value in enumerate(values)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder: Path, layout: Layout, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the dataset's files hold them, and the images below `folder`."""
    for image, data in zip(layout.images, (RED, BLUE), strict=False):
        if isinstance(image, str):
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(data)
    path = folder / layout.file
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as lines:
            table = csv.DictWriter(lines, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps({"info": {"version": 1}, layout.group: rows} if layout.group else rows))
    return path


def full(layout: Layout, folder: Path, path: Path) -> Example:
    parts = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in layout.content]
    return Example(
        id=f"{layout.name}/{layout.id}",
        messages=({"role": "user", "content": parts},),
        images=tuple(image if isinstance(image, bytes) else str(folder / image) for image in layout.images),
        answer=layout.answer,
        source=layout.name,
        origin=f"{layout.name}:{path} row 1",
    )


def refusal(layout: Layout, row: dict[str, Any], folder: Path) -> str:
    """What is said of a row, as it stands after reading."""
    write(folder, layout, [layout.row])
    with pytest.raises(UserError) as caught:
        adapt_row(registry.load("source", layout.name), row, "here row 3", folder)
    message = str(caught.value)
    assert message.startswith("here row 3")
    assert "\n" not in message
    return message


def test_every_registered_source_has_a_layout_here() -> None:
    assert {layout.name for layout in LAYOUTS} == set(registry.REGISTRY["source"])


@pytest.mark.parametrize("layout", BY_NAME)
def test_a_row_becomes_this_example(layout: Layout, tmp_path: Path) -> None:
    path = write(tmp_path, layout, [layout.row])
    (example,) = examples_of(f"{layout.name}:{path}")
    assert example == full(layout, tmp_path, path)
    for image in example.images:
        assert open_image(image, example.origin).size == (4, 3)


@pytest.mark.parametrize(("layout", "key"), LOST)
def test_a_missing_column_is_named(layout: Layout, key: str, tmp_path: Path) -> None:
    row = {column: value for column, value in layout.row.items() if column != key}
    assert f"no column {key!r}" in refusal(layout, row, tmp_path)


@pytest.mark.parametrize(("layout", "key", "value"), BROKEN)
def test_a_broken_value_is_named(layout: Layout, key: str, value: Any, tmp_path: Path) -> None:
    message = refusal(layout, {**layout.row, key: value}, tmp_path)
    about_images = any(text in message for text in ("<image> marks", "no image at", "the row has no image"))
    assert repr(key) in message or about_images, message


@pytest.mark.parametrize("layout", [layout for layout in BY_NAME if layout.values[0] not in FILE_LAYOUTS])
def test_a_row_without_its_image_keeps_its_words_in_a_benchmark(layout: Layout) -> None:
    row = {key: NO_IMAGE if value in (IMAGE, SECOND) else value for key, value in layout.row.items()}
    row |= {key: [] for key, value in layout.row.items() if isinstance(value, list) and IMAGE in value}
    source = registry.load("source", layout.name)
    found = adapt_row(source, row, "here row 3", None, needs_image=False)
    assert found.images == ()
    words = " ".join(text for text in layout.content if text != "<image>")
    assert [part["text"].split() for part in found.messages[0]["content"]] == [words.split()]
    with pytest.raises(UserError, match=r"^here row 3: the row has no image"):
        adapt_row(source, row, "here row 3", None)


@pytest.mark.parametrize("layout", BY_NAME)
def test_text_that_spells_a_special_token_is_refused(layout: Layout, tmp_path: Path) -> None:
    row = deepcopy(layout.row)
    if "conversations" in row:
        row["conversations"][0]["value"] += " <|image_pad|>"
    else:
        key = next(key for key in row if key in ("problem", "question", "Question", "query", "question_text"))
        row[key] += " <|image_pad|>"
    assert "special token '<|image_pad|>'" in refusal(layout, row, tmp_path)
