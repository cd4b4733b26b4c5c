"""The screen without models: what passes, what is dropped for which reason, and what ends the build."""

import base64
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from observe_r1.cli.main import main
from observe_r1.cli.options import parse_settings
from observe_r1.config import LadderSettings
from observe_r1.data import load_examples, open_image
from observe_r1.errors import UserError
from observe_r1.ladder.filtering import filter_questions
from observe_r1.ladder.questions import read_questions
from observe_r1.ladder.sources.stream import BadRow, read_sources
from observe_r1.ladder.stage import Watch

LONG = "How many of the small blue circles touch the longest red line?"


def image_bytes(shade, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), (shade, 0, 0)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def row(question, answer, image=None, **columns):
    content = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    return {"message": json.dumps([{"role": "user", "content": content}]), "answer": answer, **columns}


def write(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def screen(folder, *sources, options=()):
    return main(["ladder", "screen", *map(str, sources), "--output", str(folder), *options])


def reasons(folder):
    return {row["id"]: (row["stage"], row["reason"]) for row in read(folder / "dropped.jsonl")}


@pytest.fixture
def shades(tmp_path):
    for shade in range(4):
        (tmp_path / f"{shade}.png").write_bytes(image_bytes(shade))
    return tmp_path


def test_every_row_passes_or_says_why_not(shades, tmp_path):
    rows = [
        row("How many?", "3", "0.png", id="good"),
        row("How  MANY", "4", "0.png", id="again"),
        row("How many?", "3", "1.png", id="other image"),
        row("Why?", "because each and every one of them is moving towards the left side", "0.png", id="prose"),
        row("Which?\nA. red\nB. blue", "blue", "2.png", id="choice"),
        row("Is x+1 right?", "yes", id="plus"),
        row("Is x-1 right?", "yes", id="minus"),
        row("Is x+1 right?", "no", id="text again"),
        row("How many?", "3", "3.png", id="good"),
    ]
    assert screen(tmp_path / "out", write(tmp_path / "q.jsonl", rows)) == 0
    passed = read(tmp_path / "out" / "screened.jsonl")
    assert [r["id"] for r in passed] == ["good", "other image", "choice", "plus", "minus", "good#2"]
    assert {r["id"]: r["answer"] for r in passed}["choice"] == "B"
    assert all(r["source"] == "q" for r in passed)
    assert reasons(tmp_path / "out") == {
        "again": ("duplicate", "repeats an earlier question"),
        "prose": ("answer", "free text"),
        "text again": ("duplicate", "repeats an earlier question"),
    }
    details = {r["id"]: r["detail"] for r in read(tmp_path / "out" / "dropped.jsonl")}
    assert details["again"] == "same images and question as good"
    examples = read_questions(tmp_path / "out" / "screened.jsonl")
    assert [open_image(e.images[0], "").getpixel((0, 0))[0] for e in examples if e.images] == [0, 1, 2, 3]


def test_options_by_numbers_are_written_as_capitals(shades, tmp_path):
    source = write(tmp_path / "q.jsonl", [row("Which colour? (1) red (2) blue", "2", "0.png")])
    assert screen(tmp_path / "out", source) == 0
    (found,) = read_questions(tmp_path / "out" / "screened.jsonl")
    assert (found.messages[0]["content"][1]["text"], found.answer) == ("Which colour? (A) red (B) blue", "B")


def test_the_same_image_in_another_file_format_is_the_same(shades, tmp_path):
    (tmp_path / "0.bmp").write_bytes(image_bytes(0, "BMP"))
    rows = [row("How many?", "3", "0.png", id="a"), row("How many?", "3", "0.bmp", id="b")]
    assert screen(tmp_path / "out", write(tmp_path / "q.jsonl", rows)) == 0
    assert reasons(tmp_path / "out") == {"b": ("duplicate", "repeats an earlier question")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is AB ∥ CD?", "Is AB ⊥ CD?"),
        ("Which area is A ∪ B?", "Which area is A ∩ B?"),
        ("Find the size of A.", "Find the size of a."),
        ("What is f(2)?", "What is f'(2)?"),
        ("Find √2.", "Find 2."),
    ],
)
def test_questions_that_differ_in_a_sign_or_a_name_are_two(shades, tmp_path, one, other):
    assert (
        screen(tmp_path / "out", write(tmp_path / "q.jsonl", [row(one, "3", "0.png"), row(other, "4", "0.png")])) == 0
    )
    assert reasons(tmp_path / "out") == {}


def test_what_was_said_before_belongs_to_the_question(tmp_path):
    def talk(first):
        turns = [("user", first), ("assistant", "Yes."), ("user", "How many?")]
        return {"message": json.dumps([{"role": role, "content": text} for role, text in turns]), "answer": "3"}

    rows = [talk("Do you see cats?"), talk("Do you see dogs?"), talk("do you see dogs?")]
    assert screen(tmp_path / "out", write(tmp_path / "q.jsonl", rows)) == 0
    assert list(reasons(tmp_path / "out")) == ["q#3"]


def test_questions_without_spaces_are_found_in_a_benchmark_too(shades, tmp_path):
    long, short = "如图,在三角形中,角一等于三十度,求角二的度数是多少", "求角二的度数"
    bench = write(tmp_path / "bench.jsonl", [row(long, "3", "0.png"), row(short, "3", "0.png")])
    rows = [row(long, "3", "1.png", id="long"), row(short, "3", "1.png", id="short")]
    source = write(tmp_path / "q.jsonl", rows)
    assert screen(tmp_path / "out", source, options=["--screen.benchmarks", str(bench)]) == 0
    assert list(reasons(tmp_path / "out")) == ["long"]


def test_images_inside_rows_are_kept_byte_by_byte_and_named_relative_to_the_folder(tmp_path):
    jpeg, png = image_bytes(80, "JPEG"), image_bytes(1)
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    write(tmp_path / "q.jsonl", [row("How many?", "3", uri, id="uri")])
    message = json.dumps([{"role": "user", "content": "<image>How many?"}])
    table = pyarrow.table({"message": [message], "images": [[jpeg]], "answer": ["4"], "id": ["bytes"]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert screen(tmp_path / "out", tmp_path / "q.jsonl", tmp_path / "p.parquet") == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    first, second = load_examples(tmp_path / "moved" / "screened.jsonl")
    assert open_image(first.images[0], "").getpixel((0, 0)) == (1, 0, 0)
    assert second.images[0].endswith(".jpg") and Path(second.images[0]).read_bytes() == jpeg
    assert len(list((tmp_path / "moved" / "images").iterdir())) == 2


def test_what_stands_in_a_benchmark_goes(shades, tmp_path):
    (tmp_path / "0.bmp").write_bytes(image_bytes(0, "BMP"))
    bench = write(tmp_path / "bench.jsonl", [row(LONG, "3", "0.bmp"), row("Find x.", "3", "1.png"), row("1 + 1?", "2")])
    rows = [
        row("Another question", "3", "0.png", id="image"),
        row(f"  {LONG.upper()}", "3", "2.png", id="question"),
        row("Find x.", "3", "3.png", id="words that say nothing"),
        row("1+1?", "2", id="text"),
        row("1-1?", "0", id="other text"),
    ]
    source = write(tmp_path / "q.jsonl", rows)
    assert screen(tmp_path / "out", source, options=["--screen.benchmarks", str(bench)]) == 0
    found = {r["id"]: r["detail"] for r in read(tmp_path / "out" / "dropped.jsonl")}
    assert found == {
        "image": f"same image as {bench} row 1",
        "question": f"same question as {bench} row 1",
        "text": f"same question as {bench} row 3",
    }


BROKEN = {
    "JSON": '{"message": ',
    "chat": row("x", "1") | {"message": "hello"},
    "no answer": {"message": row("x", "1")["message"]},
    "missing image": row("How many?", "1", "none.png"),
    "page for a image": row("How many?", "1", "page.png"),
    "cut image": row("How many?", "1", "cut.png"),
    "special token": row("How many <|image_pad|>?", "1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_ends_the_build_or_is_named_and_counted(shades, tmp_path, capsys, kind):
    (tmp_path / "page.png").write_text("<html>not found</html>")
    (tmp_path / "cut.png").write_bytes(image_bytes(9)[:60])
    source = write(tmp_path / "q.jsonl", [row("How many?", "3", "0.png"), BROKEN[kind], row("What?", "5", "1.png")])
    assert screen(tmp_path / "out", source) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "q.jsonl" in error and ("row 2" in error or "line 2" in error) and "--skip-bad" in error
    assert screen(tmp_path / "out", source, options=["--skip-bad"]) == 0
    (bad,) = read(tmp_path / "out" / "dropped.jsonl")
    assert (bad["stage"], bad["reason"]) == ("read", "broken row") and bad["detail"] in error
    assert [r["answer"] for r in read(tmp_path / "out" / "screened.jsonl")] == ["3", "5"]


def test_broken_rows_of_a_public_layout_too(shades, tmp_path, capsys):
    good = {"id": "1", "question": "How many?", "options": [], "image": "0.png", "answer": "3"}
    rows = [
        good,
        {"id": "2", "question": "x"},
        good | {"id": "3", "image": "none.png"},
        good | {"id": "4", "answer": "5"},
    ]
    source = f"mathvision:{write(tmp_path / 'test.jsonl', rows)}"
    assert screen(tmp_path / "out", source) == 2
    assert "row 2: no column" in capsys.readouterr().err
    assert screen(tmp_path / "out", source, options=["--skip-bad"]) == 0
    assert [r["id"] for r in read(tmp_path / "out" / "screened.jsonl")] == ["mathvision/1"]
    dropped = read(tmp_path / "out" / "dropped.jsonl")
    assert [r["reason"] for r in dropped] == ["broken row", "broken row", "repeats an earlier question"]


def test_many_broken_rows_of_a_public_layout_are_all_named(shades, tmp_path):
    good = {"question": "How many?", "options": [], "answer": "3", "image": "0.png"}
    rows = [good | {"id": str(i), "question": f"{i}?"} if i % 2 else {"id": str(i)} for i in range(250)]
    source = f"mathvision:{write(tmp_path / 'test.jsonl', rows)}"
    data = LadderSettings().data
    bad = [str(row.error) for row in read_sources([source], data) if isinstance(row, BadRow)]
    assert len(bad) == 125 and all(f"row {2 * i + 1}: " in error for i, error in enumerate(bad))


def test_ids_are_unique_over_all_sources_and_sources_may_be_limited(tmp_path):
    a = write(tmp_path / "a.jsonl", [row(f"{i}?", "1", id=name) for i, name in enumerate(["7#2", "7", "7"])])
    b = write(tmp_path / "b.jsonl", [row(f"b{i}?", "1", id="7") for i in range(3)])
    data = LadderSettings().data
    ids = [example.id for example in read_sources([str(a), str(b)], data)]
    assert len(set(ids)) == 6 and ids[:2] == ["7#2", "7"]
    assert len(list(read_sources([str(a), str(b)], data.model_copy(update={"max_samples": 2})))) == 4


def test_sources_as_options_join_the_bare_ones_in_order(capsys):
    argv = ["a.jsonl", "--source", "mmk12:b", "c.jsonl", "--source=d e.jsonl", "--output", "out"]
    for verb in ("build", "screen"):
        settings = parse_settings(LadderSettings, argv, verb=f"ladder {verb}")
        assert settings.data.sources == ("a.jsonl", "mmk12:b", "c.jsonl", "d e.jsonl")
    assert main(["ladder", "screen", "--source", "--output", "out"]) == 2
    assert "option '--source' needs a value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "data.sources"),
        (["none.jsonl"], "none.jsonl: no such file"),
        (["nowhere:x.jsonl"], "unknown source 'nowhere'"),
        (["mathvision:"], "needs NAME:PATH_OR_HUB_NAME"),
    ],
)
def test_sources_that_cannot_be_opened(tmp_path, capsys, sources, message):
    assert screen(tmp_path / "out", *sources) == 2
    assert message in capsys.readouterr().err


def test_a_benchmark_that_cannot_be_read_ends_the_build(tmp_path):
    bad = write(tmp_path / "bench.jsonl", [row("x", "1", "none.png"), row("What?", "1")])
    source = write(tmp_path / "q.jsonl", [row("What?", "1", id="known"), row("Where?", "1")])
    values = {"data": {"sources": [str(source)]}, "screen": {"benchmarks": [str(bad)]}}
    with pytest.raises(UserError, match=r"screen\.benchmarks: .*bench\.jsonl row 1.*--skip-bad"):
        filter_questions(tmp_path, LadderSettings.model_validate(values), Watch())
    values["data"]["skip_bad"] = True
    notes = []
    assert filter_questions(tmp_path, LadderSettings.model_validate(values), Watch(note=notes.append))
    assert len(notes) == 1 and notes[0].startswith("skipped: screen.benchmarks: ") and "bench.jsonl row 1" in notes[0]
    assert reasons(tmp_path) == {"known": ("benchmark", "is in a benchmark")}


def test_a_public_benchmark_is_read_at_its_test_split_and_without_images_too(shades, tmp_path):
    bench = tmp_path / "bench"
    bench.mkdir()
    for split, question, image in [
        ("train", "Is one more than none?", image_bytes(0)),
        ("test", "Is red a colour?", None),
    ]:
        item = {"question": question, "image": image, "choices": ["yes", "no"], "answer": 0, "hint": ""}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([item]), bench / f"{split}-0.parquet")
    rows = [row("Is red a colour?\nA. yes\nB. no", "A", id="words"), row("How many?", "3", "0.png", id="image")]
    source = write(tmp_path / "q.jsonl", [*rows, row("Is blue one?", "yes", id="other")])
    for split, dropped in [("", "words"), ("@test", "words"), ("@train", "image")]:
        assert (
            screen(tmp_path / f"out{split}", source, options=["--screen.benchmarks", f"scienceqa:{bench}{split}"]) == 0
        )
        assert list(reasons(tmp_path / f"out{split}")) == [dropped]


def test_ctrl_c_ends_a_reading_of_broken_rows_too(tmp_path):
    source = write(tmp_path / "q.jsonl", ["{}"] * 200)
    values = {"data": {"sources": [str(source)], "skip_bad": True}}
    seen = []
    watch = Watch(note=seen.append, stopped=lambda: True)
    assert not filter_questions(tmp_path, LadderSettings.model_validate(values), watch)
    assert (
        len(seen) == 5
        and seen[4].startswith("skipped: 64 rows: no column 'message'")
        and not (tmp_path / "progress.json").exists()
    )
