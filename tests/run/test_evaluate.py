"""`observe-r1 evaluate`: figures against the responses that it keeps, resumed where it was stopped."""

import json
import os
import shutil
import signal
from io import StringIO

import pytest
from rich.console import Console

from observe_r1.cli.evaluate import tables
from observe_r1.cli.main import main
from observe_r1.demo.dataset import write_questions
from observe_r1.ladder import inference
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


def test_another_model_joins_and_only_it_is_asked(evaluated, world, questions, tmp_path, monkeypatch, capsys):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    before = (output / "1" / "greedy" / "responses.jsonl").stat().st_mtime_ns
    loaded, load = [], inference.load_model
    monkeypatch.setattr(inference, "load_model", lambda model, **how: loaded.append(model.path) or load(model, **how))
    assert main(words(world, questions, output, "--against", str(world / "tiny"))) == 0
    assert loaded == [str(world / "tiny")], "once for both rounds, and the first model is not asked any more"
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


def test_a_model_beside_itself_is_asked_once_in_words_and_reported(evaluated, world, questions, tmp_path, capsys):
    output, model = shutil.copytree(evaluated, tmp_path / "evaluation"), world / "warm" / "model"
    shutil.rmtree(output / "1")
    assert main(words(world, questions, output, "--against", str(model))) == 0
    said = capsys.readouterr()
    assert said.err.count("is asked for the observe format") == 2  # once for each model, in two rounds
    last = said.out.splitlines()[-1]
    assert f"look at it: `observe-r1 report {output}`" in last
    assert f"`observe-r1 export {world / 'warm'} --to NEW_FOLDER --evaluation {output}`" in last
    assert main(["report", str(output)]) == 0
    page = (output / "report.html").read_text()
    assert "model (model 1)" in page and "minus model (model 2)" in page


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
    said = capsys.readouterr().err
    assert "twice.jsonl row 7: duplicate id 'world-" in said and "(--skip-bad leaves such rows out)" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert main(words(world, questions, tmp_path / "full")) == 2
    assert "neither empty nor an evaluation's folder" in capsys.readouterr().err
    assert main(words(world, questions, world / "warm")) == 2  # a training run's
    assert "neither empty nor an evaluation's folder" in capsys.readouterr().err
    assert main(["evaluate", "model"]) == 2
    assert "setting 'data.path' is missing" in capsys.readouterr().err


def test_every_model_is_looked_for_before_one_is_asked(world, questions, tmp_path, capsys):
    output = tmp_path / "evaluation"
    assert main(words(world, questions, output, "--against", str(tmp_path / "gone"))) == 2
    assert "model.against" in (said := capsys.readouterr().err)
    assert "no such folder" in said
    assert not output.exists()


@pytest.mark.parametrize("changed", ["answer", "order", "model"])
def test_changed_questions_or_weights_are_refused(evaluated, world, questions, tmp_path, capsys, monkeypatch, changed):
    # Else the figures of the old ones would be printed as those of the new ones.
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    lines, model = questions.read_text().splitlines(keepends=True), world / "warm" / "model"
    if changed == "model":
        weights = next(model.glob("*.safetensors"))
        before = weights.stat().st_mtime_ns
        os.utime(weights, ns=(before, before + 1_000_000_000))
    else:
        answer = [lines[0].replace('"answer": "', '"answer": "1'), *lines[1:]]
        questions.write_text("".join(answer if changed == "answer" else lines[::-1]))
    try:
        assert main(words(world, questions, output)) == 2
    finally:
        questions.write_text("".join(lines))
        if changed == "model":
            os.utime(weights, ns=(before, before))
    what = f"the model {model}" if changed == "model" else f"the questions of {questions}"
    assert f"{what} changed since this evaluation began" in capsys.readouterr().err
    assert main(words(world, questions, output)) == 0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"questions": 1}', "\xff"])
def test_a_damaged_record_of_the_inputs_is_refused(evaluated, world, questions, tmp_path, capsys, text):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    (output / "begun.json").write_text(text, encoding="latin-1")
    assert main(words(world, questions, output)) == 2
    assert "begun.json: not as the evaluation wrote it: give another --output" in capsys.readouterr().err


@pytest.mark.parametrize("left", ["one row less", "half a row", "nothing"])
@pytest.mark.parametrize("name", ["greedy", "sampled"])
def test_missing_responses_are_refused_not_left_out(evaluated, world, questions, tmp_path, capsys, name, left):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    kept = output / "1" / name / "responses.jsonl"
    whole = kept.read_text()
    lines = whole.splitlines(keepends=True)
    kept.write_text("".join(lines[:-1]) + (lines[-1][:20] if left == "half a row" else ""))
    if left == "nothing":
        kept.unlink()
    assert main(words(world, questions, output)) == 2
    assert f"{name}: not as the evaluation wrote it: remove that folder" in capsys.readouterr().err
    shutil.rmtree(kept.parent)
    assert main(words(world, questions, output)) == 0
    assert kept.read_text() == whole


@pytest.mark.parametrize("name", ["1", "1/sampled"])
def test_a_file_in_place_of_a_part_s_folder_is_named(evaluated, world, questions, tmp_path, capsys, name):
    folder = shutil.copytree(evaluated, tmp_path / "evaluation") / name
    shutil.rmtree(folder)
    folder.write_text("somebody's")
    assert main(words(world, questions, tmp_path / "evaluation")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"observe-r1: error: '{folder}' is a file, and a folder of that name is needed: move the")
    assert folder.read_text() == "somebody's"


def test_skip_bad_leaves_out_every_kind_of_broken_row_and_counts_them(world, questions, tmp_path, capsys):
    rows_of = [json.loads(line) for line in questions.read_text().splitlines()]
    rows_of[0] |= {"answer": ""}
    rows_of[2] |= {
        "answer": "it depends on what the author of this question meant, which nobody will ever know for sure"
    }
    rows_of[4] |= {"message": rows_of[4]["message"].replace("images/", "gone/")}
    rows_of.append(rows_of[5])
    broken, output = questions.with_name("broken.jsonl"), tmp_path / "evaluation"
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    assert main(words(world, broken, output)) == 2
    assert "broken.jsonl row 1, 'answer'" in (said := capsys.readouterr().err)
    assert "--skip-bad" in said
    assert main(words(world, broken, output, "--skip-bad")) == 0
    (model,) = json.loads((output / "summary.json").read_text())["models"]
    assert (model["questions"], model["left_out"]) == (3, 4)
    said = capsys.readouterr()
    assert "3 of 7" in said.out
    assert all(f"broken.jsonl row {number}" in said.err for number in (1, 3, 5, 7))


def test_ctrl_c_at_the_end_of_a_round_begins_no_other(world, questions, tmp_path, monkeypatch, capsys):
    output, stage = tmp_path / "evaluation", Progress.stage

    def interrupted(view, name, done, total):
        stage(view, name, done, total)
        view.stop.requested = view.stop.requested or done == total

    monkeypatch.setattr(Progress, "stage", interrupted)
    assert main(words(world, questions, output, "--json")) == 130
    assert [each.name for each in (output / "1").iterdir()] == ["greedy"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "interrupted: greedy: 6 of 6 questions; the same command resumes" in said.err


def test_ctrl_c_while_responses_are_compared_ends_at_once(evaluated, world, questions, tmp_path, monkeypatch, capsys):
    output = shutil.copytree(evaluated, tmp_path / "evaluation")
    with monkeypatch.context() as patched:
        patched.setattr("observe_r1.run.evaluate.summarize", lambda *_: signal.raise_signal(signal.SIGINT))
        assert main(words(world, questions, output)) == 130
    assert "the same command resumes" in capsys.readouterr().out
    assert main(words(world, questions, output)) == 0


def _summary(models):
    def figures(mean):
        each = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
        return {"accuracy": each, "length": {"mean": 1234.5, "low": 1111.0, "high": 1555.0}}

    source = {"a \x1b[31mred\x1b[0m [bold]source\r": {"questions": 9, "figures": figures(0.5)}}
    by = {"difficulty": {}, "source": source | {"b" * 30: {"questions": 8, "figures": figures(1)}}, "kind": {}}
    asked = [{"model": f"/long/path/of\x07/{'m' * 50}/{n}", "questions": 17, "left_out": 0} for n in range(models)]
    found = [model | {"figures": figures(n / 10), "by": by} for n, model in enumerate(asked)]
    leads = {"source": {name: figures(0.1) for name in by["source"]}}
    apart = [{"against": "", "differences": figures(0.1), "by": leads} for _ in range(models - 1)]
    return {"models": found, "differences": apart}


@pytest.mark.parametrize("models", [1, 2, 3, 4])
def test_tables_fit_eighty_characters_and_are_harmless(models):
    console = Console(width=80, file=StringIO())
    for table in tables(_summary(models)):
        console.print(table)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert "…" not in text  # nothing is cut
    assert "[bold]" in text  # a name is no markup
    figures = text[text.index("figures") : text.index("accuracy by source")]
    for number in range(models):
        assert f"{number * 10}.0%" in figures
        assert f"[{number * 10 - 5}.0,{number * 10 + 5}.0]" in figures


def test_settings_of_a_ladder_are_unknown_here(world, questions, tmp_path, capsys):
    assert main(words(world, questions, tmp_path / "evaluation", "--data.sources", "more.jsonl")) == 2
    assert "unknown option '--data.sources'" in capsys.readouterr().err
