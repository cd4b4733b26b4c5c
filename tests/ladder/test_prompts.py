"""How the measuring model is asked, what the build says of its losses, and what a newer measurement brings in."""

import json
import shutil

import pytest
import yaml
from asked_ladder import COUNT, build, prompts, read, refresh, stop_after_the_first_batch

from observe_r1.cli.main import main
from observe_r1.data.format_prompts import FORMAT_PROMPTS
from observe_r1.errors import UserError
from observe_r1.ladder import difficulty
from observe_r1.model.saving import RECORD
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_page import ladder_card
from observe_r1.report.ladder_summary import summarize_ladder

pytest_plugins = ["asked_ladder"]


def asked(questions, place="."):
    return yaml.safe_load((questions.parent / "out" / place / "asked.yaml").read_text())


def test_a_model_that_knows_no_format_is_asked_to_reason_step_by_step(questions, log, capsys):
    assert build(questions) == 0
    assert "measurer is asked to reason step by step" in capsys.readouterr().err
    assert len(prompts(log, "measurer")) == COUNT
    for prompt in prompts(log, "measurer"):
        before, after = prompt.text.split(difficulty.STEPS_PROMPT)
        assert before.endswith(": how many?\n") and "<observe>" not in before + after
    assert asked(questions) == {"format_prompt": "steps", "place": "suffix", "text": difficulty.STEPS_PROMPT}
    assert "asked to reason step by step" in ladder_card(summarize_ladder(open_build(questions.parent / "out")))


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [("observe", "suffix", "observe"), ("think", "system", "think"), ("none", "system", "steps")],
)
def test_a_model_is_asked_as_its_folder_says_it_was_trained(questions, log, tmp_path, name, place, expected):
    model = tmp_path / "trained"
    model.mkdir()
    (model / RECORD).write_text(json.dumps({"format_prompt": name, "format_prompt_place": place}))
    assert build(questions) == 0
    assert refresh(questions, f"--model={model}") == 0  # the newer model knows what the one before did not
    assert asked(questions)["format_prompt"] == "steps" and asked(questions, "refreshed-1")["format_prompt"] == expected
    text = difficulty.STEPS_PROMPT if expected == "steps" else FORMAT_PROMPTS[expected]
    for prompt in prompts(log, str(model)):
        system, _ = prompt.text.split("<|im_end|>", 1)
        assert prompt.text.count(text) == 1 and (text in system) == (place == "system" and expected != "steps")
    again = read(questions.parent / "out" / "refreshed-1" / "measured.jsonl")
    assert {row["well_formed"] for row in again} == {float(expected != "observe")}  # as the engine answers


@pytest.mark.parametrize("name", ["observe", "steps", "none"])
def test_the_format_that_is_named_counts_whatever_the_model_knows(questions, log, name):
    assert build(questions, f"--data.format_prompt={name}") == 0
    texts = {difficulty.STEPS_PROMPT: name == "steps", FORMAT_PROMPTS["observe"]: name == "observe"}
    for prompt in prompts(log, "measurer"):
        assert {text: text in prompt.text for text in texts} == texts
    assert asked(questions)["format_prompt"] == name


def test_a_measurement_goes_on_with_the_prompt_that_it_began_with(questions, log, tmp_path, monkeypatch):
    model = tmp_path / "trained"
    model.mkdir()
    with monkeypatch.context() as patch:
        stop_after_the_first_batch(patch)
        assert build(questions, f"--model={model}") == 130
    (model / RECORD).write_text(json.dumps({"format_prompt": "observe", "format_prompt_place": "system"}))
    assert build(questions, f"--model={model}") == 0
    assert len(prompts(log, str(model))) == COUNT
    assert all(difficulty.STEPS_PROMPT in prompt.text for prompt in prompts(log, str(model)))
    assert build(questions, f"--model={model}", "--anew") == 0
    assert FORMAT_PROMPTS["observe"] in prompts(log, str(model))[-1].text


@pytest.mark.parametrize("record", ["{", "[]", '{"format_prompt": "dance", "format_prompt_place": "system"}', "\udcff"])
def test_a_record_of_a_format_that_is_broken_is_one_line(questions, log, tmp_path, capsys, record):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / RECORD).write_bytes(record.encode(errors="surrogateescape"))
    assert build(questions, f"--model={tmp_path / 'trained'}") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert RECORD in line and "put it back, or remove it" in line


def test_how_it_was_asked_is_not_read_from_a_file_that_no_build_wrote(questions, log, capsys):
    assert build(questions) == 0
    (questions.parent / "out" / "asked.yaml").write_text("format_prompt: [")
    with pytest.raises(UserError, match=r"asked\.yaml: not as the build wrote it"):
        open_build(questions.parent / "out")


def test_what_was_dropped_is_a_table_and_a_build_that_lost_over_half_says_so_first(questions, log, capsys):
    assert build(questions, "--screen.models=second") == 0
    said = capsys.readouterr().out
    assert "fewer than half" not in said and "a higher screen.threshold" in " ".join(said.split())
    shutil.rmtree(questions.parent / "out")
    prose = [
        {
            "id": f"p{n}",
            "message": [{"role": "user", "content": f"Why {n}?"}],
            "answer": "because of each of the many reasons that there are",
        }
        for n in range(7)
    ]
    with questions.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in prose)
    capsys.readouterr()
    assert build(questions) == 0
    said = capsys.readouterr().out
    line = (
        "fewer than half of the questions are left, 3 of 13: 7 dropped (most often: free text, 7), 3 set aside unsolved"
    )
    assert said.startswith(line + "\n")
    assert "one gold answer that can be verified" in " ".join(said.replace("│", " ").split())


def test_a_question_that_a_newer_measurement_solves_comes_in_whatever_the_review_said(questions, log, capsys):
    """The review is written, and left as it is; a better model then solves what the one before did not."""
    out = questions.parent / "out"
    assert build(questions) == 0
    assert main(["ladder", "review", str(out)]) == 0
    assert {row["id"] for row in read(out / "ladder.jsonl")} == {"q0", "q2", "q4"}
    assert main(["ladder", "refresh", str(out), "--model=second"]) == 0
    assert main(["ladder", "arrange", str(out), "--arrange.measured=refreshed-1"]) == 0
    assert {row["id"] for row in read(out / "ladder.jsonl")} == {"q1", "q3", "q5"}
    assert not [row for row in read(out / "dropped.jsonl") if row["stage"] == "review"]
