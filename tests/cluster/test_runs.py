"""Whole runs on Ray, with real processes: what they compute, what they survive, and what they refuse.

They share one Ray of two machines, a head and one with seats, which the runs join; one run starts its own. The embedded
engine samples in a process of its own. Policies compute in float64, and take steps so large that a mistake would show.
"""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import torch
from float64_runs import Float64Rank, OneRefuses, compute_in_float64, load_in_float64
from ray.cluster_utils import Cluster
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from observe_r1.cli.main import main
from observe_r1.cluster import calls, ranks
from observe_r1.cluster.placement import count_seats
from observe_r1.config import ClusterSettings, ModelSettings
from observe_r1.errors import UserError

STEPS, RATE = 5, 1e-3
SEATS = {"num_cpus": 4}
RANK, ENGINE = Float64Rank.__name__, "Engine"
"""How the names of Ray's processes begin."""


@pytest.fixture(scope="module", autouse=True)
def _float64():
    with pytest.MonkeyPatch.context() as patch:
        compute_in_float64(patch)
        yield


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)  # where `float64_runs` is
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        cluster.add_node(**SEATS)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def two_ranks(cluster):
    return ["--cluster.address", cluster.address, "--cluster.gpus", 2, "--cluster.engines", 1]


def options(world, output, *more, steps=STEPS):
    """What the runs have in common; the rate is constant: others depend on the length that a part is started with."""
    paths = ["--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 30]
    schedule = ["--optimizer.lr", RATE, "--optimizer.schedule", "constant", "--optimizer.warmup", 0]
    rollout += ["--rollout.dynamic_sampling", "true"]
    learning = ["--optimizer.minibatch", 2, *schedule, "--objective.old_logprobs", "policy"]
    process = ["--run.threads", 1, "--model.device", "cpu"]
    length = ["--run.steps", steps, "--run.save_every", 1, "--run.output", output]
    return list(map(str, ["train", *paths, *rollout, *learning, *process, *length, *more]))


def run(world, output, *more, steps=STEPS):
    return main(options(world, output, *more, steps=steps))


@pytest.fixture(scope="module")
def embedded(world, tmp_path_factory):
    """A run in one process."""
    output = tmp_path_factory.mktemp("embedded") / "run"
    assert run(world, output) == 0
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(run):
    """The weights in the last checkpoint, in float64."""
    file = run / "weights.pt"
    dcp_to_torch_save(run / "checkpoints" / f"step-{STEPS:06d}" / "weights", file)
    found = torch.load(file)["model"]
    assert {weight.dtype for weight in found.values()} == {torch.float64}
    return found


def flat(tensors):
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])


def assert_same_run(world, ours, theirs):
    """The same responses to the same prompts in every step, the same figures, and weights that changed alike.

    What is left of a run (`progress`) depends on the length that each part of it was started with. The engines sample
    in float32 here and in float64 there; what they say of their log-probabilities is a metric, and not trained on.
    """
    names = sorted(path.name for path in (theirs / "rollouts").iterdir())
    assert sorted(path.name for path in (ours / "rollouts").iterdir()) == names and len(names) == STEPS
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
        assert {n: row[n] for n in stable} == pytest.approx({n: other[n] for n in stable}, rel=1e-6, abs=1e-6)
    start = dict(
        load_in_float64(ModelSettings(path=str(world / "warm" / "model"), device="cpu")).model.named_parameters()
    )
    mine, others = weights(ours), weights(theirs)
    assert mine.keys() == others.keys()
    begun, ended, end = flat({name: start[name] for name in others}), flat(mine), flat(others)
    assert (end - begun).norm() > 1e-2 * begun.norm()
    assert (ended - end).norm() < 1e-6 * (end - begun).norm()


def test_two_ranks_train_as_one_process_does(world, embedded, two_ranks, tmp_path):
    assert run(world, tmp_path / "run", *two_ranks) == 0
    assert_same_run(world, tmp_path / "run", embedded)


def test_engines_apart_and_a_run_that_moves_from_cluster_to_one_process(world, embedded, cluster, tmp_path):
    output = tmp_path / "run"
    apart = ["--cluster.address", cluster.address, "--cluster.gpus", 3, "--cluster.layout", "apart"]
    assert run(world, output, *apart, steps=2) == 0
    assert run(world, output, "--run.resume", steps=3) == 0
    assert run(world, output, *apart, "--run.resume") == 0
    assert_same_run(world, output, embedded)


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


def saved(output, step):
    """Wait for the checkpoint of a step."""
    until = time.monotonic() + 240
    while not (output / "checkpoints" / f"step-{step:06d}").exists():
        assert time.monotonic() < until, f"there is no checkpoint of step {step}"
        time.sleep(0.01)


def disturbed(world, output, disturb, *more):
    """Run, while another thread disturbs it."""
    with ThreadPoolExecutor(1) as thread:
        disturbing = thread.submit(disturb)
        code = run(world, output, *more)
    disturbing.result()
    return code


def test_ranks_and_engines_may_be_killed(world, embedded, two_ranks, tmp_path, capsys):
    """After whichever step, in the midst of another; `test_calls` has ranks that hang."""
    output, moments = tmp_path / "run", random.Random(0)

    def disturb():
        for step, victim in ((1, RANK), (3, ENGINE)):
            saved(output, step)
            time.sleep(moments.uniform(0, 0.2))
            os.kill(processes(victim)[-1], signal.SIGKILL)

    assert disturbed(world, output, disturb, *two_ranks) == 0
    said = capsys.readouterr().err
    assert "a process has died" in said and "starting again from the last checkpoint (1 of 3)" in said
    assert "has died and starts again, its prompts are sampled again" in said and "(2 of 3)" not in said
    assert_same_run(world, output, embedded)


def test_a_machine_leaves_and_another_one_joins(world, embedded, cluster, two_ranks, tmp_path, capsys, monkeypatch):
    output = tmp_path / "run"
    monkeypatch.setattr(cluster, "_shutdown_at_exit", False)  # that would need a signal's handler, and the main thread

    def disturb():
        saved(output, 2)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(**SEATS)

    assert disturbed(world, output, disturb, *two_ranks, "--cluster.timeout", 600) == 0
    said = capsys.readouterr().err
    assert "starting again from the last checkpoint (1 of 3)" in said and "resuming after step" in said
    assert_same_run(world, output, embedded)


def listens_on(process):
    """The addresses on which a process listens; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        found = [each for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        return [ip_address(each.laddr.ip.removeprefix("::ffff:")) for each in found]
    return []


def test_the_command_starts_ray_and_stops_it(world, tmp_path):
    """In a process of its own, as a user starts it, and stops it by Ctrl-C, and as a scheduler does."""
    code = "import sys; from observe_r1.cli.main import main; sys.exit(main(sys.argv[1:]))"
    output, ray = tmp_path / "run", ["--cluster.gpus", 1, "--cluster.dashboard", "null", "--run.resume"]
    command = [sys.executable, "-c", code, *options(world, output, *ray, steps=1000)]

    def stopped(step, stop):
        """Stop a run by `stop` after a step, and return its exit code and what it said."""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            saved(output, step)
            mine = psutil.Process(process.pid).children(recursive=True)
            listening = [address for one in mine for address in listens_on(one)]
            stop(process, mine)
            said = process.communicate()[0]
        assert len(listening) > 3 and all(address.is_loopback for address in listening), listening
        _, alive = psutil.wait_procs(mine, timeout=20)  # a worker ends when it finds its machine's Ray gone
        assert not alive
        return process.returncode, said

    def ctrl_c(process, _):
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells all

    def terminate_all(process, others):
        for each in (*others, psutil.Process(process.pid)):
            with suppress(psutil.NoSuchProcess):  # it ended with the one before
                each.send_signal(signal.SIGTERM)

    returned, said = stopped(1, ctrl_c)
    assert returned == 130 and "stopping after this step, then saving" in said and "interrupted after step" in said
    assert "1 × CPU on 1 machine: 1 policy rank and 1 engine, colocated, float32" in said and "Traceback" not in said
    assert (output / "model" / "config.json").exists()
    done = int(said.split("interrupted after step ")[1].split(":")[0])
    returned, said = stopped(done + 1, terminate_all)
    assert returned == 130 and "Traceback" not in said, said
    assert "--run.resume continues" in said


def test_what_a_rank_refuses_is_one_line_and_not_tried_again(world, two_ranks, tmp_path, capsys):
    assert run(world, tmp_path / "run", *two_ranks, "--model.freeze", "model") == 2
    error = capsys.readouterr().err
    assert "model.freeze leaves no parameter to train" in error
    assert "Traceback" not in error and "starting again" not in error
    assert not any((tmp_path / "run").iterdir())


def test_what_one_rank_refuses_while_others_wait_is_one_line(world, two_ranks, tmp_path, capsys, monkeypatch):
    """Which comes at once, and nothing is asked of the ranks that wait: no model can be saved."""
    monkeypatch.setattr(ranks, "PolicyRank", OneRefuses)
    monkeypatch.setattr(calls, "_TOGETHER", 0.1)
    assert run(world, tmp_path / "run", *two_ranks, "--optimizer.minibatch", 4) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not on this rank: lower it (stopped after step 1, its model cannot be saved either" in error
    assert "--run.resume continues after step 1" in error


def test_too_few_gpus_are_one_line(world, cluster, tmp_path, capsys):
    assert run(world, tmp_path / "run", "--cluster.address", cluster.address, "--cluster.gpus", 64) == 2
    assert "cluster.gpus = 64: Ray has 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "ranks", "engines"),
    [
        ({"gpus": 8}, 8, 8),
        ({"gpus": 8, "tensor_parallel": 4}, 8, 2),
        ({"gpus": 8, "layout": "apart"}, 4, 4),
        ({"gpus": 8, "layout": "apart", "tensor_parallel": 2, "engines": 1}, 6, 1),
        ({"gpus": 16}, 16, 16),
    ],
)
def test_seats_are_shared_out(settings, ranks, engines):
    counts = count_seats(ClusterSettings(**settings))
    assert (counts.ranks, counts.engines) == (ranks, engines)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"gpus": 2, "tensor_parallel": 4}, "need 4 GPUs, there are 2"),
        ({"gpus": 2, "engines": 2, "layout": "apart"}, "none is left for the policy"),
    ],
)
def test_seats_that_do_not_fit_are_refused(settings, fault):
    with pytest.raises(UserError, match=fault):
        count_seats(ClusterSettings(**settings))


def test_a_run_folder_that_not_all_ranks_see_is_refused(world, two_ranks, tmp_path, capfd):
    """Where a path leads to depends on the process, as on machines that share no folder it depends on the machine."""
    (tmp_path / "here").mkdir()
    opened = os.open(tmp_path / "here", os.O_RDONLY)
    own = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 900)
    output = f"/proc/self/fd/{own}/run"
    try:
        assert run(world, output, *two_ranks) == 2
    finally:
        os.close(own)
        os.close(opened)
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"run.output = '{output}': the policy's ranks on " in said and said.endswith("under the same path")
    assert not list((tmp_path / "here").rglob(".shared*"))
