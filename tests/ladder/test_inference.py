"""What is put to which model, and what a stage or a refresh that was stopped or failed leaves behind."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
from asked_ladder import COUNT, build, prompts, read, refresh, stop_after_the_first_batch

from observe_r1.cli import ladder as ladder_commands
from observe_r1.cli.main import main
from observe_r1.data.format_prompts import FORMAT_PROMPTS

pytest_plugins = ["asked_ladder"]


def test_a_question_that_one_screening_model_cannot_be_asked_is_not_put_to_the_next(questions, log, capsys):
    row = json.loads(questions.read_text().splitlines()[0])
    row |= {"id": "long", "message": [{"role": "user", "content": "red " * 200}], "answer": "5"}
    with questions.open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert build(questions, "--screen.models=small,large", "--data.max_prompt_tokens=150", verb="screen") == 0
    out = questions.parent / "out"
    assert [row["stage"] for row in read(out / "dropped.jsonl") if row["id"] == "long"] == ["screen 1"]
    assert len(prompts(log, "small")) == COUNT and len(prompts(log, "large")) == COUNT / 2
    assert [row["id"] for row in read(out / "screened.jsonl")] == ["q1", "q3", "q5"]
    assert log.index(("small", "closed")) < log.index(("large", prompts(log, "large")[0]))


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_models_that_cannot_be_had_are_named_before_anything_is_read(questions, log, capsys):
    out = questions.parent / "out"
    assert build(questions, "--screen.models=small,missing") == 2
    assert "screen.models = 'missing': no such folder" in capsys.readouterr().err
    assert build(questions, "--model=missing") == 2
    assert "model.path = 'missing': no such folder" in capsys.readouterr().err
    assert not out.exists() and not log
    assert build(questions) == 0
    whole = contents(out)
    assert build(questions, "--model=missing", "--anew") == 2
    assert contents(out) == whole


def test_shares_that_do_not_fit_the_responses_are_named_before_anything_is_read(questions, log, capsys):
    assert build(questions, "--arrange.shares=published") == 2
    assert "arrange.shares: 9 shares for 3 levels: give one more than" in capsys.readouterr().err
    assert not (questions.parent / "out").exists() and not log
    assert build(questions, "--arrange.shares=1,1,0") == 0


def test_a_model_that_has_been_asked_may_be_gone(questions, log):
    assert build(questions, "--screen.models=second") == 0
    out = questions.parent / "out"
    recorded = out / "ladder.yaml"
    recorded.write_text(recorded.read_text().replace("measurer", "missing").replace("second", "missing"))
    assert main(["ladder", "build", str(out)]) == 0


def test_the_last_line_of_each_stage_names_the_next(questions, log, capsys):
    questions.write_text(questions.read_text().splitlines()[0] + "\n")
    out = questions.parent / "out"
    assert build(questions, verb="screen") == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"screened: 1 question, in {out}/screened.jsonl"
    assert last == f"measure them: `observe-r1 ladder measure {out} --model MODEL`"
    assert main(["ladder", "measure", str(out), "--model=measurer"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == f"measured: 1 question, in {out}/measured.jsonl; responses in {out}/responses.jsonl"
    assert last == f"make the ladder: `observe-r1 ladder arrange {out}`"


def test_a_broken_question_ends_the_stage_before_its_batch_is_sampled(questions, log, capsys):
    assert build(questions, verb="screen") == 0
    out = questions.parent / "out"
    (questions.parent / "3.png").unlink()
    assert main(["ladder", "measure", str(out), "--model=measurer"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "screened.jsonl row 4: image" in error and "--skip-bad" in error
    assert len(prompts(log, "measurer")) == 2  # the first batch
    assert main(["ladder", "measure", str(out), "--skip-bad"]) == 0  # it knows the model that it began with
    assert [row["id"] for row in read(out / "measured.jsonl")] == ["q0", "q1", "q2", "q4", "q5"]
    assert len(prompts(log, "measurer")) == COUNT - 1
    assert [(r["id"], r["stage"], r["reason"]) for r in read(out / "dropped.jsonl")] == [
        ("q3", "measure", "broken row")
    ]


@pytest.mark.parametrize("crowded", [(2,), (2, 3), (0, 3, 5)])
def test_questions_that_the_engine_refuses_are_named_or_skipped(questions, log, capsys, crowded):
    assert build(questions, verb="screen") == 0
    out = questions.parent / "out"
    rows = read(out / "screened.jsonl")
    for number in crowded:
        parts = json.loads(rows[number]["message"])[0]["content"]
        rows[number]["message"] = json.dumps([{"role": "user", "content": [parts[0], *parts]}])
    (out / "screened.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        assert main(["ladder", "measure", str(out), "--model=measurer"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"screened.jsonl row {1 + crowded[0]}: rollout.vllm: too many images (--skip-bad" in error
    assert main(["ladder", "measure", str(out), "--model=measurer", "--skip-bad"]) == 0
    assert [row["id"] for row in read(out / "measured.jsonl")] == [f"q{n}" for n in range(COUNT) if n not in crowded]
    gone = [(row["id"], row["stage"], row["reason"]) for row in read(out / "dropped.jsonl")]
    assert gone == [(f"q{number}", "measure", "broken row") for number in crowded]
    assert len(prompts(log, "measurer")) == COUNT - len(crowded)


def test_a_refresh_may_leave_broken_rows_out(questions, log, capsys):
    assert build(questions) == 0
    (questions.parent / "2.png").unlink()
    assert refresh(questions, "--model=newer") == 2
    assert "--skip-bad" in capsys.readouterr().err.splitlines()[-1]
    assert refresh(questions, "--model=newer", "--skip-bad") == 0
    assert {row["id"] for row in read(questions.parent / "out" / "refreshed-1" / "measured.jsonl")} == {
        *("q0", "q4"),
        *("q1", "q3", "q5"),
    }


@pytest.mark.parametrize("name", ["observe", "think"])
def test_a_format_prompt_that_stands_in_the_questions_is_not_added_again(questions, log, name):
    assert build(questions, f"--arrange.format_prompt={name}") == 0
    assert refresh(questions, "--model=newer") == 0
    asked = prompts(log, "newer")
    assert len(asked) == COUNT
    for prompt in asked:
        assert sum(prompt.text.count(text) for text in FORMAT_PROMPTS.values()) == 1
        assert FORMAT_PROMPTS[name] in prompt.text
    again = read(questions.parent / "out" / "refreshed-1" / "measured.jsonl")
    assert {row["well_formed"] for row in again} == {float(name == "think")}


def test_what_the_newer_model_solves_joins_the_ladder(questions, log, capsys):
    """`second` answers 2, which is right for every other question and wrong for all of the ladder's."""
    assert build(questions) == 0
    out = questions.parent / "out"
    assert [row["id"] for row in read(out / "ladder.jsonl")] == ["q0", "q2", "q4"]
    assert refresh(questions, "--model=second") == 0
    said = capsys.readouterr().out
    assert "6 questions, 3 easier, 3 harder, 0 unchanged; difficulty +0.000 on average" in said and "was \\ is" in said
    moved = json.loads((out / "refreshed-1" / "moves.json").read_text())
    assert moved == [{"was": 0.0, "is": 1.0, "questions": 3}, {"was": 1.0, "is": 0.0, "questions": 3}]
    assert main(["ladder", "arrange", str(out), "--arrange.measured=refreshed-1"]) == 0
    assert [row["id"] for row in read(out / "ladder.jsonl")] == ["q1", "q3", "q5"]
    assert [row["id"] for row in read(out / "unsolved.jsonl")] == ["q0", "q2", "q4"]


def test_moves_between_many_levels_are_a_line_and_a_file(questions, log, capsys):
    """Ten levels, all but one of the questions a level harder or two easier."""
    folder, refreshed = questions.parent, questions.parent / "refreshed-1"
    refreshed.mkdir()
    was, now = [n / 16 for n in range(10)], [0.0, *(n / 16 for n in (2, 3, 4, 5, 6, 4, 5, 6, 7))]
    for path, name, levels in (
        (folder, "ladder", was[:7]),
        (folder, "unsolved", was[7:]),
        (refreshed, "measured", now),
    ):
        first = 7 if name == "unsolved" else 0
        rows = [{"id": f"q{number}", "difficulty": level} for number, level in enumerate(levels, start=first)]
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ladder_commands._moved(folder, refreshed)
    assert "10 questions, 4 easier, 5 harder, 1 unchanged; difficulty -0.019 on average" in "".join(line)
    assert capsys.readouterr().out == ""
    moved = json.loads((refreshed / "moves.json").read_text())
    assert [(row["was"], row["is"], row["questions"]) for row in moved] == [*zip(was, now, [1] * 10, strict=True)]


def test_a_refresh_that_failed_leaves_no_number_behind(questions, log):
    assert build(questions) == 0
    assert refresh(questions, "--model=missing") == 2
    assert not [*(questions.parent / "out").glob("refreshed-*")]
    assert refresh(questions, "--model=newer") == 0
    assert [path.name for path in (questions.parent / "out").glob("refreshed-*")] == ["refreshed-1"]


def test_a_refresh_goes_on_with_the_ladder_that_it_began_with_alone(questions, log, monkeypatch, capsys):
    assert build(questions) == 0
    with monkeypatch.context() as patch:
        stop_after_the_first_batch(patch)
        assert refresh(questions, "--model=newer") == 130
    out = questions.parent / "out"
    assert len(read(out / "refreshed-1" / "measured.jsonl")) == 2
    (out / "review.yaml").write_text("- {id: q1, answer: '2', action: keep}\n- {id: q0, answer: '1', action: drop}\n")
    assert main(["ladder", "arrange", str(out)]) == 0
    assert refresh(questions, "--model=newer") == 0
    assert {row["id"] for row in read(out / "refreshed-2" / "measured.jsonl")} == {"q1", "q2", "q4", "q3", "q5"}
    assert "5 questions, 0 easier, 0 harder, 5 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "asked"), [([], COUNT), (["--anew"], 2 + COUNT)])
def test_a_stopped_refresh_goes_on_or_begins_anew(questions, log, monkeypatch, options, asked):
    assert build(questions) == 0
    with monkeypatch.context() as patch:
        stop_after_the_first_batch(patch)
        assert refresh(questions, "--model=newer") == 130
    assert refresh(questions, "--model=newer", *options) == 0
    assert len(prompts(log, "newer")) == asked
    (folder,) = (questions.parent / "out").glob("refreshed-*")
    assert len(read(folder / "measured.jsonl")) == COUNT


def test_a_stopped_refresh_goes_on_with_its_own_model_where_none_is_named(questions, log, monkeypatch, capsys):
    out = questions.parent / "out"
    assert build(questions) == 0
    assert refresh(questions) == 2
    assert "observe-r1 ladder refresh needs --model" in capsys.readouterr().err.splitlines()[-1]
    assert refresh(questions, "--model=older") == 0
    with monkeypatch.context() as patch:
        stop_after_the_first_batch(patch)
        assert refresh(questions, "--model=newer", "--seed=5", "--anew") == 130
    assert "the same command without --anew resumes" in capsys.readouterr().out
    assert main(["ladder", "arrange", str(out), "--arrange.measured=refreshed-2"]) == 2
    assert f"run `observe-r1 ladder refresh {out}` first" in capsys.readouterr().err
    assert refresh(questions) == 0
    assert len(prompts(log, "newer")) == COUNT == len(prompts(log, "older"))
    assert {path.name for path in out.glob("refreshed-*")} == {"refreshed-1", "refreshed-2"}
    assert main(["ladder", "arrange", str(out), "--arrange.measured=refreshed-2"]) == 0
    assert refresh(questions) == 2


class Killed(BaseException):
    pass


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("ladder.yaml", ".lock"))
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_whatever_was_on_the_disk_when_it_died_the_build_ends_the_same(questions, log, monkeypatch):
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    for number, row in enumerate(rows):
        image = base64.b64encode((questions.parent / f"{number}.png").read_bytes()).decode()
        row["message"] = row["message"].replace(f"{number}.png", f"data:image/png;base64,{image}")
    rows.append(rows[0] | {"id": "again"})
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    synced, death = [], None

    def sync(descriptor):
        synced.append(descriptor)
        if len(synced) == death:
            raise Killed

    monkeypatch.setattr(os, "fsync", sync)
    out = questions.parent / "out"
    assert build(questions, "--screen.models=second") == 0
    whole, last, asked = contents(out), len(synced), len(log)
    assert len(whole) == 11 + COUNT and len(json.loads(whole[Path("progress.json")])) == 5
    for moment in range(1, last + 1, 2):
        shutil.rmtree(out)
        log.clear(), synced.clear()
        death = moment
        with pytest.raises(Killed):
            build(questions, "--screen.models=second")
        death = None
        assert build(questions, "--screen.models=second") == 0
        assert contents(out) == whole, moment
        assert len(log) <= asked + 2 + 1, moment  # a batch again, and one time more closed
