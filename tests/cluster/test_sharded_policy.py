"""The policy on 1, 2 and 4 ranks over gloo, against the local: gradient, log-probabilities, metrics, five steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cluster.rank_cases import CASES

HERE = Path(__file__).parent
RANKS = (1, 2, 4)
EXACT = [name for name, case in CASES.items() if "dtype" not in case and "weights" not in case]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the local policy (0) and each rank say of every case, by number of ranks."""
    found = {}
    for ranks in (0, *RANKS):
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
        paths = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        commands = [
            [sys.executable, HERE / "rank_cases.py", str(r), str(ranks), str(folder)] for r in range(ranks or 1)
        ]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        assert [process.wait(timeout=600) for process in processes] == [0] * len(processes)
        found[ranks] = [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(len(processes))]
    return found


def distance(ours, theirs):
    """Of all tensors together, relative."""
    apart = sum((ours[name].double() - theirs[name].double()).square().sum() for name in theirs)
    return float((apart / sum(each.double().square().sum() for each in theirs.values())).sqrt())


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", EXACT)
def test_the_gradient_is_that_of_one_process(said, case, ranks):
    (local,) = said[0]
    for rank in said[ranks]:
        assert rank[case]["gradients"].keys() == local[case]["gradients"].keys()
        assert distance(rank[case]["gradients"], local[case]["gradients"]) < 1e-9


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", EXACT)
def test_five_steps_change_the_weights_alike(said, case, ranks):
    (local,) = said[0]
    change = {n: w - local[case]["before"][n] for n, w in local[case]["after"].items()}
    moved = distance(local[case]["after"], local[case]["before"])
    assert moved > 1e-3  # of the weights: ten thousand times what is asked of the change
    for rank in said[ranks]:
        ours = {n: w - rank[case]["before"][n] for n, w in rank[case]["after"].items()}
        assert distance(ours, change) < 1e-6


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", EXACT)
def test_every_rank_has_all_logprobs_and_the_metrics_of_the_whole_batch(said, case, ranks):
    (local,) = said[0]
    for rank in said[ranks]:
        for name in ("logprobs", "logprobs after", "base"):
            if name in local[case]:
                torch.testing.assert_close(rank[case][name], local[case][name], atol=1e-7, rtol=0)
        for ours, theirs in zip(rank[case]["metrics"], local[case]["metrics"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
            assert ours["policy/tokens"] == theirs["policy/tokens"]


@pytest.mark.parametrize("ranks", RANKS)
def test_logprobs_agree_in_float32(said, ranks):
    (local,) = said[0]
    for rank in said[ranks]:
        for name in ("logprobs", "logprobs after"):
            torch.testing.assert_close(rank["float32"][name], local["float32"][name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("ranks", RANKS)
def test_in_bfloat16_masters_and_gradients_are_float32_and_near_those_of_one_process(said, ranks):
    (local,) = said[0]
    for rank in said[ranks]:
        assert {each.dtype for each in rank["bfloat16"]["gradients"].values()} == {torch.float32}
        assert {each.dtype for each in rank["bfloat16"]["after"].values()} == {torch.float32}
        assert distance(rank["bfloat16"]["gradients"], local["bfloat16"]["gradients"]) < 0.02


@pytest.mark.parametrize("ranks", RANKS)
def test_a_frozen_reference_is_sharded_too(said, ranks):
    for rank in said[ranks]:
        torch.testing.assert_close(rank["reference"], said[0][0]["reference"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("ranks", RANKS)
def test_a_loss_that_is_not_finite_is_refused_by_all_ranks_alike(said, ranks):
    first, *others = [rank["refusal"] for rank in said[ranks]]
    assert "not finite: lower optimizer.lr" in first["said"] and first["stayed"] and first["next"] > 0
    assert all(str(other) == str(first) for other in others)
