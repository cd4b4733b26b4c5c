"""Whole runs on Ray that train adapters, on weights as they are and in 4 bits, and move from two ranks to three."""

import json

import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from observe_r1.cli.main import main

RATE = 1e-4


@pytest.fixture(scope="module")
def address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def run(world, output, steps, quantize, *more):
    paths = ["--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    model = ["--model.lora_rank", 4, "--model.quantize", quantize, "--model.device", "cpu"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 30]
    learning = ["--optimizer.minibatch", 2, "--optimizer.lr", RATE, "--optimizer.schedule", "constant"]
    learning += ["--optimizer.warmup", 0, "--objective.kl_coef", 0.01]
    here = ["--run.threads", 1, "--run.steps", steps, "--run.save_every", 1, "--run.output", output]
    return main(list(map(str, ["train", *paths, *model, *rollout, *learning, *here, *more])))


def drawn(output):
    """Every response, in order."""
    files = sorted((output / "rollouts").iterdir())
    return [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]


def exported(folder):
    """The weights in a folder, in one file or several."""
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


@pytest.mark.parametrize("quantize", ["none", "4bit"])
def test_they_learn_on_two_ranks_and_then_on_three_what_they_learn_in_one_process(world, address, tmp_path, quantize):
    """Engines get them merged, a KL term takes the weights under them, and the model is exported with them in it."""
    one, moved = tmp_path / "one", tmp_path / "moved"
    ranks = ["--cluster.address", address, "--cluster.engines", 1, "--cluster.gpus"]
    assert run(world, one, 2, quantize) == 0
    assert run(world, moved, 1, quantize, *ranks, 2) == 0
    assert run(world, moved, 2, quantize, "--run.resume", *ranks, 3) == 0
    assert drawn(moved) == drawn(one)
    ours, theirs = (exported(output / "model" / "adapter") for output in (moved, one))
    assert ours.keys() == theirs.keys()
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs])
    learned = torch.cat([theirs[name].flatten() for name in theirs if ".lora_B." in name])  # it begins as 0
    assert learned.abs().mean() > RATE and apart.abs().mean() < 0.1 * RATE
    merged, expected = (exported(output / "model") for output in (moved, one))
    assert merged.keys() == expected.keys()
    assert all((merged[name] - expected[name]).abs().mean() < 0.1 * RATE for name in expected)
