"""Where the rows of a source are: folders, the Hub, image folders, and which of their splits is read."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ladder_layouts import RED, examples_of
from PIL import Image

from observe_r1.data import open_image
from observe_r1.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        list(examples_of(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_parquet(path: Path, numbers: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": RED, "path": None}, "query": "How many?", "label": [str(n)]} for n in numbers]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [3])
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 2])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [9])
    for folder in (tmp_path, tmp_path / "data"):
        found = list(examples_of(f"chartqa:{folder}"))
        assert [(example.id, example.answer) for example in found] == [
            ("chartqa/1", "1"),
            ("chartqa/2", "2"),
            ("chartqa/3", "3"),
        ]
    assert found[2].origin == f"chartqa:{tmp_path}/data/train-00001-of-00002.parquet row 1"


def test_parquet_files_without_a_split_in_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [2])
    write_parquet(tmp_path / "a.parquet", [1])
    assert [example.answer for example in examples_of(f"chartqa:{tmp_path}")] == ["1", "2"]


def answers(text: str, *, benchmark: bool = False) -> list[str]:
    return [example.answer for example in examples_of(text, benchmark=benchmark)]


def test_the_split_of_a_folder_that_is_asked_for(tmp_path: Path) -> None:
    for split, number in [("train", 1), ("test", 2), ("val", 3)]:
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [number])
    assert answers(f"chartqa:{tmp_path}") == ["1"]
    assert answers(f"chartqa:{tmp_path}", benchmark=True) == ["2"]
    for benchmark in (False, True):
        assert answers(f"chartqa:{tmp_path}@val", benchmark=benchmark) == ["3"]
        assert answers(f"chartqa:{tmp_path}@train", benchmark=benchmark) == ["1"]
    choices = ", ".join(f"{tmp_path}@{split}" for split in ("test", "train", "val"))
    assert refusal(f"chartqa:{tmp_path}@dev").endswith(f"@dev: no split 'dev' in this folder: available: {choices}")
    write_parquet(tmp_path / "data" / "dev.parquet", [4])
    assert answers(f"chartqa:{tmp_path}@dev") == ["4"]
    file = tmp_path / "data" / "val-00000-of-00001.parquet"
    assert answers(f"chartqa:{file}", benchmark=True) == ["3"]
    assert "@val: a file has no splits: name it without @val" in refusal(f"chartqa:{file}@val")


def test_a_place_with_an_at_sign_in_its_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows@test" / "train-0.parquet", [1])
    assert answers(f"chartqa:{tmp_path}/rows@test") == ["1"]
    assert answers(f"chartqa:{tmp_path}/rows@test@train", benchmark=True) == ["1"]


def test_the_split_of_the_hub_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, split: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"image": RED, "query": "Which?", "label": f"{name} {split}"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert answers("chartqa:a/b") == ["a/b train"]
    assert answers("chartqa:a/b", benchmark=True) == ["a/b test"]
    assert answers("chartqa:a/b@val", benchmark=True) == ["a/b val"]


def test_a_place_on_the_hub_without_the_split_of_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, split: str) -> datasets.Dataset:
        raise ValueError(f'Unknown split "{split}". Should be one of ["train"].')

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r'Unknown split "test".*: .* chartqa:a/b@train names another$'):
        answers("chartqa:a/b", benchmark=True)
    with pytest.raises(UserError, match=r'Unknown split "val"[^@]*$'):
        answers("chartqa:a/b@val", benchmark=True)


def test_a_benchmark_file_that_is_broken_has_no_other_split(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UserError, match=r"rows\.parquet[^@]*$"):
        answers(f"chartqa:{tmp_path / 'rows.parquet'}", benchmark=True)


def test_a_benchmark_that_is_no_part_of_a_training_set_keeps_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "7", "question": "2+2?", "options": [], "image": None, "answer": "4", "decoded_image": None}
    known = {("MathLLMs/MathVision", "test"): datasets.Dataset.from_list([row])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: known[name, split])
    assert answers("mathvision:MathLLMs/MathVision", benchmark=True) == ["4"]


def test_a_source_reads_its_own_split_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list(
        [{"id": "7", "question": "2+2?", "options": [], "decoded_image": Image.new("RGB", (4, 3)), "answer": "4"}],
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "question": datasets.Value("string"),
                "options": datasets.List(datasets.Value("string")),
                "decoded_image": datasets.Image(),
                "answer": datasets.Value("string"),
            }
        ),
    )
    known = {("MathLLMs/MathVision", "test"): rows}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: known[name, split])
    (found,) = examples_of("mathvision:MathLLMs/MathVision")
    assert (found.id, found.answer) == ("mathvision/7", "4")
    assert open_image(found.images[0], "").size == (4, 3)


def test_an_image_folder_on_the_hub_and_beside_its_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repo" / "test"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(RED)
    (folder / "2.png").write_bytes(RED)
    (folder / "metadata.csv").write_text(
        "file_name,question_text,answer_option,final_answer\n"
        "1.png,None,(a) (b) (c),C\n"
        '2.png,"First, which?",1. red 2. blue,2\n'
    )
    real = datasets.load_dataset

    def load(name: str, split: str) -> datasets.Dataset:
        files = {split: str(folder / "*")}
        return real("imagefolder", data_files=files, split=split, cache_dir=str(tmp_path / "hub"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for place in ("him1411/polymath", folder / "metadata.csv"):
        found = list(examples_of(f"polymath:{place}"))
        assert [example.answer for example in found] == ["C", "B"]
        assert [open_image(example.images[0], "").size for example in found] == [(4, 3), (4, 3)]
    assert found[1].origin == f"polymath:{folder / 'metadata.csv'} row 2"
