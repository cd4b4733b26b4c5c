"""Options that have no effect beside the other settings."""

import pytest
from parsing import parse

from observe_r1.cli.options import parse_settings
from observe_r1.config import EvaluateSettings, TrainSettings, idle, setting_names
from observe_r1.errors import UserError


def every_need():
    return [(name, need) for need in idle._NEEDS for name in need.settings]


def test_settings_that_need_others_exist():
    known = {*setting_names(TrainSettings), *setting_names(EvaluateSettings)}
    assert {name for name, _ in every_need()} <= known


@pytest.mark.parametrize(
    ("words", "need"),
    [
        (["--rollout.vllm", "max_num_seqs=3"], "rollout.engine vllm"),
        (["--rollout.engine", "vllm", "--rollout.max_rows", "8"], "rollout.engine embedded"),
        (["--rollout.max_age", "3"], "rollout.dynamic_sampling"),
        (["--model.lora_alpha", "8"], "model.lora_rank above 0"),
        (["--data.adaptive_floor", "0.5"], "data.order adaptive"),
        (["--objective.dynamic_weight", "no", "--objective.sigma", "2"], "objective.dynamic_weight"),
        (["--objective.bonus", "0", "--objective.bonus_min_length", "9"], "objective.bonus above 0"),
        (["--objective.kl_in", "loss"], "objective.kl_coef above 0"),
        (["--run.track_every", "3"], "a tracker (run.tensorboard, run.wandb, run.trackio, run.mlflow)"),
        (["--rewards.workers", "2"], "a file of rewards in rewards.functions"),
        (["--rewards.functions", "a.py=1", "--rewards.retries", "2"], "a server of rewards in rewards.functions"),
        (["--rewards.call_timeout", "2"], "a file or a server of rewards in rewards.functions"),
    ],
)
def test_an_option_without_effect_is_refused_and_a_recipe_may_have_it(words, need, recipe):
    name, value = words[-2:]
    with pytest.raises(UserError) as caught:
        parse(*words)
    assert str(caught.value) == f"{name} {value} has no effect without {need}: give that too, or leave it out"
    section, _, setting = name.removeprefix("--").partition(".")
    written = value.replace("=", ": ") if "=" in value else value
    path = recipe(f"{section}: {{{setting}: {f'{{{written}}}' if '=' in value else written}}}\n")
    assert parse(path, *words[:-2])


@pytest.mark.parametrize(
    "words",
    [
        ["--rollout.vllm", "max_num_seqs=3", "--rollout.engine", "vllm"],
        ["--rollout.max_age", "3", "--rollout.dynamic_sampling"],
        ["--objective.kl_in", "loss", "--objective.kl_coef", "0.1"],
        ["--run.track_every", "3", "--run.trackio", "p"],
        ["--rewards.call_timeout", "2", "--rewards.functions", "http://host/=1"],
        ["--rollout.max_age", "1"],  # the default: nothing is asked for
    ],
)
def test_an_option_with_what_it_needs_is_taken(words):
    assert parse(*words)


@pytest.mark.parametrize("option", [["--rollout.engine", "vllm"], ["--model.dtype", "float32"]])
def test_a_server_takes_no_settings_of_engines_unless_they_answer_too(option):
    words = ["model", "data", "--server", "http://host/v1", *option]
    with pytest.raises(UserError, match="has no effect without a model that does not"):
        parse_settings(EvaluateSettings, words, verb="evaluate")
    assert parse_settings(EvaluateSettings, [*words, "--against", "other"], verb="evaluate")
