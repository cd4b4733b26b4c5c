"""The release's three launch commands, pasted with other paths, run on the tiny model."""

import json

import pytest
import yaml
from original_commands import launch_command

from observe_r1.cli.main import main
from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings, flat

REWARD = """
def reward_func(queries, prompts, labels):
    return [1.5 * (label in query[len(prompt):]) for query, prompt, label in zip(queries, prompts, labels)]
"""
SMALL = ["--run.steps", "2", "--rollout.prompts", "8", "--rollout.max_new_tokens", "24"]
NO_VLLM = ["--rollout.engine", "embedded"]
CPU = ["--run.threads", "1", "--model.device", "cpu"]


SCRIPTS = {"train_grpo": (0, "random"), "train_r1": (0.2, "ladder"), "train_random": (0.2, "random")}
"""Bonus and order of each."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_launch_command_runs(script, world, tmp_path, capsys):
    bonus, order = SCRIPTS[script]
    reward, output = tmp_path / "reward_func.py", tmp_path / "out"
    reward.write_text(REWARD)
    words = launch_command(script, world / "warm" / "model", world / "train" / "train.jsonl", output, reward, gpus=1)
    assert main(["train", *words, *SMALL, *CPU]) == 0
    said = capsys.readouterr()
    assert f"done after step 2: model in {output / 'model'}" in said.out
    assert "--zero_stage" in said.err and "Traceback" not in said.err

    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for path in sorted((output / "rollouts").iterdir()) for line in path.open()]
    assert [m["step"] for m in metrics] == [1, 2] and len(rows) == 2 * 8 * 8
    assert all(row["parts"] == {"reward_func": row["reward"]} for row in rows)
    settings = flat(yaml.safe_load((output / "config.yaml").read_text()))
    assert (settings["objective.bonus"], settings["objective.dynamic_weight"]) == (bonus, bonus > 0)

    file_order = [json.loads(line)["id"] for line in (world / "train" / "train.jsonl").open()][:16]
    assert settings["data.order"] == order
    assert ([row["id"] for row in rows[::8]] == file_order) == (order == "ladder")


def test_a_launch_command_runs_on_two_gpus_which_processes_stand_for(world, tmp_path, capsys):
    """One of the three: the others differ only in what `test_a_launch_command_runs` shows of each."""
    reward, output = tmp_path / "reward_func.py", tmp_path / "out"
    reward.write_text(REWARD)
    model, data = world / "warm" / "model", world / "train" / "train.jsonl"
    words = {name: launch_command(name, model, data, output, reward, gpus=2) for name in SCRIPTS}
    asked = {name: flat(parse_settings(TrainSettings, each, verb="train").model_dump()) for name, each in words.items()}
    for settings in asked.values():
        differing = {name for name, value in settings.items() if value != asked["train_r1"][name]}
        assert differing <= {"data.order", "objective.bonus", "objective.dynamic_weight"}
    assert asked["train_r1"]["cluster.reshard"] is False

    assert main(["train", *words["train_r1"], *SMALL, *CPU, *NO_VLLM]) == 0
    assert "2 policy ranks and 2 engines, colocated" in capsys.readouterr().err
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2] and (output / "model" / "config.json").is_file()
