"""What ends a build at once: found before the slow part, and nothing is left behind."""

import base64
import json
import subprocess
import sys

import pytest
from built_ladder import image_bytes, message

from observe_r1.cli.main import main

COMMANDS = """
import json, sys
from observe_r1.cli.main import main
codes = [main(words) for words in json.loads(sys.argv[1])]
print(json.dumps([codes, [name for name in ("torch", "transformers", "datasets") if name in sys.modules]]))
"""
BAD = [
    ([], "setting 'data.sources' is missing"),
    (["questions.jsonl"], "setting 'model.path' is missing"),
    (["geometry3:x", "--model", "m"], "unknown source 'geometry3': known: "),
    (["qestions.jsonl", "--model", "m"], "qestions.jsonl: no such file (did you mean 'questions.jsonl'?)"),
    (["questions.jsonl", "--model", "m", "--screen.benchmarks", "none.jsonl"], "none.jsonl: no such file"),
    (["questions.jsonl", "--model", "m", "--output", "."], "--output '.': neither empty nor a ladder's folder"),
    (
        ["questions.jsonl", "--model", "m", "--output", "questions.jsonl/new"],
        "cannot be a ladder's folder: 'questions.jsonl' is a file",
    ),
    (["questions.jsonl", "--model", "m", "--arrange.shares", "1,2"], "arrange.shares"),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"message": json.dumps([{"role": "user", "content": "2 + 2 = ?"}]), "answer": "4"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_what_needs_no_model_to_be_found_is_found_before_one_is_loaded(here):
    commands = [["ladder", "build", "--output", "runs/new", *words] for words, _ in BAD]
    commands += [["ladder", "screen", "--output", "runs/new"], ["ladder", "push", "ladder", "me/ladder"]]
    started = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    codes, loaded = json.loads(started.stdout)
    assert (set(codes), loaded) == ({2}, [])
    errors = [line for line in started.stderr.splitlines() if "error" in line]
    expected = [line for _, line in BAD] + ["setting 'data.sources' is missing", "'ladder': no such folder"]
    assert len(errors) == len(expected)
    for error, line in zip(errors, expected, strict=True):
        assert line in error
    assert [path.name for path in here.iterdir()] == ["questions.jsonl"]


def test_a_build_that_fails_at_its_first_rows_leaves_nothing(here, capsys):
    image = "data:image/png;base64," + base64.b64encode(image_bytes("green")).decode()  # is written into the folder
    good = {"message": message("Which colour?", image), "answer": "green"}
    (here / "bad.jsonl").write_text(json.dumps(good) + '\n{"message": "[]", "answer": "4"}\n')
    words = ["ladder", "screen", "bad.jsonl", "--output", "runs/new", "--model.device", "cpu"]
    assert main(words) == 2
    assert "bad.jsonl row 2" in capsys.readouterr().err
    assert not (here / "runs").exists()

    (here / "runs" / "new").mkdir(parents=True)  # the user's own folder stays
    assert main(words) == 2
    assert not [*(here / "runs" / "new").iterdir()]
