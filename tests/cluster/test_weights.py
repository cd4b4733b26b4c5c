"""Weights from sharded ranks to engines, for real: two gloo ranks, an embedded engine and vLLM's own loaded model."""

import pytest
import torch
import weight_rank
from safetensors.torch import save_file
from torch import multiprocessing

from observe_r1.cluster.gloo_transfer import Weight, buckets
from observe_r1.cluster.weights import EmbeddedReceiver, VLLMReceiver, backend, vllm_arguments
from observe_r1.config import ModelSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.adapters import published_weights
from observe_r1.model.loading import load_model
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.rollout.vllm import VLLMEngine


def transfer(receiver, folder, tmp_path, lora=0):
    """Let two ranks send to `receiver`, and return the weights that they had."""
    context = multiprocessing.get_context("spawn")
    asked, answered = context.SimpleQueue(), context.SimpleQueue()
    arguments = (str(folder), tmp_path / "meet", lora, asked, answered)
    ranks = multiprocessing.spawn(weight_rank.run, arguments, nprocs=weight_rank.RANKS, join=False)
    while True:
        while asked.empty():
            assert not ranks.join(timeout=0.02), "the ranks ended early"
        method, given = asked.get()
        if method == "done":
            break
        getattr(receiver, method)(*given)
        answered.put("")
    while not ranks.join():
        pass
    return dict(published_weights(weight_rank.changed_model(str(folder), lora), tied=False))


@pytest.mark.parametrize("lora", [0, 4])
def test_an_embedded_engine_gets_every_weight(sound_model, tmp_path, lora):
    engine = EmbeddedEngine(load_model(ModelSettings(path=str(sound_model), device="cpu"), frozen=True))
    engine.vlm.features.used = 1  # as if an image's features were kept
    expected = transfer(EmbeddedReceiver(engine), sound_model, tmp_path, lora)
    own = dict(engine.vlm.model.named_parameters())
    assert own.keys() == expected.keys() and engine.vlm.features.used == 0
    for name, weight in expected.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-6 if lora else 0)


def test_vllm_gets_what_it_would_load_from_a_checkpoint(tmp_path, monkeypatch):
    """Every parameter as vLLM holds it, fused ones too (query, key and value; gate and up).

    Its CPU build packs matrices, and then drops them; here they are kept beside.
    """
    from vllm.model_executor.layers import utils

    packed = utils.dispatch_cpu_unquantized_gemm
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", lambda layer, remove_weight: packed(layer, False))
    folder = make_tiny_model(tmp_path / "model", sizes=Sizes(heads=3, kv_heads=1))
    vlm = load_model(ModelSettings(path=str(folder), device="cpu"), frozen=True)
    engine = VLLMEngine(vlm, vllm_arguments("gloo"), max_model_len=256, dtype=torch.float32)
    model = engine._engine.model_executor.driver_worker.worker.model_runner.get_model()
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    expected = transfer(VLLMReceiver(engine), folder, tmp_path)
    received = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    save_file({name: weight.contiguous() for name, weight in expected.items()}, folder / "model.safetensors")
    engine.call_workers("reload_weights")
    assert len(received) > 20
    for name, weight in model.named_parameters():
        assert weight.numel() and torch.equal(received[name], weight), name
        assert not torch.equal(first[name], weight), name
    engine.close()


def test_buckets_keep_the_order_and_are_bounded():
    weights = [Weight(str(n), torch.bfloat16, (size,), ()) for n, size in enumerate([3, 4, 9, 1, 1])]
    split = list(buckets(weights, 16))
    assert [[w.name for w in batch] for batch in split] == [["0", "1"], ["2"], ["3", "4"]]


def test_each_place_has_its_back_end():
    assert [backend("vllm", layout, "cuda") for layout in ("colocated", "apart")] == ["ipc", "nccl"]
    assert backend("embedded", "apart", "cuda") == backend("vllm", "apart", "cpu") == "gloo"
