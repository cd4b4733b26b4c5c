"""Ranks that read their own shards: the weights of an ordinary load, bit by bit, and how much memory that takes."""

import ctypes
import gc
import multiprocessing
import time
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from model.test_families import write_checkpoint
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.multiprocessing import start_processes

from observe_r1.cluster.sharded_policy import ShardedLogprobModel, ShardedPolicy
from observe_r1.cluster.sharding import policy_mesh
from observe_r1.config import ClusterSettings, DataSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.errors import UserError
from observe_r1.model import saving
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model

FAMILIES = ("qwen2_vl", "qwen3_vl", "qwen3_5")
CASES = {
    **{family: (family, {}, {}, {}) for family in FAMILIES},
    "tied": ("small", {}, {}, {}),
    "frozen tower in bfloat16": ("small", {"freeze": ("model.visual",), "dtype": "bfloat16"}, {}, {}),
    "adapters in bfloat16": ("small", {"lora_rank": 4, "freeze": ("model.visual",), "dtype": "bfloat16"}, {}, {}),
    "copies": ("small", {}, {"shard": 2}, {}),
    "offload": ("small", {}, {}, {"offload": True}),
}
RANKS = {1: ("tied", "adapters in bfloat16"), 2: tuple(CASES.keys() - {"copies"}), 4: ("tied", "copies")}
"""Numbers of ranks, with their cases."""
WRITERS = 2
"""Ranks that also write."""
FILE = 8 << 20
"""Bytes of a file of an exported model."""
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h: from how many bytes on a block is memory of its own."""


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


def anonymous():
    """Bytes of this process's memory that belong to no file."""
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def peak_of(run):
    """What `run` takes at most, beside what was there."""
    gc.collect()
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


def measured(folder, ranks, model):
    """Peaks of a load by shards, of an ordinary one, and of what writes such a model, beside what was there."""
    loaded, peaks = [], {}

    def load(weights):
        settings = ModelSettings(path=str(folder / model), device="cpu")
        loaded.append(policy(load_model(settings, weights=weights), ranks, torch.float32, {}, {}))

    def save():
        writing = loaded[0].save_state(folder / f"state of {model}", copy=True)
        while not writing.done():
            time.sleep(0.01)

    def export():
        loaded[0].export(folder / f"export of {model}", DataSettings(path="unused"))

    peaks["whole"] = peak_of(partial(load, weights=True))
    loaded.clear()
    peaks["by shards"] = peak_of(partial(load, weights=False))
    if ranks == WRITERS:
        peaks["export"] = peak_of(export)
        get_optimizer_state_dict(loaded[0].weights, loaded[0].optimizer)  # fills it
        peaks["checkpoint"] = peak_of(save)
    return peaks


def _rank(rank, folder, ranks):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store {ranks}", world_size=ranks, rank=rank)
    # Give back at once what is freed: else glibc keeps a heap for each thread, of up to twice the model in all.
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 16)
    saving._FILE = FILE
    measured(folder, ranks, "small")  # so that what is imported and prepared once is no part of the next
    found = measured(folder, ranks, "large")
    ordinary = {}
    for name in RANKS[ranks]:
        model, settings, cluster, optimizer = CASES[name]
        settings = ModelSettings(path=str(folder / model), device="cpu", **settings)
        if settings not in ordinary:
            torch.manual_seed(3)
            ordinary[settings] = tensors(load_model(settings))
        torch.manual_seed(3)
        dtype = compute_dtype(settings)
        ours = policy(load_model(settings, weights=False), ranks, dtype, cluster, optimizer)
        found[name] = same(tensors(ours.vlm), ordinary[settings])
    settings, cluster = ModelSettings(path=str(folder / "small"), device="cpu"), ClusterSettings(gpus=ranks)
    frozen = load_model(settings, frozen=True, weights=False)
    ShardedLogprobModel(frozen, OptimizerSettings(), cluster, policy_mesh(cluster, "cpu"))
    found["reference"] = same(tensors(frozen), tensors(load_model(settings, frozen=True)))
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
    make_tiny_model(folder / "small")
    make_tiny_model(folder / "large", sizes=Sizes(width=256, layers=24, heads=8, mlp=1024, vision_width=128))
    sizes = in_bfloat16(folder / "large" / "model.safetensors")
    wrong = make_tiny_model(folder / "wrong")
    text = (wrong / "config.json").read_text()
    (wrong / "config.json").write_text(text.replace('"rope_theta": 10.0', '"rope_theta": 0'))
    multiprocessing.set_forkserver_preload(["observe_r1.run.train", "peft"])
    for ranks in RANKS:
        start_processes(_rank, (folder, ranks), nprocs=ranks, start_method="forkserver")
    said = {ranks: [torch.load(folder / f"{ranks} {rank}.pt") for rank in range(ranks)] for ranks in RANKS}
    return said | sizes


def in_bfloat16(file):
    """Store weights as real checkpoints do; return bytes in float32, of all and of what a pass has gathered at once.

    Stored in float32, an ordinary load on the CPU would read them through the file's own pages.
    """
    weights = load_file(file)
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, file, metadata={"format": "pt"})
    sizes = {name: weight.nbytes for name, weight in weights.items()}
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    outside = sum(size for name, size in sizes.items() if ".layers." not in name and ".blocks." not in name)
    return {"size": sum(sizes.values()), "gathered": outside + 2 * layer}


@pytest.mark.parametrize(("ranks", "case"), [(n, case) for n in RANKS for case in sorted((*RANKS[n], "reference"))])
def test_weights_are_those_of_an_ordinary_load(found, ranks, case):
    assert [rank[case] for rank in found[ranks]] == [True] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_a_rank_holds_its_shards_and_little_more(found, ranks):
    """Beside its shards what a forward pass gathers, as received and as weights, and a twentieth for Python's own."""
    size, gathered = found["size"], found["gathered"]
    for rank in found[ranks]:
        assert size / ranks < rank["by shards"] < size / ranks + 2 * gathered + size / 20
        assert rank["whole"] > 0.95 * size


def test_a_rank_that_writes_holds_copies_of_its_shards_or_one_file(found):
    """Copies of weights and two moments; a file and a few weights on their way."""
    size = found["size"]
    for rank in found[WRITERS]:
        assert 3 * size / WRITERS < rank["checkpoint"] < 3 * size / WRITERS + size / 5
        assert rank["export"] < FILE + size / 10


@pytest.mark.parametrize("ranks", RANKS)
def test_a_model_that_cannot_compute_is_refused_by_all(found, ranks):
    for rank in found[ranks]:
        assert "config.json" in rank["refusal"] and "\n" not in rank["refusal"]
