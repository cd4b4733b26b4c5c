"""A whole run on Ray whose engine is vLLM, for real: two ranks, and an engine on one seat, then split over two."""

import json

import pytest
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from observe_r1.cli.main import main
from observe_r1.demo.tiny_model import Sizes, make_tiny_model

RATE = 1e-4
SPLIT = {"cluster.gpus": 4, "cluster.layout": "apart", "cluster.tensor_parallel": 2, "cluster.engines": 1}


@pytest.fixture(scope="module")
def ray_address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def options(world, tmp_path_factory):
    """Every group teaches: a reward of one's own that grows with the number of letters."""
    folder = tmp_path_factory.mktemp("vllm_runs")
    # vLLM's CPU attention wants heads of 32.
    model = make_tiny_model(folder / "model", sizes=Sizes(width=128, heads=4, kv_heads=2), scale=2.0)
    reward = folder / "letters.py"
    reward.write_text("def reward(response, answer, example):\n    return len(response)\n")
    return {
        "model.path": model,
        "model.device": "cpu",
        "data.path": world / "train" / "train.jsonl",
        "data.max_prompt_tokens": 400,
        "rollout.engine": "vllm",
        "rollout.prompts": 4,
        "rollout.group_size": 4,
        "rollout.max_new_tokens": 8,
        "optimizer.minibatch": 2,
        "optimizer.lr": RATE,
        "optimizer.warmup": 0,
        "optimizer.schedule": "constant",
        "rewards.functions": f"{reward}=1",
        "objective.dynamic_weight": "false",
        "run.threads": 1,
    }


def run(options, **more):
    given = [f"--{name}={value}" for name, value in (options | more).items()]
    assert main(["train", *given]) == 0


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_ranks_and_vllm_train_as_one_process_does_in_both_layouts(options, ray_address, tmp_path):
    """The second step's responses are of the weights that the ranks sent after the first."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    cluster = options | {"run.output": ours, "cluster.address": ray_address}
    run(cluster, **{"run.steps": 2, "cluster.gpus": 2, "cluster.engines": 1})
    run(cluster, **{"run.steps": 3, "run.resume": "true"}, **SPLIT)
    run(options, **{"run.steps": 3, "run.output": theirs})
    names = sorted(path.name for path in (theirs / "rollouts").iterdir())
    assert len(names) == 3
    for name in names:
        drawn = [
            [(row["id"], row["text"], row["version"]) for row in rows(folder / "rollouts" / name)]
            for folder in (ours, theirs)
        ]
        assert drawn[0] == drawn[1]
    metrics = rows(ours / "metrics.jsonl")
    assert len(metrics) == 3 and all(row["policy/sampler_difference"] < 1e-4 for row in metrics)
    weights, others = (load_model(folder) for folder in (ours, theirs))
    assert weights.keys() == others.keys()
    # Adam divides by the gradient's size: where that is rounding alone, a step is of the learning rate's size.
    assert all((weights[name] - others[name]).abs().mean() < 0.01 * RATE for name in others)


def load_model(run_folder):
    files = (run_folder / "model").glob("*.safetensors")
    return {name: weight for file in files for name, weight in load_file(file).items()}
