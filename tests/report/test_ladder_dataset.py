"""`observe-r1 ladder push`: the dataset is the ladder, to `datasets` and to training, wherever its images were."""

import base64
import json
from pathlib import Path

import datasets
import pytest
from built_ladder import build, image_bytes, message, row
from huggingface_hub import DatasetCard

from observe_r1.cli.main import main
from observe_r1.data import load_examples, open_image
from observe_r1.report import ladder_dataset


@pytest.fixture
def ladder(tmp_path):
    """Rows with an image in the folder, one elsewhere, one inside, two, and none; limits of their own; hostile text."""
    folder = tmp_path / "ladder"
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(image_bytes("blue"))
    inside = "data:image/png;base64," + base64.b64encode(image_bytes("green")).decode()
    limited = json.loads(message("Limits?", "images/a.png"))
    limited[0]["content"][0]["max_pixels"] = 4000
    rows = [
        row(0, correct=8),
        row(1, images=[str(outside)], slot=1),
        row(2, images=[inside], slot=1, source="mathvision"),
        row(3, images=["images/a.png", str(outside)], slot=1),
        row(4, images=[], slot=2),
        row(5, slot=2, message=json.dumps(limited)),
        row(6, correct=0, slot=3, message=message("</script>\ud83d\ude00 <image> \\frac", "images/a.png")),
    ]
    (tmp_path / "settings").mkdir()
    build(folder, ladder=rows)
    (folder / "ladder.yaml").write_text(f"arrange:\n  measured: .\nmodel:\n  path: {tmp_path}/runs/model\n")
    return folder


def pushed(ladder, new, *more):
    assert main(["ladder", "push", str(ladder), "--to", str(new), *more]) == 0
    return new


def test_training_reads_the_same_rows_and_datasets_the_same_images(ladder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ladder_dataset, "_FILE", 1)
    monkeypatch.setattr(ladder_dataset, "_ROWS", 3)
    new = pushed(ladder, tmp_path / "new")
    assert "7 questions; in " in (said := capsys.readouterr().out) and f"--data.path {new}" in said
    assert len(list((new / "data").iterdir())) == 3
    before, after = load_examples(ladder), load_examples(new)
    assert len(before) == len(after) == 7
    for old, read in zip(before, after, strict=True):
        for name in ("id", "messages", "answer", "source", "difficulty", "complexity"):
            assert getattr(read, name) == getattr(old, name)
        assert len(read.images) == len(old.images)
        for ours, theirs in zip(read.images, old.images, strict=True):
            assert open_image(ours, "").tobytes() == open_image(theirs, "").tobytes()
    loaded = datasets.load_dataset(str(new), split="train", cache_dir=str(tmp_path / "cache"))
    rows = [json.loads(line) for line in (ladder / "ladder.jsonl").read_text().splitlines()]
    for column in ("id", "source", "answer", "difficulty", "complexity", "complexity_correct", "well_formed", "slot"):
        assert loaded[column][:] == [each[column] for each in rows]
    assert [len(images) for images in loaded["images"]] == [1, 1, 1, 2, 0, 1, 1]
    assert loaded[3]["images"][1].convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    kept = loaded.cast_column("images", datasets.List(datasets.Image(decode=False)))
    assert kept[1]["images"][0]["bytes"] == (tmp_path / "outside.jpg").read_bytes()


def test_the_card_is_the_hub_s_and_names_no_folder_of_this_machine(ladder, tmp_path):
    new = pushed(ladder, tmp_path / "new")
    card = DatasetCard.load(new / "README.md")
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert card.data.size_categories == ["n<1K"]
    assert f'ladder = load_dataset("{new}", split="train")' in card.text
    assert "| `images` | its images |" in card.text and "absolute paths" not in card.text
    assert "FOLDER" not in card.text and "ladder.jsonl" not in card.text and "ladder.html" not in card.text
    assert "> - `mathvision`: all of it is a benchmark" in card.text
    assert str(tmp_path) not in card.text.replace(str(new), "")
    columns = datasets.load_dataset(str(new), split="train", cache_dir=str(tmp_path / "cache")).column_names
    assert all(f"| `{column}` |" in card.text for column in columns)
    assert {path.stem for path in (new / "figures").iterdir()} == {"share", "complexity", "slots"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "push.repo, a name on the Hub (USER/NAME), or push.to, a folder, is missing"),
        (["not a name"], "push.repo = 'not a name'"),
        (["me/ladder", "more"], "unexpected 'more': observe-r1 ladder push takes a ladder's folder and a name"),
        (["--to", "{here}"], "something is there already: give a new folder"),
        (["--to", "{here}/mine/new"], "/mine' is a file"),
        (["--to", "{here}/new", "--push.ladder", "{here}"], "two values for push.ladder"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_one_line(ladder, tmp_path, capsys, words, line):
    (tmp_path / "mine").write_text("mine")
    assert main(["ladder", "push", str(ladder), *(word.format(here=tmp_path) for word in words)]) == 2
    said = capsys.readouterr().err
    assert line in said and "Traceback" not in said
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_ladder_that_is_none_or_lacks_an_image_leaves_nothing(ladder, tmp_path, capsys):
    new = str(tmp_path / "new")
    assert main(["ladder", "push", str(tmp_path / "settings"), "--to", new]) == 2
    assert "there is no ladder.jsonl in it: name the folder of a ladder" in capsys.readouterr().err
    (tmp_path / "settings" / "ladder.yaml").touch()
    assert main(["ladder", "push", str(tmp_path / "settings"), "--to", new]) == 2
    assert f"`observe-r1 ladder build {tmp_path}/settings` finishes it" in capsys.readouterr().err
    assert main(["ladder", "push", str(tmp_path / "laddr"), "--to", new]) == 2
    assert f"'{tmp_path}/laddr': no such folder (did you mean '{ladder}'?)" in capsys.readouterr().err
    (tmp_path / "outside.jpg").unlink()
    assert main(["ladder", "push", str(ladder), "--to", new]) == 2
    assert "ladder.jsonl row 2: image" in capsys.readouterr().err
    assert not Path(new).exists()


def test_offline_mode_is_named(ladder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    new = tmp_path / "new"
    assert main(["ladder", "push", str(ladder), "me/ladder", "--to", str(new)]) == 2
    said = capsys.readouterr().err
    assert "push.repo = 'me/ladder': the Hugging Face Hub cannot be reached, as HF_HUB_OFFLINE is set; " in said
    assert f"the finished dataset is in {new}: `hf upload me/ladder {new} . --repo-type dataset" in said
    assert 'load_dataset("me/ladder", split="train")' in (new / "README.md").read_text()
