"""What is put to which model, and what a stage or a refresh that was stopped or failed leaves behind.

The engine here answers every question with 1, as the model `second` with 2, and remembers what it was asked.
"""

import base64
import json
import os
import shutil
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from PIL import Image

from observe_r1.cli import ladder_run
from observe_r1.cli.main import main
from observe_r1.config import ModelSettings
from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.ladder import building, measuring, simple
from observe_r1.model.loading import load_processor
from observe_r1.records import Completion
from observe_r1.rewards import scorer
from observe_r1.rewards.worker import WorkerPool
from observe_r1.rollout.engine import RefusedPromptError
from observe_r1.training.interrupt import StopRequest
from observe_r1.world.tiny_model import make_tiny_model

COUNT = 6


class Engine:
    version = 0

    def __init__(self, path, log, longest):
        self.path, self.log, self.longest = path, log, longest

    def generate(self, prompts, sampling, on_group=None):
        assert sampling.max_new_tokens == self.longest
        for index, prompt in enumerate(prompts):
            if len(prompt.images) > 1:
                raise RefusedPromptError(index, "rollout.vllm: too many images")
        self.log += [(self.path, prompt) for prompt in prompts]
        ids = torch.ones(50, dtype=torch.long)
        text = f"<think>I count.</think><answer>{1 + (self.path == 'second')}</answer>"
        groups = [[Completion(ids, ids.float(), text, 0, "stop")] * sampling.n for _ in prompts]
        for number, group in enumerate(groups):
            on_group(number, group)
        return groups

    def close(self):
        self.log.append((self.path, "closed"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_processor(ModelSettings(path=str(make_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))))


@pytest.fixture
def log(monkeypatch, processor):
    """What models were asked, as `(path, prompt)`; the path `missing` names none."""
    asked = []

    def check(path, setting="model.path"):
        if path == "missing":
            raise UserError(f"{setting} = 'missing': no such folder")

    def load(path, settings):
        check(path)
        return Engine(path, asked, settings.rollout.max_new_tokens), processor

    monkeypatch.setattr(building, "check_model_path", check)
    monkeypatch.setattr(measuring, "load_engine", load)
    monkeypatch.setattr(simple, "load_engine", load)
    monkeypatch.setattr(ladder_run, "write_ladder_report", lambda folder: [])
    return asked


def prompts(log, path):
    return [entry for name, entry in log if name == path and entry != "closed"]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def questions(tmp_path):
    """Rows of a picture each; the answers alternate between 1 and 2, so that every other one is never answered."""
    rows = []
    for number in range(COUNT):
        Image.new("RGB", (56, 56), (number, 0, 0)).save(tmp_path / f"{number}.png")
        parts = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": f"{number}: how many?"}]
        message = json.dumps([{"role": "user", "content": parts}])
        rows.append({"id": f"q{number}", "message": message, "answer": str(1 + number % 2)})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "q.jsonl"


def build(questions, *options, verb="build"):
    sizes = ["--rollout.group_size=2", "--rollout.batch=2", "--run.threads=1"]
    if verb == "build":
        sizes += ["--model=measurer", "--arrange.min_complexity=0"]
    return main(["ladder", verb, str(questions), f"--output={questions.parent / 'out'}", *sizes, *options])


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


def test_responses_that_take_too_long_to_grade_are_counted_in_the_rows_and_in_the_last_line(
    questions, log, monkeypatch, capsys
):
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[0]["answer"] = "1.0"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def compare(self, function, names, response, answer, template):
        """In place of the workers."""
        future = Future()
        if answer == "1.0":
            future.set_exception(TimeoutError())
        else:
            future.set_result(function(names, response, answer, template))
        return future

    monkeypatch.setattr(scorer, "_QUICK", {})
    monkeypatch.setattr(WorkerPool, "submit", compare)
    assert build(questions, "--screen.models=small", verb="screen") == 0
    assert "; 1 response took too long to grade and counts as wrong (`timeouts` in the figures); `obs" in said(capsys)
    assert build(questions, "--screen.models=small", "--model=second") == 0
    assert "; 3 responses took too long to grade and count as wrong (`timeouts` in the figures); `obs" in said(capsys)
    out = questions.parent / "out"
    assert [row["timeouts"] for row in read(out / "screening.jsonl")] == [1, 0, 0, 0, 0, 0]
    assert {row["id"]: (row["correct"], row["timeouts"]) for row in read(out / "measured.jsonl")} == {
        **{"q0": (0, 2)},
        **{f"q{number}": (2, 0) for number in (1, 3, 5)},
    }
    assert [row["timed_out"] for row in read(out / "responses.jsonl")] == [True, True] + [False] * 6


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
    said = capsys.readouterr().out
    assert said.startswith(f"1 question in {out}/screened.jsonl; 0 dropped (dropped.jsonl says why); ")
    assert f"`observe-r1 ladder measure {out} --model MODEL` measures them" in said
    assert main(["ladder", "measure", str(out), "--model=measurer"]) == 0
    assert capsys.readouterr().out.startswith(f"1 question measured in {out}/measured.jsonl")


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


def refresh(questions, *options):
    return main(["ladder", "refresh", str(questions.parent / "out"), *options])


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
    assert "6 questions: 3 easier, 3 harder, 0 as before, difficulty +0.000 on average" in said and "was \\ is" in said
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
    line = ladder_run._moved(folder, refreshed)
    assert "10 questions: 4 easier, 5 harder, 1 as before, difficulty -0.019 on average: figures in" in line
    assert capsys.readouterr().out == ""
    moved = json.loads((refreshed / "moves.json").read_text())
    assert [(row["was"], row["is"], row["questions"]) for row in moved] == [*zip(was, now, [1] * 10, strict=True)]


def test_a_refresh_that_failed_leaves_no_number_behind(questions, log):
    assert build(questions) == 0
    assert refresh(questions, "--model=missing") == 2
    assert not [*(questions.parent / "out").glob("refreshed-*")]
    assert refresh(questions, "--model=newer") == 0
    assert [path.name for path in (questions.parent / "out").glob("refreshed-*")] == ["refreshed-1"]


def stop_after_the_first_batch(monkeypatch):
    batches = []

    class Request(StopRequest):
        requested = property(lambda self: len(batches) > 0, lambda self, value: None)

    write = measuring._write
    monkeypatch.setattr(measuring, "_write", lambda *args: batches.append(write(*args)))
    monkeypatch.setattr(ladder_run, "StopRequest", Request)


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
    assert "5 questions: 0 easier, 0 harder, 5 as before" in capsys.readouterr().out


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
    assert "the same command without --anew goes on" in capsys.readouterr().out
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
        picture = base64.b64encode((questions.parent / f"{number}.png").read_bytes()).decode()
        row["message"] = row["message"].replace(f"{number}.png", f"data:image/png;base64,{picture}")
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
    assert len(whole) == 9 + COUNT and len(json.loads(whole[Path("progress.json")])) == 5
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
