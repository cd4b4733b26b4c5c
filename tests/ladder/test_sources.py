"""Reading a source row by row, skipping what is broken; images in every form; the listing."""

import json
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
from ladder_layouts import RED, examples_of
from PIL import Image

from observe_r1 import registry
from observe_r1.cli.main import main
from observe_r1.data import open_image
from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import images, make_example
from observe_r1.ladder.sources.stream import BadRow, describe_sources, read_source
from observe_r1.records import Example


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def row(number: int, **columns: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"Find {number}.", "answer": str(number), "image": "1.png", **columns}


def jsonl(folder: Path, lines: list[Any]) -> Path:
    """MMK12's columns as JSON lines, the image beside them; a string is written as it is."""
    (folder / "1.png").write_bytes(RED)
    path = folder / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_examples_never_train_on_a_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    """What help and docs build as an example is copied as it stands."""
    assert main(["ladder"]) == 0
    assert main(["ladder", "build", "--help"]) == 0
    text = capsys.readouterr().out + (Path(__file__).parents[2] / "docs" / "ladder.md").read_text()
    examples = re.findall(r"observe-r1 ladder build (.*?) --", text)
    named = {name for example in examples for name in re.findall(r"(\w+):\w+/", example)}
    assert "geometry3k" in named
    assert all("all of it" not in (registry.load("source", name).benchmark or "") for name in named)


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        list(examples_of(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_broken_rows_come_in_their_places_each_with_its_error(tmp_path: Path) -> None:
    bad = [row(2, answer=""), "{broken", row(4, image="none.png"), ["a list"], row(6, question="<|im_end|>")]
    path = jsonl(tmp_path, [row(1), *bad, row(7)])
    first, *broken, last = read_source(f"mmk12:{path}")
    assert isinstance(first, Example) and isinstance(last, Example)
    assert (first.id, last.id) == ("mmk12/q1", "mmk12/q7")
    assert [each.id for each in broken] == [f"mmk12/bad-{number}" for number in range(1, 6)]
    named = ["row 2, 'answer': needs text, got ''", "line 3, column 2", "row 4, 'image'", "row 5: needs an object"]
    for each, name in zip(broken, [*named, "row 6, turn 1"], strict=True):
        assert isinstance(each, BadRow) and each.source == "mmk12"
        assert str(path) in str(each.error) and name in str(each.error)


def test_a_broken_row_is_met_only_after_the_rows_before_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [row(1), row(2, answer=""), row(3)])
    examples = examples_of(f"mmk12:{path}")
    assert next(examples).answer == "1"
    with pytest.raises(UserError, match=rf"^mmk12:{path} row 2, 'answer': needs text, got ''"):
        next(examples)


def test_each_of_many_broken_rows_says_what_is_wrong(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [row(number, answer="") for number in range(300)])
    errors = [str(each.error) for each in read_source(f"mmk12:{path}") if isinstance(each, BadRow)]
    assert len(errors) == 300 and all(f"row {number}, 'answer'" in error for number, error in enumerate(errors, 1))


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(RED)
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"images": ["1.png"], "problem": "<image>Find x.", "answer": "1"}] * 2))
    assert [example.id for example in examples_of(f"geometry3k:{path}")] == [
        "geometry3k/1",
        "geometry3k/2",
    ]


def test_ids_are_unique_and_stable(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [row(1), row(1), row(2), row(1)])
    found = list(examples_of(f"mmk12:{path}"))
    assert [example.id for example in found] == ["mmk12/q1", "mmk12/q1#2", "mmk12/q2", "mmk12/q1#4"]
    assert found == list(examples_of(f"mmk12:{path}"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "the dataset is empty"),
        (b"file_name,question_text\n", "the dataset is empty"),
        (b"file_name\n\xff\n", "cannot be read as CSV in UTF-8"),
        (b"file_name,question_text\n1.png,Which?\n", "row 1: no column 'answer_option'"),
        (b"answer_option,final_answer\n(a) 1 (b) 2\n", "line 2: a row of 1 values under a header of 2"),
    ],
)
def test_csv_files_in_another_layout(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(content)
    message = refusal(f"polymath:{path}")
    assert named in message
    assert str(path) in message


def test_images_that_the_hub_does_not_send_along(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_list([row(1)])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    assert "'image': '1.png' is a separate file" in refusal("mmk12:FanqingM/MMK12")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mmk12", "needs NAME:PATH_OR_HUB_NAME"),
        ("mmk12: ", "needs NAME:PATH_OR_HUB_NAME"),
        ("mathvison:x.json", "unknown source 'mathvison': known: chartqa, "),
        ("mathvison:x.json", "did you mean 'mathvision'?"),
        ("mmk12:none.jsonl", "none.jsonl: no such file"),
    ],
)
def test_what_names_no_source(text: str, named: str) -> None:
    assert named in refusal(text)


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    assert "no file of rows in this folder" in refusal(f"mmk12:{tmp_path}")
    path = tmp_path / "multiple_choice.json"
    for content, named in [
        ("{}", "no list of rows"),
        ('{"Math": [1,}', "broken JSON"),
        ("[]", "empty"),
        ("3", "row 1"),
    ]:
        path.write_text(content)
        assert named in refusal(f"scemqa:{path}")


def test_images_in_every_form(tmp_path: Path) -> None:
    data = RED
    (tmp_path / "1.png").write_bytes(data)
    given = [
        data,
        {"bytes": data, "path": "x.png"},
        {"bytes": None, "path": "1.png"},
        "1.png",
        str(tmp_path / "1.png"),
        "https://example.org/1.png",
        "data:image/png;base64,AAAA",
    ]
    here = str(tmp_path / "1.png")
    assert images(given, "image", "here", tmp_path) == [data, data, here, here, here, *given[-2:]]
    (decoded,) = images([Image.open(BytesIO(data))], "image", "here", None)
    assert open_image(decoded, "").getpixel((0, 0)) == (255, 0, 0)


def test_the_nearer_of_two_images_of_one_name(tmp_path: Path) -> None:
    rows = tmp_path / "data"
    rows.mkdir()
    (tmp_path / "1.png").write_bytes(RED)
    assert images(["1.png"], "image", "here", rows) == [str(tmp_path / "1.png")]
    (rows / "1.png").write_bytes(RED)
    assert images(["1.png"], "image", "here", rows) == [str(rows / "1.png")]


@pytest.mark.parametrize("value", [7, {"bytes": b""}, {"path": 7}, ["1.png"]])
def test_what_is_no_image(value: Any) -> None:
    with pytest.raises(UserError, match=r"^here, 'image': needs an image, got "):
        images([value], "image", "here", None)


@pytest.mark.parametrize("value", [None, "", b"", {"bytes": None, "path": None}])
def test_an_empty_image_is_none_unless_there_are_others(value: Any) -> None:
    assert images([value, value], "image", "here", None) == []
    with pytest.raises(UserError, match=r"^here, 'image': needs an image, got "):
        images([value, RED], "image", "here", None)


def test_marks_say_where_images_stand() -> None:
    found = make_example("See <image>\nand <image>.", [b"a", b"b"], "1", "here")
    assert [part.get("text", "<image>") for part in found.messages[0]["content"]] == [
        "See ",
        "<image>",
        "and ",
        "<image>",
        ".",
    ]
    assert found.images == (b"a", b"b")


def test_the_listing_names_every_source_and_warns_of_benchmarks() -> None:
    lines = describe_sources().splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == sorted(registry.REGISTRY["source"])
    for name in names:
        source = registry.load("source", name)
        assert source.name == name
        assert any(line.startswith(name) and source.hub in line and source.licence in line for line in lines)
    warned = {name for name in names if registry.load("source", name).benchmark}
    assert warned >= {"mathvision", "we_math", "scemqa", "polymath", "scienceqa", "m3cot", "chartqa", "mmk12"}
    assert warned >= {"mathvista", "mathverse", "mmmu", "olympiadbench", "logicvista"}
    assert sum(line.lstrip().startswith("! ") for line in lines) == len(warned)


def test_sources_import_nothing_heavy() -> None:
    code = "import sys; from observe_r1.ladder.sources import stream; stream.describe_sources(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "datasets", "pandas", "pyarrow"}
