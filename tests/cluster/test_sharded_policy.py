"""The policy on 1, 2 and 4 ranks over gloo, against the local: gradient, log-probabilities, metrics, five steps."""

import multiprocessing
import re

import pytest
import torch
from rank_cases import CASES, main, model, steps
from torch.multiprocessing import start_processes

RANKS = (1, 2, 4)
EXACT = [name for name, case in CASES.items() if "dtype" not in case and "weights" not in case]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the local policy (0) and each rank say of every case, by number of ranks."""
    # Imported once for all processes: it takes seconds.
    multiprocessing.set_forkserver_preload(["observe_r1.run.train", "rank_cases", "peft"])
    folders = {ranks: tmp_path_factory.mktemp(f"ranks-{ranks}") for ranks in (0, *RANKS)}
    for together in (0, 1), (2,), (4,):  # two processes at a time where there are so few
        started = [
            start_processes(_rank, (ranks, folders[ranks]), ranks or 1, join=False, start_method="forkserver")
            for ranks in together
        ]
        for processes in started:
            while not processes.join():
                pass
    return {
        ranks: [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(ranks or 1)]
        for ranks, folder in folders.items()
    }


def _rank(rank, ranks, folder):
    main(rank, ranks, folder)


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
def test_steps_change_the_weights_alike(said, case, ranks):
    (local,), count = said[0], steps(case, ranks)
    change = {n: w - local[case]["before"][n] for n, w in local[case]["after"][count].items()}
    moved = distance(local[case]["after"][count], local[case]["before"])
    assert moved > 1e-3  # of the weights: ten thousand times what is asked of the change
    for rank in said[ranks]:
        ours = {n: w - rank[case]["before"][n] for n, w in rank[case]["after"][count].items()}
        assert distance(ours, change) < 1e-6


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", EXACT)
def test_every_rank_has_all_logprobs_and_the_metrics_of_the_whole_batch(said, case, ranks):
    (local,), count = said[0], steps(case, ranks)
    for rank in said[ranks]:
        for name in ("logprobs", "base"):
            if name in local[case]:
                torch.testing.assert_close(rank[case][name], local[case][name], atol=1e-7, rtol=0)
        after = rank[case]["logprobs after"][count], local[case]["logprobs after"][count]
        torch.testing.assert_close(*after, atol=1e-7, rtol=0)
        for ours, theirs in zip(rank[case]["metrics"], local[case]["metrics"][:count], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)
            assert ours["policy/tokens"] == theirs["policy/tokens"]


@pytest.mark.parametrize("ranks", RANKS)
def test_logprobs_agree_in_float32(said, ranks):
    ours, theirs = [rank["float32"] for rank in said[ranks]], said[0][0]["float32"]
    for rank in ours:
        torch.testing.assert_close(rank["logprobs"], theirs["logprobs"], atol=1e-4, rtol=0)
        after = (run["logprobs after"][steps("float32", ranks)] for run in (rank, theirs))
        torch.testing.assert_close(*after, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ranks", RANKS)
def test_in_bfloat16_masters_and_gradients_are_float32_and_near_those_of_one_process(said, ranks):
    (local,) = said[0]
    for rank in said[ranks]:
        assert {each.dtype for each in rank["bfloat16"]["gradients"].values()} == {torch.float32}
        assert {each.dtype for each in rank["bfloat16"]["after"][steps("bfloat16", ranks)].values()} == {torch.float32}
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


@pytest.mark.parametrize("ranks", RANKS)
def test_a_rank_says_what_it_holds_and_gathers(said, ranks):
    whole = model(torch.float32).model
    sizes = {}
    for name, weight in whole.named_parameters():
        part = re.match(r"model\.(language_model\.(layers\.\d+|embed_tokens)|visual\.blocks\.\d+)\.", name)
        sizes.setdefault(part and part[0], []).append(weight.nbytes)
    root, *layers = sum(sizes.pop(None)), *sorted(map(sum, sizes.values()))
    gathered = root + sum(layers[-2:])
    found = [rank["memory"] for rank in said[ranks]]
    assert sum(each["weights"] for each in found) == root + sum(layers)
    for each in found:
        held, coming, update = each["before"]
        assert held == {"weights": each["weights"]}
        assert coming == {"moments": each["moments"]}
        assert update == {"gathered weights": gathered, "gradients": each["weights"] + gathered}
        assert each["after"] == held | coming
