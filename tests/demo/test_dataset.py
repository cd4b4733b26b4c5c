"""Rows and images on disk, read back by the data room; whole folders or nothing."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from observe_r1.data.examples import load_examples
from observe_r1.data.images import open_image
from observe_r1.demo.dataset import make_items, write_demonstrations, write_questions
from observe_r1.demo.scene import render
from observe_r1.files import replacing


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_questions_climb_from_easy_to_hard(tmp_path):
    rows = rows_of(write_questions(tmp_path / "train", "train", seed=5, count=40))
    assert [row["level"] for row in rows] == sorted(item.level for item in make_items("train", 5, 40))
    assert {row["id"] for row in rows} == {item.id for item in make_items("train", 5, 40)}
    assert set(rows[0]) == {"message", "answer", "id", "source", "level", "kind"}
    assert {row["source"] for row in rows} == {"world"}


def test_a_question_row_is_a_chat_in_the_message_format(tmp_path):
    path = write_questions(tmp_path / "held_out", "held_out", seed=0, count=5)
    assert path == tmp_path / "held_out" / "held_out.jsonl"
    items = {item.id: item for item in make_items("held_out", 0, 5)}
    for row in rows_of(path):
        item = items[row["id"]]
        image_name = f"images/{item.id}.png"
        assert json.loads(row["message"]) == [
            {
                "role": "user",
                "content": [{"type": "image", "image": image_name}, {"type": "text", "text": item.question.text}],
            }
        ]
        assert (row["answer"], row["level"], row["kind"]) == (item.answer, item.level, item.question.kind)
        with Image.open(path.parent / image_name) as image:
            assert ImageChops.difference(image, render(item.scene)).getbbox() is None


def test_a_demonstration_row_ends_with_the_teachers_turn_but_keeps_the_true_answer(tmp_path):
    rows = rows_of(write_demonstrations(tmp_path / "sft", seed=0, count=60))
    items = make_items("sft", 0, 60)
    assert [row["id"] for row in rows] == [item.id for item in items]
    for row, item in zip(rows, items, strict=True):
        turn = json.loads(row["message"])[-1]
        assert turn == {"role": "assistant", "content": [{"type": "text", "text": item.demonstration}]}
        assert row["answer"] == item.answer
    assert any(re.search(r"<answer> (\d+)", i.demonstration)[1] != i.answer for i in items)


@pytest.mark.parametrize("write", [write_questions, write_demonstrations])
def test_the_data_room_reads_what_was_written(tmp_path, write):
    if write is write_questions:
        path, items = write(tmp_path / "x", "train", seed=1, count=12), make_items("train", 1, 12)
    else:
        path, items = write(tmp_path / "x", seed=1, count=12), make_items("sft", 1, 12)
    by_id = {item.id: item for item in items}
    examples = load_examples(str(path))
    assert len(examples) == 12
    for example in examples:
        item = by_id[example.id]
        (turn,) = example.messages
        assert turn == {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item.question.text}]}
        assert (example.answer, example.source) == (item.answer, "world")
        assert example.response == (None if write is write_questions else item.demonstration)
        (image,) = (open_image(source, example.origin) for source in example.images)
        assert ImageChops.difference(image, render(item.scene)).getbbox() is None


def test_writing_again_replaces_the_folder(tmp_path):
    write_questions(tmp_path / "x", "train", seed=0, count=9)
    path = write_questions(tmp_path / "x", "train", seed=1, count=4)
    assert len(rows_of(path)) == len(list((tmp_path / "x" / "images").iterdir())) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    old = tmp_path / "x"
    old.mkdir()
    (old / "kept").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(old) as new:
        (new / "half").write_text("new")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert [entry.name for entry in old.iterdir()] == ["kept"]


@pytest.mark.parametrize(("renames", "kept"), [(1, "old"), (2, "new")])
def test_ctrl_c_between_renames_leaves_one_of_the_two_folders(tmp_path, monkeypatch, renames, kept):
    rename, done = Path.rename, []

    def rename_then_stop(path, target):
        rename(path, target)
        done.append(target)
        if len(done) == renames:
            raise KeyboardInterrupt

    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "old").touch()
    monkeypatch.setattr(Path, "rename", rename_then_stop)
    with pytest.raises(KeyboardInterrupt), replacing(folder) as new:
        (new / "new").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert [entry.name for entry in folder.iterdir()] == [kept]
