"""Ranks that read their own shards: the weights of an ordinary load, bit by bit, and how much memory that takes."""

import ctypes
import gc
import multiprocessing
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from model.test_families import write_checkpoint
from torch import distributed
from torch.multiprocessing import start_processes

from observe_r1.cluster.sharded_policy import ShardedLogprobModel, ShardedPolicy, rank_memory
from observe_r1.cluster.sharding import policy_mesh
from observe_r1.config import ClusterSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.errors import UserError
from observe_r1.model.loading import load_model

FAMILIES = ("qwen2_vl", "qwen3_vl", "qwen3_5")
ADAPTERS = {"lora_rank": 4, "freeze": ("model.visual",)}
CASES = {
    **{family: (family, {}, {}, {}) for family in FAMILIES},
    "tied": ("large", {}, {}, {}),
    "frozen tower in bfloat16": ("large", {"freeze": ("model.visual",), "dtype": "bfloat16"}, {}, {}),
    "adapters": ("large", ADAPTERS, {}, {}),
    "adapters in bfloat16": ("large", ADAPTERS | {"dtype": "bfloat16"}, {}, {}),
    "copies": ("large", {}, {"shard": 1}, {}),
    "offload": ("large", {}, {}, {"offload": True}),
}
RANKS = (1, 2, 4)


def policy(vlm, ranks, dtype, cluster, optimizer):
    cluster = ClusterSettings(gpus=ranks, **cluster)
    return ShardedPolicy(vlm, OptimizerSettings(**optimizer), ObjectiveSettings(), cluster, dtype=dtype)


def tensors(vlm):
    """All weights, gathered, and buffers, with what is to be known of each."""
    named = [*vlm.model.named_parameters(remove_duplicate=False), *vlm.model.named_buffers()]
    whole = [(n, t.full_tensor() if hasattr(t, "full_tensor") else t, t.requires_grad) for n, t in named]
    return {name: (tensor.detach().clone(), trained) for name, tensor, trained in whole}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name][0], theirs[name][0])
        and (ours[name][0].dtype, ours[name][1]) == (theirs[name][0].dtype, theirs[name][1])
        for name in theirs
    )


def memory(made):
    """What a rank says that it takes, and what it holds: weights, and moments after a step on gradients of 1."""
    said = rank_memory(made, None)
    held = {"weights": sum(weight.to_local().nbytes for weight in made.vlm.model.parameters())}
    for weight in made.parameters:
        weight.grad = torch.ones_like(weight)
    held["gradients"] = sum(weight.grad.to_local().nbytes for weight in made.parameters)
    made.optimizer.step()
    moments = [state[name] for state in made.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held["moments"] = sum(moment.to_local().nbytes for moment in moments)
    layers, text = made.vlm.model.model.language_model.layers, made.vlm.model.model.language_model
    outside = [
        text.embed_tokens,
        text.norm,
        made.vlm.model.model.visual.merger,
        made.vlm.model.model.visual.patch_embed,
    ]
    gathered = sum(weight.nbytes for part in (*layers[:2], *outside) for weight in part.parameters())
    return said.held | said.coming | said.update, held, gathered


def anonymous():
    """Bytes of this process's memory that belong to no file."""
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def peak_of(run):
    """What `run` takes at most, beside what was there."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed before would be used again
    before, highest, done = anonymous(), [0], Event()

    def watch():
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())

    watcher = Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return highest[0] - before


def _rank(rank, folder, ranks):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store {ranks}", world_size=ranks, rank=rank)
    found = {}
    for name, (model, settings, cluster, optimizer) in CASES.items():
        settings = ModelSettings(path=str(folder / model), device="cpu", **settings)
        dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
        both = []
        for weights in (True, False):
            torch.manual_seed(3)
            both.append(policy(load_model(settings, weights=weights), ranks, dtype, cluster, optimizer))
        found[name] = same(*(tensors(each.vlm) for each in reversed(both)))
    settings = ModelSettings(path=str(folder / "large"), device="cpu")

    def reference(weights):
        vlm, cluster = load_model(settings, frozen=True, weights=weights), ClusterSettings(gpus=ranks)
        return ShardedLogprobModel(vlm, OptimizerSettings(), cluster, policy_mesh(cluster, "cpu"))

    both = [reference(weights) for weights in (False, True)]
    found["reference"] = same(*(tensors(each.vlm) for each in both))
    del both

    def loaded(weights):
        return policy(load_model(settings, weights=weights), ranks, torch.float32, {}, {})

    found |= {kind: peak_of(partial(loaded, kind == "whole")) for kind in ("by shards", "whole")}
    found["memory"] = memory(policy(load_model(settings, weights=False), ranks, torch.float32, {}, {}))
    try:
        load = load_model(ModelSettings(path=str(folder / "wrong"), device="cpu"), weights=False)
        policy(load, ranks, torch.float32, {}, {})
    except UserError as error:
        found["refusal"] = str(error)
    torch.save(found, folder / f"{ranks} {rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filling")
    for family in FAMILIES:
        write_checkpoint(family, folder / family)
    make_tiny_model(folder / "large", sizes=Sizes(width=512, layers=8, heads=8, mlp=1536, vision_width=128))
    wrong = make_tiny_model(folder / "wrong")
    text = (wrong / "config.json").read_text()
    (wrong / "config.json").write_text(text.replace('"rope_theta": 10.0', '"rope_theta": 0'))
    multiprocessing.set_forkserver_preload(["observe_r1.run.train", "peft"])
    for ranks in RANKS:
        start_processes(_rank, (folder, ranks), nprocs=ranks, start_method="forkserver")
    return {ranks: [torch.load(folder / f"{ranks} {rank}.pt") for rank in range(ranks)] for ranks in RANKS} | {
        "size": (folder / "large" / "model.safetensors").stat().st_size
    }


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("case", [*CASES, "reference"])
def test_weights_are_those_of_an_ordinary_load(found, case, ranks):
    assert [rank[case] for rank in found[ranks]] == [True] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_a_rank_holds_its_shards_and_little_more(found, ranks):
    """A seventh for slices on their way and what Python allocates; an ordinary load holds the whole."""
    for rank in found[ranks]:
        assert rank["by shards"] < found["size"] * (1 / ranks + 1 / 7)
        assert rank["whole"] > found["size"]


@pytest.mark.parametrize("ranks", RANKS)
def test_a_rank_s_own_memory_is_what_is_counted(found, ranks):
    for rank in found[ranks]:
        said, held, gathered = rank["memory"]
        assert said["weights"] == held["weights"] and said["moments"] == held["moments"]
        assert said["gathered weights"] == gathered and said["gradients"] == held["gradients"] + gathered


@pytest.mark.parametrize("ranks", RANKS)
def test_a_model_that_cannot_compute_is_refused_by_all(found, ranks):
    for rank in found[ranks]:
        assert "config.json" in rank["refusal"] and "\n" not in rank["refusal"]
