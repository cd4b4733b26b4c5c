"""Files as lazy sequences of examples: three kinds of file, the Hub, columns, and what can be wrong."""

import json
import logging
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from observe_r1.data import load_examples, open_image
from observe_r1.errors import UserError
from observe_r1.records import Example


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def row(number: int, **columns: Any) -> dict[str, Any]:
    content = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": f"Frage {number}: ½?"}]
    return {"message": json.dumps([{"role": "user", "content": content}]), "answer": str(number), **columns}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def refusal(path: Path | str, index: int = 0, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_examples(path, **options)[index]
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.parquet"])
def test_three_kinds_of_file_hold_the_same(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, [row(number) for number in range(5)])
    examples = load_examples(path)
    assert len(examples) == 5
    assert examples[3] == Example(
        id="train#4",
        messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Frage 3: ½?"}]},),
        images=(str(tmp_path / "3.png"),),
        answer="3",
        origin=f"{path} row 4",
    )
    assert [example.answer for example in examples] == list("01234")
    assert [example.answer for example in examples[1:3]] == ["1", "2"]
    assert examples[-1] == examples[4]
    with pytest.raises(IndexError):
        examples[5]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_chats_as_real_lists(name: str, tmp_path: Path) -> None:
    rows = [row(number) for number in range(2)]
    lists = [{**row, "message": json.loads(row["message"])} for row in rows]
    strings = load_examples(write(tmp_path / name, rows))[1]
    assert load_examples(write(tmp_path / name, lists))[1] == strings


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_other_processes_read_the_same_rows(name: str, tmp_path: Path) -> None:
    examples = load_examples(write(tmp_path / name, [row(number) for number in range(20)]))
    expected = [examples[number] for number in range(20)]
    assert list(pickle.loads(pickle.dumps(examples))) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(examples.__getitem__, range(20), chunksize=1) == expected


def test_relative_images_start_at_the_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.jsonl", [row(0)])
    Image.new("RGB", (3, 2)).save(tmp_path / "set" / "0.png")
    monkeypatch.chdir(tmp_path)
    example = load_examples("set/a.jsonl")[0]
    monkeypatch.chdir("/")
    assert example.origin == "set/a.jsonl row 1"
    assert open_image(example.images[0], example.origin).size == (3, 2)


def test_image_bytes_in_parquet(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    part = {"type": "image", "image": data}
    chat = [{"role": "user", "content": [part]}]
    plain = load_examples(write(tmp_path / "a.parquet", [{"message": chat, "answer": "1"}]))[0]
    assert plain.images == (data,)
    assert open_image(plain.images[0], plain.origin).size == (3, 2)


def test_image_feature_of_datasets_stays_encoded(tmp_path: Path) -> None:
    part = {"type": datasets.Value("string"), "image": datasets.Image()}
    features = {
        "message": [{"role": datasets.Value("string"), "content": [part]}],
        "answer": datasets.Value("string"),
    }
    chat = [{"role": "user", "content": [{"type": "image", "image": {"bytes": b"PNG", "path": "a.png"}}]}]
    dataset = datasets.Dataset.from_list([{"message": chat, "answer": "1"}], datasets.Features(features))
    dataset.to_parquet(tmp_path / "a.parquet")
    assert load_examples(tmp_path / "a.parquet")[0].images == (b"PNG",)


def test_columns_are_carried(tmp_path: Path) -> None:
    known = {"id": 17, "source": "we-math", "difficulty": 0.125, "complexity": 164, "slot": 3}
    path = write(tmp_path / "a.jsonl", [row(0, **known), row(1, id=None, source=None, difficulty=None)])
    first, second = load_examples(path)
    assert (first.id, first.source, first.difficulty, first.complexity) == ("17", "we-math", 0.125, 164.0)
    assert (second.id, second.source, second.difficulty, second.complexity) == ("a#2", "", None, None)


def test_other_column_names(tmp_path: Path) -> None:
    chat = json.loads(row(0)["message"])
    path = write(tmp_path / "a.json", [{"prompt": chat, "gold": 3}])
    assert load_examples(path, "prompt", "gold")[0].answer == "3"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("12 cm", "12 cm"),
        (12, "12"),
        (-0.5, "-0.5"),
        (12.0, "12.0"),
        (1e-7, "0.0000001"),
        (1e16, "1" + "0" * 16),
    ],
)
def test_gold_answers(answer: Any, text: str, tmp_path: Path) -> None:
    assert load_examples(write(tmp_path / "a.jsonl", [row(0, answer=answer)]))[0].answer == text


@pytest.mark.parametrize("answer", ["", " \n", None, float("nan"), float("inf"), True, ["3"], {"a": 1}])
def test_gold_answers_that_are_none(answer: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(0), row(1, answer=answer)])
    message = refusal(path, 1)
    got = "null" if answer is None else repr(answer)
    assert message == f" row 2, 'answer': the gold answer needs text or a finite number, got {got}"


def test_rows_without_answer_where_none_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(0, answer=None), row(1, answer=""), row(2)])
    assert [example.answer for example in load_examples(path, require_answer=False)] == ["", "", "2"]
    nowhere = load_examples(path, label_key="gold", require_answer=False)
    assert [example.answer for example in nowhere] == ["", "", ""]


def test_missing_columns_name_those_present(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"mesage": "[]", "answer": "1"}])
    missing = " row 1: no column 'message' (did you mean 'mesage'?)"
    assert refusal(path) == f"{missing}: the row has mesage, answer; set data.input_key"
    assert refusal(write(tmp_path / "b.jsonl", [row(0)]), label_key="gold").endswith("; set data.label_key")
    assert "the row has none" in refusal(write(tmp_path / "c.jsonl", [{}]))


@pytest.mark.parametrize(
    ("column", "value"),
    [("difficulty", "hard"), ("difficulty", 5), ("complexity", -1), ("complexity", float("nan"))],
)
def test_known_columns_with_other_meanings(column: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row(0, **{column: value})])
    assert f"row 1, '{column}': needs a number from 0 to" in refusal(path)
    assert "rename the column" in refusal(path)


@pytest.mark.parametrize("broken", ['{"message": "[]",', "[1]", '"text"', '{"message": "hi", "answer": "1"}'])
def test_a_broken_row_is_named_when_it_is_reached(broken: str, tmp_path: Path) -> None:
    lines = [json.dumps(row(number)) for number in range(6)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*lines[:4], broken, *lines[5:]]))
    examples = load_examples(path)
    assert [examples[number].answer for number in (0, 1, 2, 3, 5)] == ["0", "1", "2", "3", "5"]
    assert "row 5" in refusal(path, 4) or ": line 5, column " in refusal(path, 4)


def test_a_broken_first_row_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1: needs an object with named columns, got list"):
        load_examples(write(tmp_path / "a.json", [[1], row(1)]))


def test_a_public_dataset_goes_through_a_ladder() -> None:
    assert refusal("chartqa:ChartQA").startswith(": only `observe-r1 ladder` reads public datasets by name")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_files_that_are_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert refusal(path) == ": no such file"
    path.mkdir()
    assert (
        refusal(path) == ": no file of rows in this folder (.json, .jsonl, .parquet, .csv, .tsv, .arrow): name a file"
    )


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_files_that_vanish_or_refuse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / name, [row(0), row(1)])
    examples = load_examples(path)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        examples[1]
    (tmp_path / "elsewhere").rename(path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path) == ": cannot be read: Permission denied"


@pytest.mark.parametrize("text", ["", " \n\n", "[]", " [ \n] "])
def test_empty_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert refusal(path) == ": the dataset is empty"


def test_empty_and_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"message": pa.array([], pa.string())}), path)
    assert refusal(path) == ": the dataset is empty"
    path.write_bytes(b"PAR1 and no more")
    assert refusal(path).startswith(": cannot be read as Parquet: Parquet magic bytes not found")
    data = bytearray(write(path, [row(number) for number in range(2000)]).read_bytes())
    data[500:2500] = bytes(2000)
    path.write_bytes(data)
    assert refusal(path).startswith(": cannot be read as Parquet: ")


def test_a_parquet_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [row(0)])
    assert load_examples(path)[0].answer == "0"
    write(path, [row(0, answer="other"), row(1)])
    assert [example.answer for example in load_examples(path)] == ["other", "1"]


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<message/>\n")
    assert refusal(path) == ": unknown kind of file '.xml': known are .json, .jsonl, .parquet, .csv, .tsv, .arrow"


def test_hub_names(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "user", "content": "How many?"}]
    rows = datasets.Dataset.from_list([{"message": chat, "answer": 1}])
    known = {("owner/name", "train"): rows}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: known[name, split])
    example = load_examples("owner/name")[0]
    assert (example.id, example.answer, example.origin) == ("name#1", "1", "owner/name row 1")


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("it doesn't exist"),
        ValueError("Unknown split 'train'"),
        RuntimeError("Dataset scripts are no longer supported"),
    ],
)
def test_hub_that_does_not_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    reason = " ".join(str(error).split())
    message = ": no such file, and not readable as a dataset on the Hugging Face Hub: "
    assert refusal("owner/name") == message + reason


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any, **__: Any) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("Couldn't reach 'owner/name'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = ": no such file, and the Hugging Face Hub, where it could be a dataset, does not answer: "
    assert refusal("owner/name") == message + "Couldn't reach 'owner/name' on the Hub"
    assert not caplog.records


@pytest.mark.parametrize("name", ["name", "a/b/c", "/a/b", "data/a.jsonl", "data/a.parquet"])
def test_names_that_are_not_asked_for_on_the_hub(name: str) -> None:
    assert refusal(name) == ": no such file"
