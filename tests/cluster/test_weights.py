"""Weights from sharded ranks to engines, for real: two gloo ranks, an embedded engine and vLLM's own loaded model."""

import pytest
import torch
import weight_rank
from torch import multiprocessing

from observe_r1.cluster.gloo_transfer import Weight, buckets
from observe_r1.cluster.weights import backend
from observe_r1.demo.tiny_model import Sizes, make_tiny_model


def transfer(folder, tmp_path, kind, lora=0):
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    multiprocessing.spawn(
        weight_rank.run, (str(folder), tmp_path / "meet", kind, lora, found), nprocs=weight_rank.RANKS
    )
    return found.get()


@pytest.mark.parametrize("lora", [0, 4])
def test_an_embedded_engine_gets_every_weight(sound_model, tmp_path, lora):
    assert transfer(sound_model, tmp_path, "embedded", lora) < 1e-6


def test_vllm_gets_what_it_would_load_from_a_checkpoint(tmp_path):
    """Its fused parameters (query, key and value; gate and up) are compared as vLLM holds them."""
    folder = make_tiny_model(tmp_path / "model", sizes=Sizes(heads=3, kv_heads=1))
    assert transfer(folder, tmp_path, "vllm") == 0


def test_buckets_keep_the_order_and_are_bounded():
    weights = [Weight(str(n), torch.bfloat16, (size,), ()) for n, size in enumerate([3, 4, 9, 1, 1])]
    split = list(buckets(weights, 16))
    assert [[w.name for w in batch] for batch in split] == [["0", "1"], ["2"], ["3", "4"]]


def test_each_place_has_its_back_end():
    found = [backend("vllm", layout, "cuda") for layout in ("colocated", "apart")]
    assert (
        found == ["ipc", "nccl"] and backend("embedded", "apart", "cuda") == backend("vllm", "apart", "cpu") == "gloo"
    )
