"""`observe-r1 evaluate`: figures against the responses that it keeps, resumed where it was stopped."""

import json
import shutil

import pytest

from observe_r1.cli.main import main
from observe_r1.demo.dataset import write_questions
from observe_r1.rewards import accuracy_reward
from observe_r1.run.progress import Progress


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    rows = [json.loads(line) for line in write_questions(folder, "held_out", seed=0, count=6).read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"source": "ab"[number % 2], "difficulty": 0.5 * (number % 3)}
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(world, questions, output, *more):
    fast = ["--samples", "2", "--rollout.max_new_tokens", "32", "--rollout.batch", "2", "--run.threads", "1"]
    return ["evaluate", str(world / "warm" / "model"), str(questions), "--output", str(output), *fast, *more]


@pytest.fixture(scope="module")
def evaluated(world, questions, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    assert main(words(world, questions, output)) == 0
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_figures_are_those_of_the_kept_responses(evaluated, questions):
    golds = {row["id"]: row["answer"] for row in rows(questions)}
    greedy, sampled = (rows(evaluated / "1" / name / "responses.jsonl") for name in ("greedy", "sampled"))
    (model,) = json.loads((evaluated / "summary.json").read_text())["models"]
    right = [accuracy_reward(row["text"], golds[row["id"]]) for row in greedy]
    assert len(greedy) == model["questions"] == 6
    assert len(sampled) == 12
    assert model["figures"]["accuracy"]["mean"] == pytest.approx(sum(right) / 6)
    assert model["figures"]["avg@2"]["mean"] == pytest.approx(
        sum(accuracy_reward(row["text"], golds[row["id"]]) for row in sampled) / 12
    )
    assert model["figures"]["length"]["mean"] == pytest.approx(sum(row["tokens"] for row in greedy) / 6)
    assert {name: part["questions"] for name, part in model["by"]["source"].items()} == {"a": 3, "b": 3}
    assert {name: part["questions"] for name, part in model["by"]["difficulty"].items()} == {"0": 2, "0.5": 2, "1": 2}


def test_another_model_joins_and_only_it_is_asked(evaluated, world, questions, tmp_path, capsys):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    before = (output / "1" / "greedy" / "responses.jsonl").stat().st_mtime_ns
    assert main(words(world, questions, output, "--against", str(world / "tiny"))) == 0
    printed = capsys.readouterr().out
    summary = json.loads((output / "summary.json").read_text())
    first, second = (model["figures"]["accuracy"]["mean"] for model in summary["models"])
    (difference,) = summary["differences"]
    assert difference["differences"]["accuracy"]["mean"] == pytest.approx(first - second)
    assert (output / "1" / "greedy" / "responses.jsonl").stat().st_mtime_ns == before
    assert "difference, question by question" in printed
    assert "accuracy by source" in printed


def test_what_was_interrupted_is_resumed_to_the_same_responses(evaluated, world, questions, tmp_path, monkeypatch):
    output, stage = tmp_path / "evaluation", Progress.stage

    def interrupted(view, name, done, total):
        stage(view, name, done, total)
        view.stop.requested = view.stop.requested or done == 2

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "stage", interrupted)
        assert main(words(world, questions, output)) == 130
    assert len(rows(output / "1" / "greedy" / "responses.jsonl")) == 2
    assert main(words(world, questions, output)) == 0
    for name in ("1/greedy/responses.jsonl", "1/sampled/responses.jsonl", "summary.json"):
        assert (output / name).read_bytes() == (evaluated / name).read_bytes()


def test_json_for_machines(evaluated, world, questions, tmp_path, capsys):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    assert main(words(world, questions, output, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((evaluated / "summary.json").read_text())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "1"], "rollout.seed was 0 and is 1 now: give another --output"),
        (["--rollout.max_new_tokens", "31"], "rollout.max_new_tokens was 32 and is 31 now"),
    ],
)
def test_other_settings_are_refused(evaluated, world, questions, tmp_path, capsys, more, said):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    before = (output / "config.yaml").read_bytes()
    assert main(words(world, questions, output, *more)) == 2
    assert said in capsys.readouterr().err
    assert (output / "config.yaml").read_bytes() == before


def test_bad_input_is_one_line(world, questions, tmp_path, capsys):
    twice = tmp_path / "twice.jsonl"
    twice.write_text(questions.read_text() + questions.read_text().splitlines()[0] + "\n")
    (tmp_path / "images").symlink_to(questions.parent / "images")
    assert main(words(world, twice, tmp_path / "evaluation")) == 2
    assert "twice.jsonl row 7: duplicate id 'world-" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert main(words(world, questions, tmp_path / "full")) == 2
    assert "neither empty nor an evaluation's folder" in capsys.readouterr().err
    assert main(["evaluate", "model"]) == 2
    assert "setting 'data.path' is missing" in capsys.readouterr().err
