"""Whole runs in which engines apart sample ahead of training, on real Ray."""

import json
from pathlib import Path

import pytest
from killing import killed
from ray.cluster_utils import Cluster

from observe_r1.cli.main import main

STEPS, PROMPTS, G = 6, 4, 4


@pytest.fixture(scope="module")
def address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def command(world, output, address, *options):
    model, data = world / "warm" / "model", world / "train" / "train.jsonl"
    return list(
        map(
            str,
            [
                *("train", "--model.path", model, "--data.path", data, "--run.output", output),
                *("--rollout.prompts", PROMPTS, "--rollout.group_size", G, "--rollout.max_new_tokens", 30),
                *("--optimizer.minibatch", 2, "--optimizer.lr", "1e-4", "--run.steps", STEPS, "--run.save_every", 1),
                *("--model.device", "cpu", "--run.threads", 1, "--cluster.address", address, "--cluster.gpus", 3),
                *("--cluster.layout", "apart", "--rollout.ahead", 1),
                *("--objective.old_logprobs", "policy", "--objective.importance_cap", 2, *options),
            ],
        )
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_is_trained_on_once_by_weights_of_the_step_before_killed_or_not(world, address, tmp_path):
    output = tmp_path / "run"
    assert killed("writing metrics", command(world, output, address))
    done = max(int(path.name.removeprefix("step-")) for path in (output / "checkpoints").glob("step-*"))
    assert 0 < done < STEPS
    assert main(command(world, output, address, "--run.resume")) == 0
    metrics = rows(output / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    asked = []
    for step, row in enumerate(metrics, 1):
        responses = rows(output / "rollouts" / f"step-{step:06d}.jsonl")
        asked += [each["id"] for each in responses[::G]]
        ages = [step - 1 - each["version"] for each in responses]
        oldest = 0 if step in (1, done + 1) else 1  # nothing was ahead of these
        assert min(ages) >= 0 and max(ages) <= oldest and all(each["last_version"] < step for each in responses)
        assert row["rollout/staleness_max"] == max(ages) and 0 <= row["rollout/staleness"] <= max(ages)
        assert row["rollout/age"] >= row["rollout/staleness"]
        assert 0 < row["policy/importance_weight"] <= 2 and row["policy/importance_truncated"] < 1
    assert asked == [row["id"] for row in rows(Path(world / "train" / "train.jsonl"))][: STEPS * PROMPTS]
    assert sum(row["rollout/staleness_max"] for row in metrics) >= 1, "nothing was sampled ahead"
