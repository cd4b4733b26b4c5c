"""The release's three launch commands, pasted with other paths, run on the tiny model."""

import json
from functools import partial

import pytest
import yaml
from original_commands import launch_command

from observe_r1.cli.main import main
from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings

REWARD = """
def reward_func(queries, prompts, labels):
    return [1.5 * (label in query[len(prompt):]) for query, prompt, label in zip(queries, prompts, labels)]
"""
SMALL = ["--run.steps", "2", "--rollout.prompts", "8", "--rollout.max_new_tokens", "24"]
NO_VLLM = ["--rollout.engine", "embedded"]
CPU = ["--run.threads", "1", "--model.device", "cpu"]


@pytest.mark.parametrize(
    ("script", "bonus", "in_file_order"),
    [("train_grpo", 0, False), ("train_r1", 0.2, True), ("train_random", 0.2, False)],
)
def test_a_launch_command_runs(script, bonus, in_file_order, world, tmp_path, capsys):
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
    settings = yaml.safe_load((output / "config.yaml").read_text())["objective"]
    assert (settings["bonus"], settings["dynamic_weight"]) == (bonus, bonus > 0)

    file_order = [json.loads(line)["id"] for line in (world / "train" / "train.jsonl").open()][:16]
    assert ([row["id"] for row in rows[::8]] == file_order) == in_file_order


def test_a_launch_command_runs_on_two_gpus_which_processes_stand_for(world, tmp_path, capsys):
    reward, output = tmp_path / "reward_func.py", tmp_path / "out"
    reward.write_text(REWARD)
    words = launch_command(
        "train_r1", world / "warm" / "model", world / "train" / "train.jsonl", output, reward, gpus=2
    )
    assert main(["train", *words, *SMALL, *CPU, *NO_VLLM]) == 0
    assert "2 policy ranks and 2 engines, colocated" in capsys.readouterr().err
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2] and (output / "model" / "config.json").is_file()
    assert yaml.safe_load((output / "config.yaml").read_text())["cluster"]["reshard"] is False


def test_on_two_gpus_the_launch_commands_differ_in_what_the_original_says_alone(tmp_path):
    """One of them runs above; these are the settings of all."""
    read = partial(launch_command, model=tmp_path, data=tmp_path / "q.jsonl", output=tmp_path / "out", gpus=2)
    grpo, ours, shuffled = (
        parse_settings(TrainSettings, [*read(script), *SMALL, *CPU, *NO_VLLM], verb="train")
        for script in ("train_grpo", "train_r1", "train_random")
    )
    assert (ours.cluster.gpus, ours.cluster.engines, ours.cluster.layout) == (2, 2, "colocated")
    assert ours.cluster == grpo.cluster == shuffled.cluster
    assert ours.optimizer == grpo.optimizer == shuffled.optimizer and ours.rollout == grpo.rollout == shuffled.rollout
    assert [each.data.order for each in (grpo, ours, shuffled)] == ["random", "ladder", "random"]
    assert [each.objective.bonus for each in (grpo, ours, shuffled)] == [0, 0.2, 0.2]
