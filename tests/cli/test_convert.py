"""`observe-r1 convert`: a recipe that means what the flags mean, and holds no more than it must."""

import shlex
import subprocess
import sys

import pytest
import yaml
from original_commands import launch_command

from observe_r1.cli.main import main
from observe_r1.cli.openrlhf.convert import convert
from observe_r1.cli.options import parse_settings
from observe_r1.cli.recipe import read_recipe
from observe_r1.config import SFTSettings, TrainSettings, flat

KINDS = {"train": TrainSettings, "sft": SFTSettings}
SCRIPTS = {"train_grpo": "grpo", "train_r1": "observe_r1", "train_random": "observe_r1_random"}


def settings_of(verb, *words):
    return parse_settings(KINDS[verb], words, verb=verb)


def written(tmp_path, text):
    path = tmp_path / "converted.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("script", "base"), SCRIPTS.items())
def test_a_launch_command_becomes_a_short_recipe_on_the_one_of_its_method(script, base, tmp_path):
    words = launch_command(script, "my model", "rows.jsonl", "out", reward="mine.py")
    text = convert("train", words)
    assert settings_of("train", written(tmp_path, text)) == settings_of("train", *words)
    recipe = yaml.safe_load(text)
    assert recipe.pop("extends") == base
    places = {"model.path", "data.path", "run.output", "run.tensorboard", "run.resume", "rewards.functions"}
    gpus = {"cluster.gpus", "cluster.engines", "cluster.reshard", "rollout.engine"}
    assert flat(recipe).keys() <= places | gpus | {"rollout.dynamic_sampling"}


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("train", "--pretrain m --prompt_data a,b --prompt_data_probs 0.1,0.9 --adam_betas 0.8 0.9 --temperature 0.5"),
        ("train", "grpo --pretrain m --use_bonus --bonus_reward_coef 0.4 --top_p 0.9 --freeze_prefix visual lm_head"),
        ("train", 'grpo --eval_dataset held --eval_steps 5 --processor_kwargs {"min_pixels":5} --run.wandb null'),
        ("train", "tiny/grpo --max_samples 7 --data.max_samples null --eps_clip 0.3 --objective.clip_low 0.1"),
        (
            "sft",
            "--pretrain m --dataset a,b --dataset_probs 0.3,0.7 --max_epochs 3 --train_batch_size 64 --adam.lr 1e-7",
        ),
        ("sft", "tiny/sft --data.max_len 512 --lr_scheduler constant"),
    ],
)
def test_a_recipe_means_what_the_flags_mean_and_holds_only_what_differs(verb, words, tmp_path):
    words = words.split()
    text = convert(verb, words)
    assert settings_of(verb, written(tmp_path, text)) == settings_of(verb, *words)
    recipe = yaml.safe_load(text)
    base = recipe.pop("extends", None)
    assert not words[0].startswith("-") or base is None or verb == "train"
    there = flat(
        settings_of(verb, *([base] if base else []), "--model.path", "-", "--data.path", "-").model_dump(mode="json")
    )
    stated = read_recipe(base, KINDS[verb]) if base else {}
    for name, value in flat(recipe).items():
        assert value != there[name] or (name in ("model.path", "data.path") and name not in stated)


def test_a_recipe_of_ones_own_is_extended_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("model: {path: m}\ndata: {path: d}\nrun: {seed: 4}\n")
    text = convert("train", ["mine.yaml", "--temperature", "0.5"])
    assert yaml.safe_load(text) == {"extends": str(tmp_path / "mine.yaml"), "rollout": {"temperature": 0.5}}


def test_the_command_prints_the_recipe_alone_and_says_the_rest_on_stderr(capsys):
    assert main(["convert", "sft", "--pretrain", "m", "--dataset", "d", "--bf16", "--zero_stage", "2"]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == {"model": {"path": "m", "dtype": "bfloat16"}, "data": {"path": "d"}}
    assert err == "observe-r1: --zero_stage: no effect: this command uses one GPU\n"


@pytest.mark.parametrize("words", [["--advantage_estimator", "gae"], ["--dual_clip", "3"], ["--zzzz"], ["--use_bonus"]])
def test_what_cannot_be_converted_is_one_line_and_no_recipe(words, capsys):
    assert main(["convert", "--prompt_data", "d", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("observe-r1: error: ") and err.count("error: ") == 1


@pytest.mark.parametrize("verb", ["train", "sft"])
def test_the_command_that_is_printed_converts_what_then_runs(verb, tmp_path, capsys):
    words = ["--pretrain", "my model", "--dataset", "it's.jsonl", "--seed=3"]
    settings = settings_of(verb, *words)
    line = capsys.readouterr().err.splitlines()[0]
    command, called, *rest = shlex.split(line.partition("as a recipe: ")[2])
    assert (command, called, rest[-2:]) == ("observe-r1", "convert", [">", "recipe.yaml"])
    assert main(["convert", *rest[:-2]]) == 0
    assert settings_of(verb, written(tmp_path, capsys.readouterr().out)) == settings


@pytest.mark.parametrize("words", [[], ["--help"], ["sft", "--pretrain", "m", "-h"]])
def test_without_words_and_when_asked_it_explains_itself(words, capsys):
    assert main(["convert", *words]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: observe-r1 convert [train|sft]") and "--use_bonus  →  objective.bonus" in text


@pytest.mark.parametrize("words", ["train --help", "data check --help", "train grpo --data.path d --optimizer.lr 0"])
def test_a_command_without_flags_never_loads_them(words):
    code = f"import sys; from observe_r1.cli.main import main; main({words.split()}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "observe_r1.cli.start" in done.stdout and "observe_r1.cli.openrlhf" not in done.stdout
