"""Whole runs on Ray, with real processes: what they compute, what they survive, and what they refuse.

They share one Ray, which the runs join; one run starts its own. The embedded engine samples in a process of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from observe_r1.cli.main import main
from observe_r1.cluster.placement import count_seats
from observe_r1.config import ClusterSettings
from observe_r1.errors import UserError

STEPS = 4


@pytest.fixture(scope="module")
def ray_address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def run(world, output, *options, steps=STEPS):
    paths = ["--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 30]
    learning = [
        "--optimizer.minibatch",
        2,
        "--optimizer.lr",
        "1e-6",
        "--optimizer.schedule",
        "constant",
        "--optimizer.warmup",
        0,
        "--run.threads",
        1,
        "--model.device",
        "cpu",
    ]
    length = ["--run.steps", steps, "--run.save_every", 1, "--run.output", output]
    return main(list(map(str, ["train", *paths, *rollout, *learning, *length, *options])))


@pytest.fixture(scope="module")
def embedded(world, tmp_path_factory):
    """A run in one process."""
    output = tmp_path_factory.mktemp("embedded") / "run"
    assert run(world, output) == 0
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def exported(model):
    """The weights of a model, in one file or several."""
    return {name: weight for file in model.glob("*.safetensors") for name, weight in load_file(file).items()}


def assert_same_run(ours, theirs, rate=1e-6, steps=STEPS):
    """The same responses to the same prompts in every step, and the same figures but for rounding.

    What is left of a run (`progress`) depends on the length that each part of it was started with.
    """
    names = sorted(path.name for path in (theirs / "rollouts").iterdir())
    assert sorted(path.name for path in (ours / "rollouts").iterdir()) == names and len(names) == steps
    for name in names:
        drawn = [
            [(row["id"], row["text"], row["version"]) for row in rows(run / "rollouts" / name)]
            for run in (ours, theirs)
        ]
        assert drawn[0] == drawn[1]
    metrics, expected = rows(ours / "metrics.jsonl"), rows(theirs / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [row["step"] for row in expected]
    for row, other in zip(metrics, expected, strict=True):
        stable = [name for name in other if not name.startswith(("time/", "speed/", "progress"))]
        assert {n: row[n] for n in stable} == pytest.approx({n: other[n] for n in stable}, rel=1e-5, abs=1e-6)
    weights, others = (exported(run / "model") for run in (ours, theirs))
    assert weights.keys() == others.keys()
    # Adam divides by the gradient's size: where that is rounding alone, a step is of the learning rate's size.
    assert all((weights[name] - others[name]).abs().max() < 8 * STEPS * rate for name in others)
    assert all((weights[name] - others[name]).abs().mean() < 0.1 * rate for name in others)


def test_two_ranks_train_as_one_process_does(world, embedded, ray_address, tmp_path):
    assert run(world, tmp_path / "run", "--cluster.address", ray_address, "--cluster.gpus", 2) == 0
    assert_same_run(tmp_path / "run", embedded)


def test_engines_apart_and_a_run_that_moves_from_cluster_to_one_process(world, embedded, ray_address, tmp_path):
    output = tmp_path / "run"
    apart = ["--cluster.address", ray_address, "--cluster.gpus", 3, "--cluster.layout", "apart"]
    assert run(world, output, *apart, steps=2) == 0
    assert run(world, output, "--run.resume", steps=3) == 0
    assert run(world, output, *apart, "--run.resume") == 0
    assert_same_run(output, embedded)


@pytest.mark.parametrize("quantize", ["none", "4bit"])
def test_adapters_on_two_ranks_and_then_on_three(world, ray_address, tmp_path, quantize):
    """Engines get them merged, a KL term takes the weights under them, and the model and they are exported."""
    adapters = ["--model.lora_rank", 4, "--model.quantize", quantize, "--objective.kl_coef", 0.01]
    adapters += ["--optimizer.lr", 1e-4]
    one, moved = tmp_path / "one", tmp_path / "moved"
    assert run(world, one, *adapters, steps=2) == 0
    ranks = ["--cluster.address", ray_address, "--cluster.gpus"]
    assert run(world, moved, *adapters, *ranks, 2, steps=1) == 0
    assert run(world, moved, *adapters, "--run.resume", *ranks, 3, steps=2) == 0
    assert_same_run(moved, one, rate=1e-4, steps=2)
    own, others = (exported(each / "model" / "adapter") for each in (moved, one))
    assert own.keys() == others.keys() and any(others[name].any() for name in others if ".lora_B." in name)
    assert all((own[name] - others[name]).abs().mean() < 1e-5 for name in others)


def processes(name):
    """The Ray actors of a class that this test's runs have started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            mine = f"OBSERVE_R1_TESTS={os.environ['OBSERVE_R1_TESTS']}".encode() in (place / "environ").read_bytes()
        except OSError:
            continue
        if mine and command.startswith(f"ray::{name}".encode()):
            found.append(int(place.name))
    return sorted(found)


def test_a_killed_rank_or_engine_costs_a_restart_and_nothing_else(world, embedded, ray_address, tmp_path, capsys):
    output = tmp_path / "run"

    def kill():
        for step, victim in ((1, "PolicyRank"), (2, "EngineProcess")):
            while not (output / "checkpoints" / f"step-{step:06d}").exists():
                time.sleep(0.01)
            os.kill(processes(victim)[-1], signal.SIGKILL)

    thread = Thread(target=kill)
    thread.start()
    assert run(world, output, "--cluster.address", ray_address, "--cluster.gpus", 2) == 0
    thread.join()
    said = capsys.readouterr().err
    assert all(f"starting again from the last checkpoint ({number} of 3)" in said for number in (1, 2))
    assert_same_run(output, embedded)


def test_the_command_starts_ray_and_stops_it(world, tmp_path):
    """In a process of its own, as a user starts it."""
    code = "import sys; from observe_r1.cli.main import main; sys.exit(main(sys.argv[1:]))"
    paths = ["--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    sizes = [
        "--rollout.prompts",
        2,
        "--rollout.group_size",
        2,
        "--rollout.max_new_tokens",
        8,
        "--optimizer.minibatch",
        2,
    ]
    options = [
        "--run.steps",
        1,
        "--run.output",
        tmp_path / "run",
        "--model.device",
        "cpu",
        "--cluster.dashboard",
        "null",
    ]
    command = [sys.executable, "-c", code, "train", *paths, *sizes, *options, "--cluster.gpus", 1]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "1 × CPU on 1 machine: 1 policy rank and 1 engine, colocated, float32" in ended.stderr
    patience = time.monotonic() + 20  # a worker ends when it finds its machine's Ray gone
    while (left := processes("PolicyRank") + processes("EngineProcess")) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not left


def test_what_a_rank_refuses_is_one_line_and_not_tried_again(world, ray_address, tmp_path, capsys):
    options = ["--cluster.address", ray_address, "--cluster.gpus", 1, "--model.freeze", "model"]
    assert run(world, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err
    assert "model.freeze leaves no parameter to train" in error
    assert "Traceback" not in error and "starting again" not in error
    assert not any((tmp_path / "run").iterdir())


def test_too_few_gpus_are_one_line(world, ray_address, tmp_path, capsys):
    assert run(world, tmp_path / "run", "--cluster.address", ray_address, "--cluster.gpus", 64) == 2
    assert "cluster.gpus = 64: Ray has 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "ranks", "engines"),
    [
        ({"gpus": 8}, 8, 8),
        ({"gpus": 8, "tensor_parallel": 4}, 8, 2),
        ({"gpus": 8, "layout": "apart"}, 4, 4),
        ({"gpus": 8, "layout": "apart", "tensor_parallel": 2, "engines": 1}, 6, 1),
        ({"address": "auto"}, 16, 16),
    ],
)
def test_seats_are_shared_out(settings, ranks, engines):
    counts = count_seats(ClusterSettings(**settings), 16)
    assert (counts.ranks, counts.engines) == (ranks, engines)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"gpus": 17}, "Ray has 16"),
        ({"gpus": 2, "tensor_parallel": 4}, "need 4 GPUs, there are 2"),
        ({"gpus": 2, "engines": 2, "layout": "apart"}, "none is left for the policy"),
    ],
)
def test_seats_that_do_not_fit_are_refused(settings, fault):
    with pytest.raises(UserError, match=fault):
        count_seats(ClusterSettings(**settings), 16)
