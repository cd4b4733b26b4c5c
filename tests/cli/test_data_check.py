"""`observe-r1 data check`: all that is wrong with a dataset, many alike in one line, the rest in figures."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from observe_r1.cli.main import main
from observe_r1.config import DataSettings, ModelSettings
from observe_r1.data import load_data
from observe_r1.data.checking import Repeats
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.processor import load_processor

PROSE = "because the angle at the centre is twice the angle at the circumference"


def write(path: Path, *rows: dict | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(number: int, **columns) -> dict:
    return {"problem": f"<image>Question {number}?", "images": ["a.png"], "answer": str(number), **columns}


@pytest.fixture
def folder(tmp_path):
    for name, size in (("a", (40, 30)), ("b", (100, 10)), ("c", (8, 300))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    return tmp_path


def check(capsys, *words) -> tuple[int, list[str]]:
    code = main(["data", "check", *map(str, words)])
    printed = capsys.readouterr()
    assert all(line.startswith("data check: ") for line in printed.err.splitlines())
    return code, printed.out.splitlines()


def test_a_good_dataset_in_figures(folder, capsys):
    rows = [
        row(1),
        row(2, images=["b.png"], answer="B"),
        row(3, images=["c.png"], answer="<think>Half.</think> <answer>\\frac{1}{2}</answer>"),
        {**row(4, answer="red"), "problem": "Longer question 4?", "images": []},
        row(1, id="again"),
    ]
    assert check(capsys, write(folder / "a.jsonl", *rows)) == (
        0,
        [
            "rows       5",
            "answers    2 number, 1 choice, 1 formula, 1 phrase",
            "questions  11 to 18 (median 11) characters",
            "images     4: smallest 100 × 10, median 40 × 30, largest 8 × 300 pixels",
            "repeated   1 (rows with the question and images of an earlier row)",
            "good: all 5 rows",
        ],
    )


def test_rows_that_training_takes_and_a_ladder_drops_are_counted(folder, capsys):
    several, proof = row(1, answer="5 and 6"), {**row(2, answer="red"), "problem": "<image>Prove that it is red."}
    path = write(folder / "a.jsonl", several, proof, row(3, answer="x = 1, y = 2"), row(4))
    code, lines = check(capsys, path)
    why = "2 multiple answers, 1 asks for a proof"
    expected = f"ladder     drops 3 rows by their gold answers or questions (training does not): {why}"
    assert code == 0 and expected in lines and lines[-1] == "good: all 4 rows"
    assert main(["ladder", "screen", str(path), "--output", str(folder / "ladder"), "--model.device", "cpu"]) == 0
    dropped = [json.loads(line)["reason"] for line in (folder / "ladder" / "dropped.jsonl").read_text().splitlines()]
    assert sorted(dropped) == ["asks for a proof", "multiple answers", "multiple answers"]
    capsys.readouterr()
    assert main(["data", "judge", "--gold", "5 and 6", "--answer", "6 and 5"]) == 0
    assert "training verifies them, a ladder drops such questions" in capsys.readouterr().out


def test_what_is_no_file_is_said(folder, capsys):
    os.mkfifo(folder / "pipe.jsonl")
    for name, what in ((str(folder / "pipe.jsonl"), "a pipe"), ("/dev/null", "a device")):
        assert main(["data", "check", name]) == 2
        assert f"{name}: is neither a file nor a folder but {what}: give a file" in capsys.readouterr().err


def test_every_problem_of_few_rows_is_a_line_of_its_own(folder, capsys):
    (folder / "empty.png").touch()
    (folder / "page.png").write_text("<!DOCTYPE html><html></html>")
    path = write(
        folder / "a.jsonl",
        {"task": "What?", "answer": "1"},
        row(2, id=7),
        row(3, images=["empty.png", "page.png"], problem="<image><image>", answer=PROSE),
        row(4, answer="\\frac{1}{"),
        row(5, images=[]),
        "{,}",
        row(7, id="7"),
        row(8, answer=None),
        row(9),
        {"problem": "What?", "solution": "1"},
    )
    code, lines = check(capsys, path)
    rest = "remove it (each line is a row, unless the file is one list)"
    cannot = "cannot be verified: correct it to a letter, number, formula or short phrase, or drop the row"
    rule = "every <image> mark needs an image, and every image a mark"
    image = f"{path} row 3: image '{folder}"
    assert code == 2 and lines[:10] == [
        f"{path} row 1: no column 'message': the row has task, answer; set data.input_key",
        f"{image}/empty.png' is empty (0 bytes)",
        f"{image}/page.png' is an HTML page (a download that failed?)",
        f"{path} row 3: the gold answer '{PROSE}' {cannot}",
        f"{path} row 4: the gold answer '\\\\frac{{1}}{{' {cannot}",
        f"{path} row 5, 'problem': {rule}: 1 marked and 0 given in this row",
        f"{path}: line 6, column 3: broken JSON: trailing comma before '}}': {rest}",
        f"{path} row 8, 'answer': the gold answer needs text or a finite number, got null",
        f"{path} row 10: no column 'answer': the row has problem, solution; set data.label_key",
        f"{path} row 7, 'id': '7' is already the id of {path} row 2: give every row its own",
    ]
    assert lines[10:12] == ["rows       10", "answers    3 number, 2 unverifiable, 2 absent"]
    assert lines[-1] == "bad: 8 of 10 rows, see above"


def test_many_rows_with_the_same_problems_are_one_line_a_problem(folder, capsys):
    rows = [row(number, answer=None, images=[f"{number}.png"]) for number in range(1, 1001)]
    path = write(folder / "a.jsonl", *rows, row(1001, id="x"), *(row(number, id="x") for number in range(5)))
    code, lines = check(capsys, path)
    first = f"(first: {path} row 1, 2, 3)"
    assert code == 2 and lines[:3] == [
        f"1,000 rows: image '…': no such file {first[:-1]}; the first has '{folder}/1.png')",
        f"1,000 rows: 'answer': the gold answer needs text or a finite number, got null {first}",
        f"5 rows: 'id': 'x' is already the id of {path} row 1001: give every row its own "
        f"(first: {path} row 1002, 1003, 1004)",
    ]
    assert lines[3] == "rows       1,006" and lines[-1] == "bad: 1,005 of 1,006 rows, see above"


def test_rows_of_any_characters_are_one_line_each(folder, capsys):
    path = write(
        folder / "a.jsonl",
        {"two\nlines\x1b[31m\ud800": 1},
        row(2, problem="<image>Half of \ud83d?"),
        row(3, images=["https://example.org/\udcff.png"]),
        row(4, images=["data:image/png;base64,\udcff"]),
        row(5, images=[{"uri": "a.png"}]),
    )
    code, lines = check(capsys, path)
    half = "is half a character (a lone surrogate): remove or replace it"
    assert code == 2 and lines[:5] == [
        f"{path} row 1: no column 'message': the row has 'two\\nlines\\x1b[31m\\ud800'; set data.input_key",
        f"{path} row 2, 'problem', turn 1: '\\ud83d' {half}",
        f"{path} row 3, 'problem', image 1: '\\udcff' {half}",
        f"{path} row 4, 'problem', image 1: '\\udcff' {half}",
        f"{path} row 5, 'problem', image 1, 'uri': this key of an image is not read: remove it; known are "
        "bytes, path, image, image_url, url, min_pixels, max_pixels",
    ]


def test_demonstrations_need_no_gold_answer(folder, capsys):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    code, lines = check(capsys, write(folder / "a.jsonl", {"message": turns}, {"message": turns[:1]}))
    assert code == 2 and lines[0].startswith(f"{folder / 'a.jsonl'} row 2: no column 'answer'")
    assert lines[-1] == "bad: 1 of 2 rows, see above"


def test_demonstrations_are_said_to_be_for_sft(folder, capsys):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    code, lines = check(capsys, write(folder / "a.jsonl", *[{"conversations": turns}] * 7))
    use = "for sft; train and ladder need a gold answer in 'answer'"
    assert code == 0 and lines[1] == f"answers    7 demonstrations: {use}" and lines[-1] == "good: all 7 rows"
    lines = check(capsys, write(folder / "a.jsonl", {"conversations": turns}, row(1), row(2)))[1]
    assert lines[1] == f"answers    2 number, 1 demonstration: {use}"


def test_several_files_and_the_first_rows_only(folder, capsys):
    (folder / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "sub" / "a.png")
    first, second = write(folder / "a.jsonl", row(1), row(2)), write(folder / "sub" / "a.jsonl", row(3), row(4), "{")
    code, lines = check(capsys, f"{first},{second}")
    assert (code, lines[-1]) == (2, "bad: 1 of 5 rows, see above")
    code, lines = check(capsys, f"{first},{second}", "--data.max_samples", 4)
    assert (code, lines[-1]) == (0, "good: all 4 rows")


def test_lengths_in_tokens_are_those_of_the_prompts(folder, capsys):
    model = make_tiny_model(folder / "tiny")
    path = write(folder / "a.jsonl", row(1), row(2, images=["b.png"]), {"problem": "How many?", "answer": "1"})
    settings = DataSettings(path=str(path))
    processor = load_processor(ModelSettings(path=str(model)))
    counts = sorted(len(encode_prompt(example, processor, settings).ids) for example in load_data(settings, seed=0))
    code, lines = check(capsys, path, "--model.path", model, "--data.max_prompt_tokens", counts[1])
    expected = f"{counts[0]} to {counts[2]} (median {counts[1]}) tokens, image tokens included; "
    dropped = f"1 over data.max_prompt_tokens ({counts[1]}), which training drops"
    assert code == 0 and f"prompts    {expected}{dropped}" in lines


def test_an_image_that_the_processor_refuses_makes_a_row_bad(folder, capsys):
    Image.new("RGB", (3000, 10)).save(folder / "long.png")
    path = write(folder / "a.jsonl", row(1, images=["long.png"]))
    assert check(capsys, path)[0] == 0
    code, lines = check(capsys, path, "--model.path", make_tiny_model(folder / "tiny"))
    assert code == 2 and lines[0].startswith(f"{path} row 1: the processor refuses its images: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "setting 'data.path' is missing"),
        (["check", "no.jsonl"], "no.jsonl: no such file"),
        (["check", "questoins.jsonl"], "questoins.jsonl: no such file (did you mean 'questions.jsonl'?)"),
        (["check", "./questions.json"], "./questions.json: no such file (did you mean 'questions.jsonl'?)"),
        (["check", "a.jsonl", "b.jsonl"], "b.jsonl: no such file"),
        (
            ["check", "a.jsonl", "--data.path", "b.jsonl"],
            "a.jsonl and --data.path b.jsonl are two values for data.path",
        ),
        (["check", "a.jsonl", "--prompt_data", "b.jsonl"], "unknown option '--prompt_data'; --help lists them all"),
        *(
            (["check", "a.jsonl", option, value], f"unknown option '{option}'; --help lists them all")
            for option, value in [
                ("--data.probs", "0.5,0.5"),
                ("--data.order", "random"),
            ]  # rows are checked as they are
        ),
        (
            ["check", "a.jsonl", "--data.lable_key", "a"],
            "unknown option '--data.lable_key' (did you mean '--data.label_key'?)",
        ),
        (["chek", "a.jsonl"], "unknown command 'data chek' (did you mean 'check'?); `observe-r1 data` lists them"),
    ],
)
def test_a_command_that_cannot_be_followed(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(write(folder / "a.jsonl", row(1)).parent)
    write(folder / "questions.jsonl", row(1))
    assert main(["data", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"observe-r1: error: {message}")


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_commands_are_listed(words, capsys):
    assert main(["data", *words]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: observe-r1 data COMMAND") and "  check  " in text and "  judge  " in text


def test_help_teaches(capsys):
    assert main(["data", "check", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--prompt_data" not in text and text.startswith("Usage: observe-r1 data check FILE... ")
    assert "RECIPE" not in text and "--model.path" in text and "--data.image_cache" in text


@given(st.lists(st.sampled_from("abc") | st.text(max_size=3), max_size=30))
def test_repeats_are_those_of_a_dictionary(values):
    repeats, firsts, expected = Repeats(), {}, []
    for number, value in enumerate(values):
        repeats.add(10 * number, value, b"x")
        if firsts.setdefault(value, 10 * number) != 10 * number:
            expected.append((10 * number, firsts[value]))
    assert list(repeats.pairs()) == expected


def test_ctrl_c_does_not_wait_for_a_server_that_never_answers(folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
        path = write(folder / "a.jsonl", *(row(number, images=[url]) for number in range(3)))
        silent.settimeout(120)
        words = ["data", "check", str(path), "--data.image_cache", str(folder / "cache")]
        words += ["--data.allow_private_addresses", "true"]
        command = subprocess.Popen([sys.executable, "-m", "observe_r1.cli.main", *words], stderr=subprocess.PIPE)
        try:
            silent.accept()
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=60)  # its own patience is 20 s for each of five tries
        finally:
            command.kill()
    assert (command.returncode, said.splitlines()[-1]) == (130, b"observe-r1: interrupted")
