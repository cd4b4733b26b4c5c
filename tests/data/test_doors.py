"""Places that hold rows: folders, globs, saved datasets, image folders, splits, CSV; an error names what is none."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from observe_r1.config import DataSettings
from observe_r1.data import load_data, load_examples
from observe_r1.data.rows import open_rows
from observe_r1.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows(*answers: int) -> list[dict[str, Any]]:
    return [{"problem": f"What is {number}?", "answer": str(number)} for number in answers]


def write(path: Path, *answers: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows(*answers)), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows(*answers))))
    return path


def answers(place: Path | str) -> list[str]:
    return [example.answer for example in load_examples(place)]


def refusal(place: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("inside", ["", "data/"])
def test_a_folder_of_shards(tmp_path: Path, suffix: str, inside: str) -> None:
    write(tmp_path / f"{inside}train-00001-of-00002.{suffix}", 3)
    write(tmp_path / f"{inside}train-00000-of-00002.{suffix}", 1, 2)
    write(tmp_path / f"{inside}test-00000-of-00001.{suffix}", 9)
    write(tmp_path / f"{inside}mini-00000-of-00001.{suffix}", 8)
    (tmp_path / "README.md").touch()
    (tmp_path / "dataset_infos.json").write_text("{}")
    found = load_examples(tmp_path)
    assert [example.answer for example in found] == ["1", "2", "3"] and len(found) == 3
    last = tmp_path / f"{inside}train-00001-of-00002.{suffix}"
    assert (found[2].origin, found[-1].id) == (f"{last} row 1", "train-00001-of-00002#1")
    assert answers(f"{tmp_path}@test") == ["9"] and answers(f"{tmp_path}@mini") == ["8"]
    assert refusal(f"{tmp_path}@dev").endswith(
        f"no split 'dev' in this folder: available: {tmp_path}@mini, {tmp_path}@test, {tmp_path}@train"
    )
    assert "a file has no splits" in refusal(f"{last}@test")


def test_folders_named_by_their_split(tmp_path: Path) -> None:
    write(tmp_path / "train" / "b.jsonl", 2)
    write(tmp_path / "train" / "a.jsonl", 1)
    write(tmp_path / "val" / "a.jsonl", 3)
    assert answers(tmp_path) == ["1", "2"] and answers(f"{tmp_path}@val") == ["3"]


def test_a_folder_whose_files_tell_no_split_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "algebra.jsonl", 1)
    write(tmp_path / "geometry.jsonl", 2)
    assert answers(tmp_path) == ["1", "2"]
    assert "no file name tells a split" in refusal(f"{tmp_path}@train")
    write(tmp_path / "geometry.parquet", 2)
    assert f"holds rows in .jsonl and .parquet files: name those to read, such as {tmp_path}/*.jsonl" in refusal(
        tmp_path
    )


def test_a_split_that_nobody_asked_for_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", 1)
    assert refusal(tmp_path).endswith(f"no split 'train' in this folder: available: {tmp_path}@test")


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2, 1):
        write(tmp_path / f"part{number}.parquet", number)
    (tmp_path / "part1.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert answers("part*") == answers(f"{tmp_path}/part?.parquet") == ["1", "2"]
    assert load_examples("part[2]*")[0].origin == "part2.parquet row 1"
    assert "no file matches" in refusal("other*")
    write(tmp_path / "odd*[1].jsonl", 7)
    assert answers("odd*[1].jsonl") == ["7"]


def test_saved_datasets(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    several = [{**row, "image": str(tmp_path / "a.png")} for row in rows(1, 2, 3)]
    dataset = datasets.Dataset.from_list(several).cast_column("image", datasets.Image())
    dataset.select([2, 0]).save_to_disk(tmp_path / "one")
    assert answers(tmp_path / "one") == ["3", "1"]
    assert load_examples(tmp_path / "one")[0].images
    both = datasets.DatasetDict({"train": dataset, "test": dataset.select([1])})
    both.save_to_disk(tmp_path / "dict")
    assert answers(tmp_path / "dict") == ["1", "2", "3"] and answers(f"{tmp_path}/dict@test") == ["2"]
    assert answers(tmp_path / "dict" / "test") == ["2"]
    assert f"available: {tmp_path}/dict@test, {tmp_path}/dict@train" in refusal(f"{tmp_path}/dict@val")
    (arrow,) = (tmp_path / "dict" / "test").glob("*.arrow")
    assert answers(arrow) == ["2"]
    arrow.write_bytes(b"no Arrow")
    assert "cannot be read as" in refusal(arrow) and "cannot be read as a saved dataset" in refusal(
        tmp_path / "dict/test"
    )


@pytest.mark.parametrize("question", ["problem", "question"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_image_folders(tmp_path: Path, name: str, question: str) -> None:
    for folder, answer in [("train", "1"), ("test", "2")]:
        (tmp_path / folder).mkdir()
        Image.new("RGB", (3, 2)).save(tmp_path / folder / "a.png")
        row = {"file_name": "a.png", question: "<image>How many?", "answer": answer}
        if name.endswith("csv"):
            (tmp_path / folder / name).write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
        else:
            (tmp_path / folder / name).write_text(json.dumps(row))
    assert answers(tmp_path) == ["1"] and answers(f"{tmp_path}@test") == ["2"]
    assert load_examples(tmp_path / "train")[0].images == (str(tmp_path / "train" / "a.png"),)


def test_a_folder_of_images_without_questions(tmp_path: Path) -> None:
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (3, 2)).save(tmp_path / label / "a.png")
    assert "a folder of images without questions: add a metadata.jsonl" in refusal(tmp_path)


def test_a_comma_in_a_name(tmp_path: Path) -> None:
    write(tmp_path / "a,b.jsonl", 1)
    write(tmp_path / "c.jsonl", 2)

    def loaded(path: str) -> list[str]:
        return [example.answer for example in load_data(DataSettings(path=path), seed=0)]

    assert loaded(f"{tmp_path}/a\\,b.jsonl,{tmp_path}/c.jsonl") == ["1", "2"]
    with pytest.raises(UserError, match=r"one name with a comma in it write '.*/a\\\\,b\.jsonl'"):
        loaded(f"{tmp_path}/a,b.jsonl")


def test_csv_and_tsv_values_are_texts(tmp_path: Path) -> None:
    text = '\ufeffid,problem,answer,images,difficulty\n7,"Which, of\n""two""?",007,,0.5\n\n,B,1.50,a.png,\n'
    (tmp_path / "a.csv").write_text(text)
    first, second = load_examples(tmp_path / "a.csv")
    assert (first.id, first.answer, first.images, first.difficulty) == ("7", "007", (), 0.5)
    assert first.messages[0]["content"] == [{"type": "text", "text": 'Which, of\n"two"?'}]
    assert (second.id, second.answer, second.images) == ("a#2", "1.50", (str(tmp_path / "a.png"),))
    assert second.difficulty is None
    (tmp_path / "b.tsv").write_text('problem\tanswer\timages\n<image>A, <image>B\t1\t["a.png", "b.png"]\n')
    (example,) = load_examples(tmp_path / "b.tsv")
    assert example.images == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problem,answer\nA,1\nB,2,3\n", "line 3: a row of 3 values under a header of 2: put values with commas"),
        ("problem,problem\nA,1\n", "the header has duplicate column names"),
        ('problem,answer\n"A,1\n', "cannot be read as CSV in UTF-8: unexpected end of data"),
        (b"problem,answer\n\xff,1\n", "cannot be read as CSV in UTF-8: "),
        ("problem,answer\n", "the dataset is empty"),
        ("", "the dataset is empty"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refusal(path).startswith(f"{path}: {message}")


values = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=9)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=5))
def test_csv_reads_what_pythons_writer_wrote(tmp_path_factory: pytest.TempPathFactory, pairs: list[Any]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *pairs])
    assert [(row["a"], row["b"]) for row in open_rows(path)[0]] == pairs


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.csv", "a.tsv", "a.arrow"])
def test_git_lfs_pointers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n")
    assert refusal(path) == f"{path}: is a Git LFS pointer, not the file itself: run `git lfs pull`"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "value",
    [
        {"0": rows(1)[0], "1": rows(2)[0]},
        {"data": rows(1, 2)},
        {c: {"0": "1", "1": "2"} for c in ("problem", "answer")},
    ],
)
def test_an_object_that_holds_rows_is_named(tmp_path: Path, value: Any, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, indent=indent))
    assert refusal(path).startswith(
        f"{path}: one JSON object that holds rows, or columns, under its keys: write the rows"
    )


@pytest.mark.parametrize("count", [1, 3])
def test_rows_over_several_lines_are_named(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n".join(json.dumps(row, indent=1) for row in rows(*range(count))))
    assert refusal(path).startswith(f"{path}: line 1: a JSON object that spans several lines: write each row on one")


def test_single_rows_are_no_object_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"message": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}))
    (example,) = load_examples(path, require_answer=False)
    assert example.response == "!"
    path.write_text('{"answer": 1,\n' + json.dumps(rows(2)[0]))
    assert "line 1, column 14: broken JSON" in refusal(path)
