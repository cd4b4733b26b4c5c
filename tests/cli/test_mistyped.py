"""A mistyped folder or file: whatever command is given it names the one beside it that is meant."""

import json
from pathlib import Path

import pytest
from PIL import Image

from observe_r1.cli.main import main
from observe_r1.registry import beside

RECIPE = "model: {path: model}\ndata: {path: questions.jsonl}\n"
TRAIN = ("train", "grpo", "--model.path", "my-model")
QUESTION = {"message": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}


@pytest.fixture
def here(tmp_path, sound_model, monkeypatch):
    """A working directory with one of each kind of thing, and what no command takes beside it."""
    files = {
        "my-ladder/ladder.yaml": "",
        "my-ladder/ladder.jsonl": "",
        "runs/my-run/config.yaml": "",
        "runs/my-run/metrics.jsonl": "",
        "evaluation/config.yaml": "",
        "evaluation/begun.json": "{}",
        "recipe.yaml": RECIPE,
        "my_reward.py": "",
        "questions.jsonl": json.dumps(QUESTION) + "\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("my-model", "runs/my-run/model"):
        (tmp_path / name).symlink_to(sound_model)
    for name in ("my-modle", "my-laddr.txt", "evaluatio.txt", "recip.txt", "my_rewar.txt"):
        (tmp_path / name).write_text("no folder, and of no fitting kind")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        *((["ladder", verb, "my-lader"], "my-ladder") for verb in ("measure", "arrange", "review", "refresh")),
        (["ladder", "push", "my-lader", "me/mine"], "my-ladder"),
        (["ladder", "build", "qestions.jsonl", "--model", "my-model", "--output", "new"], "questions.jsonl"),
        (["ladder", "build", "questions.jsonl", "--model", "my-mode", "--output", "new"], "my-model"),
        (["ladder", "screen", "qestions.jsonl", "--output", "new"], "questions.jsonl"),
        (["export", "runs/my-rnu", "--to", "new"], "runs/my-run"),
        (["export", "rusn/my-run", "--to", "new"], None),  # a name of four characters is too short to guess
        (["export", "runs/my-run", "--to", "new", "--evaluation", "evaluatoin"], "evaluation"),
        (["report", "runs/my-rnu"], "runs/my-run"),
        (["report", "my-lader"], "my-ladder"),
        (["report", "evaluatoin"], "evaluation"),
        (["compare", "runs/my-run", "runs/my-rnu"], "runs/my-run"),
        (["chat", "my-modl", "--ask", "what?"], "my-model"),
        (["chat", "runs/my-rnu/model", "--ask", "what?"], "runs/my-run/model"),
        (["chat", "my-model", "--ask", "what?", "--image", "pictur.png"], "picture.png"),
        (["evaluate", "my-mode", "questions.jsonl"], "my-model"),
        (["evaluate", "runs/my-run/model", "questions.jsonl", "--against", "./my-mode"], "my-model"),
        (["evaluate", "my-model", "qestions.jsonl"], "questions.jsonl"),
        (["data", "check", "qestions.jsonl"], "questions.jsonl"),
        (["data", "check", "questions.jsonl", "--model.path", "my-mode"], "my-model"),
        (["plan", "--model.path", "my-mode", "--data.path", "questions.jsonl"], "my-model"),
        (["plan", "recip.yaml"], "recipe.yaml"),
        (["train", "recipe.yml"], "recipe.yaml"),
        ([*TRAIN, "--data.path", "qestions.jsonl"], "questions.jsonl"),
        ([*TRAIN, "--data.path", "questions.jsonl", "--evaluation.path", "qestions.jsonl"], "questions.jsonl"),
        ([*TRAIN, "--data.path", "questions.jsonl", "--rewards.functions", "my_rewrad.py=1"], "my_reward.py"),
        (["sft", "--model.path", "my-model", "--data.path", "qestions.jsonl"], "questions.jsonl"),
        (["serve-rewards", "my_rewrad.py"], "my_reward.py"),
        (["serve-rewards", "acuracy"], "accuracy"),
        (["convert", "recip.yaml"], "recipe.yaml"),
    ],
)
def test_what_is_beside_it_is_named(here, words, meant, capsys):
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("observe-r1: error: ")
    assert f"(did you mean {meant!r}" in line if meant else "did you mean" not in line
    assert "huggingface.co" not in line and not Path("new").exists()


def test_any_part_of_a_path_may_be_mistyped(tmp_path):
    there = tmp_path / "experiments" / "first" / "model"
    there.mkdir(parents=True)
    (tmp_path / "experimens").mkdir()  # nearer, but without what is looked for
    assert beside(tmp_path / "experimnts" / "first" / "model", Path.is_dir) == f" (did you mean {str(there)!r}?)"
    assert beside(there.with_name("x" * 5000), Path.is_dir) == beside(Path("/"), Path.is_dir) == ""
