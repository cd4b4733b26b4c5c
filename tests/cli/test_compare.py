"""`observe-r1 compare`: figures worked out by hand, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from observe_r1.cli.main import main

QUESTIONS = 8
HOSTILE = "<script>alert(1)</script>\x1b[2J"


def row(id_, right, response=0, tokens=10, answer="7"):
    sampling = "sampled" if response else "greedy"
    said = {"text": "7", "tokens": tokens, "finish": "stop", "correct": right, "well_formed": True}
    return {"id": id_, "response": response, "sampling": sampling, "answer": answer, **said}


def make_run(folder, settings, rewards, evaluations):
    """Write a run's folder; `evaluations` holds rows by step."""
    (folder / "evaluations").mkdir(parents=True)
    sections = {"model": {"path": "m"}, "data": {"path": "d"}, "run": {"output": str(folder)}}
    sections |= {"evaluation": {"path": "held_out.jsonl"}} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump(sections))
    lines = [{"step": step, "reward/mean": reward} for step, reward in enumerate(rewards, start=1)]
    for step, rows in evaluations.items():
        path = folder / "evaluations" / f"step-{step:06d}.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two runs that answer eight questions: the first 6 right at last, the second 3, which the first has right too."""
    bonus = {"objective": {"bonus": 0.2, "sigma": 1.8}}
    first = {2: [row("q0", False)], 4: [row(f"q{i}", i < 6, tokens=20) for i in range(QUESTIONS)]}
    second = {5: [row(f"q{i}", i < 3) for i in reversed(range(QUESTIONS))] + [row("other", True)]}
    return [
        str(make_run(tmp_path / "a" / "ours", bonus, [0.25, 0.5, 0.75, 1.0], first)),
        str(make_run(tmp_path / "grpo", {"objective": {"bonus": 0.0, "sigma": 1.8}}, [0.5] * 5, second)),
    ]


def test_json_has_what_differs_the_curves_and_the_paired_differences(runs, capsys):
    assert main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == [
        {"name": "ours", "path": runs[0], "steps": 4},
        {"name": "grpo", "path": runs[1], "steps": 5},
    ]
    assert found["settings"] == {"objective.bonus": [0.2, 0.0]}
    assert found["curves"]["reward/mean"] == [
        {"steps": [1, 2, 3, 4], "values": [0.25, 0.5, 0.75, 1.0]},
        {"steps": [1, 2, 3, 4, 5], "values": [0.5] * 5},
    ]
    held_out = found["held_out"]
    assert held_out["questions"] == 8
    assert [(run["run"], run["step"], run["asked"]) for run in held_out["runs"]] == [(0, 4, 8), (1, 5, 9)]
    assert [run["figures"]["accuracy"]["mean"] for run in held_out["runs"]] == [6 / 8, 3 / 8]
    (lead,) = held_out["differences"]
    assert (lead["run"], lead["minus"]) == (0, 1)
    assert (lead["figures"]["accuracy"]["mean"], lead["figures"]["length"]["mean"]) == (3 / 8, 10.0)
    # Three of eight questions differ, each by 1: eight draws have none of them in 2.3 % of cases, one in 11 %; six in
    # 3.0 %, more in 0.6 % (binomial, p = 3/8). Differences of lengths that are all 10 have no width.
    assert 0 <= lead["figures"]["accuracy"]["low"] <= 1 / 8 and 6 / 8 <= lead["figures"]["accuracy"]["high"] <= 7 / 8
    assert lead["figures"]["length"]["low"] == lead["figures"]["length"]["high"] == 10.0


def test_the_terminal_shows_them_side_by_side(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["compare", *runs]) == 0
    shown = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    cells = {name: values for name, *values in lines}
    assert cells["objective.bonus"] == ["0.2", "0.0"] and "objective.sigma" not in cells and "run.output" not in cells
    # On one scale from 0.25 to 1.0: the second curve stays a third of the way up.
    assert cells["reward"] == ["▁▃▆█ 1.000 from 0.250 (+0.750)", "▃▃▃▃▃ 0.500 from 0.500 (+0.000)"]
    ours, grpo, lead = (cell.split()[0] for cell in cells["accuracy"])
    assert (ours, grpo, lead) == ("75.0%", "37.5%", "+37.5%")
    assert "ours after step 4, grpo after step 5" in shown and "over the 8 questions" in " ".join(shown.split())


def test_a_page_has_them_too_and_no_markup_of_a_models(runs, tmp_path, capsys):
    config = tmp_path / "grpo" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["data"]["path"] = HOSTILE
    config.write_text(yaml.safe_dump(settings))
    page = tmp_path / "page.html"
    assert main(["compare", *runs, "--to", str(page)]) == 0
    shown = capsys.readouterr().out
    assert f"the page is {page}" in shown and "\x1b[2J" not in shown
    text = page.read_text()
    assert "<script>alert" not in text and "alert(1)" in text
    table = text.partition("What tells the runs apart")[2].partition("<h2")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in table.splitlines() if line.startswith("<tr>")]
    assert rows[0] == ["setting", "ours", "grpo"]
    assert ["objective.bonus", "0.2", "0.0"] in rows
    (accuracy,) = (row for row in rows if row[0] == "accuracy")
    assert [cell.split()[0] for cell in accuracy[1:]] == ["75.0%", "37.5%", "+37.5%"]


def test_runs_without_common_questions_or_differing_settings_say_so(runs, tmp_path, capsys):
    shutil.copytree(runs[0], tmp_path / "copy")
    rows = [row(f"q{i}", True, answer="8") for i in range(QUESTIONS)]  # other questions under the same ids
    (tmp_path / "copy" / "evaluations" / "step-000004.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["compare", runs[0], str(tmp_path / "copy")]) == 0
    shown = capsys.readouterr().out
    assert "all settings are the same" in shown
    assert "fewer than two runs have answered the same held-out questions" in shown
    command = f"observe-r1 evaluate {runs[0]}/model HELD_OUT.jsonl --against {tmp_path / 'copy' / 'model'}"
    assert command.replace(" ", "") in "".join(shown.split())
    shutil.rmtree(tmp_path / "copy" / "evaluations")
    assert main(["compare", runs[0], str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}"], "alone cannot be compared: name two runs or more"),
        ([], "compare.runs"),
        (["{0}", "{0}"], "named twice"),
        (["{0}", "nowhere"], "nowhere: no such folder: name the run.output"),
        (["{0}", "{0}/evaluations"], "evaluations: not the folder of a training run"),
        (["{0}"] * 7, "7 runs: name 6 at most"),
        (["{0}", "{1}", "--to", "nowhere/page.html"], "nowhere/page.html"),
        (["{0}", "--compare.runs", '["{1}"]'], "in addition to --compare.runs"),
    ],
)
def test_what_cannot_be_compared_is_one_line(runs, words, message, capsys):
    words = [word.replace("{0}", runs[0]).replace("{1}", runs[1]) for word in words]
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]  # before it, perhaps, what was being done
    assert error.startswith("observe-r1: error: ") and message in error and "Traceback" not in captured.err
    assert not captured.out


def test_a_run_that_was_evaluated_once_has_not_learned_nothing(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for folder in map(Path, runs):
        lines = (folder / "metrics.jsonl").read_text()
        at = {"step": 0, "evaluation/accuracy": 0.72}
        (folder / "metrics.jsonl").write_text(json.dumps(at) + "\n" + lines)
        for path in (folder / "evaluations").iterdir():
            path.rename(path.with_name("step-000000.jsonl"))
    assert main(["compare", *runs]) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if "held-out accuracy" in line)
    assert line.count("72.0% before training, evaluated once") == 2 and "from" not in line
    assert "ours before training, grpo before training" in " ".join(shown.split())


def test_a_damaged_evaluation_is_one_line_that_names_it(runs, tmp_path, capsys):
    path = tmp_path / "grpo" / "evaluations" / "step-000005.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[0]["tokens"]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["compare", *runs]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("observe-r1: error: ") and str(path) in error and "not as a run wrote it" in error
