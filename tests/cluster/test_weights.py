"""Weights from sharded ranks to engines, for real: two gloo ranks, an embedded engine and vLLM's own loaded model."""

import pytest
import torch
import weight_rank
from family_folders import write_checkpoint
from PIL import Image
from safetensors.torch import save_file
from tiny import group_of

from observe_r1.cluster import weights
from observe_r1.cluster.gloo_transfer import Weight, buckets
from observe_r1.cluster.weights import EmbeddedReceiver, VLLMReceiver, WeightSender, backend, vllm_arguments
from observe_r1.config import DataSettings, ModelSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.adapters import published_weights
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Example, Sampling
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.rollout.vllm import VLLMEngine

_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_interleaved": True, "mrope_section": [8, 4, 4]}
"""For heads of 32, which vLLM's CPU attention wants."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    ranks = weight_rank.Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


def sent(folder, lora=0):
    """The weights that the ranks have."""
    return dict(published_weights(weight_rank.changed_model(str(folder), lora).model))


@pytest.mark.parametrize("lora", [0, 4])
def test_an_embedded_engine_gets_every_weight(ranks, sound_model, lora):
    engine = EmbeddedEngine(load_model(ModelSettings(path=str(sound_model), device="cpu"), frozen=True))
    engine.vlm.features.used = 1  # as if an image's features were kept
    ranks.send(EmbeddedReceiver(engine), sound_model, lora)
    own, expected = dict(engine.vlm.model.named_parameters(remove_duplicate=False)), sent(sound_model, lora)
    assert own.keys() == expected.keys() and engine.vlm.features.used == 0
    for name, weight in expected.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-6 if lora else 0)


def test_nobody_needs_memory_for_more_than_a_bucket(ranks, tmp_path):
    """Ranks convert what they send, and the engine receives it; a tenth of the model travels at once."""
    folder = make_tiny_model(tmp_path / "model", sizes=Sizes(width=768, layers=12))
    engine = EmbeddedEngine(load_model(ModelSettings(path=str(folder), device="cpu", dtype="bfloat16"), frozen=True))
    weights = list(engine.vlm.model.parameters())
    total, bucket = sum(weight.nbytes for weight in weights), 4 << 20
    assert total > 10 * bucket > 10 * max(weight.nbytes for weight in weights)
    receiver, peak = EmbeddedReceiver(engine), weight_rank.Peak()
    for size in (*ranks.send(receiver, folder, dtype=torch.bfloat16, bucket=bucket), peak.reached()):
        assert size < 2 * bucket, (size, bucket, total)


def image_prompt(vlm, folder):
    Image.linear_gradient("L").convert("RGB").resize((112, 84)).save(folder / "image.png")
    content = [{"type": "image"}, {"type": "text", "text": "how many red circles"}]
    example = Example("x", ({"role": "user", "content": content},), (str(folder / "image.png"),), "1")
    return encode_prompt(example, vlm.processor, DataSettings(path="-", format_prompt="none"), 0)


def difference(engine, prompt, vlm):
    """By how much the log-probabilities of what `engine` samples differ from those of `vlm`, at most."""
    (completions,) = engine.generate([prompt], Sampling(n=3, max_new_tokens=12, seed=5))
    (expected,) = LogprobModel(vlm, OptimizerSettings()).logprobs([group_of(prompt, completions)])
    return (torch.cat([c.logprobs for c in completions]) - expected).abs().max()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_vllm_gets_what_it_would_load_from_a_checkpoint_and_forgets_the_rest(ranks, family, tmp_path, monkeypatch):
    """Every parameter as vLLM holds it, fused ones too (query, key and value; gate and up), the head tied or not.

    Features of an image that the old tower computed would show. vLLM's CPU build packs matrices, and then drops them;
    here they are kept beside.
    """
    from vllm.model_executor.layers import utils

    packed = utils.dispatch_cpu_unquantized_gemm
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", lambda layer, remove_weight: packed(layer, False))
    folder = tmp_path / "model"
    if family == "qwen2_5_vl":
        make_tiny_model(folder, sizes=Sizes(heads=3, kv_heads=1), scale=2.0)
    else:
        write_checkpoint(family, folder, head_dim=32, rope_parameters=_ROPE, initializer_range=0.3)
    vlm = load_model(ModelSettings(path=str(folder), device="cpu"), frozen=True)
    assert (vlm.model.lm_head.weight is vlm.model.model.language_model.embed_tokens.weight) == (family == "qwen2_5_vl")
    engine = VLLMEngine(vlm, vllm_arguments("gloo"), max_model_len=256, dtype=torch.float32)
    prompt = image_prompt(vlm, tmp_path)
    assert difference(engine, prompt, vlm) < 1e-4
    model = engine._engine.model_executor.driver_worker.worker.model_runner.get_model()
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    call, called = engine.call_workers, []
    monkeypatch.setattr(engine, "call_workers", lambda name, **given: called.append(name) or call(name, **given))
    ranks.send(VLLMReceiver(engine), folder)
    update = ["start_weight_update", "update_weights", "finish_weight_update"]
    assert called == ["init_weight_transfer_engine", *2 * ["synchronize_device", *update]]  # a step may be under way
    received = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    changed = weight_rank.changed_model(str(folder), 0)
    assert difference(engine, prompt, changed) < 1e-4
    changed.model.model.visual.load_state_dict(vlm.model.model.visual.state_dict())
    changed.features.clear()
    assert difference(engine, prompt, changed) > 1e-2
    save_file({name: weight.clone() for name, weight in sent(folder).items()}, folder / "model.safetensors")
    engine.call_workers("reload_weights")
    assert len(received) > 20
    for name, weight in model.named_parameters():
        assert weight.numel() and torch.equal(received[name], weight), name
        assert not torch.equal(first[name], weight), name
    engine.close()


def test_a_rank_on_another_machine_than_the_first_joins_the_transfer(sound_model, monkeypatch):
    """Over NCCL it opens no port, at an address that is not its own (here one of RFC 5737), and only gathers."""
    waits = []
    monkeypatch.setattr(weights.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(
        torch.cpu, "synchronize", lambda: waits.append(1)
    )  # for the optimizer's step, if it is still queued
    model = load_model(ModelSettings(path=str(sound_model), device="cpu"), frozen=True).model
    sender = WeightSender(model, torch.float32, "nccl", None, 4, device=torch.device("cpu"), host="192.0.2.1")
    sender.send()
    sender.close()
    assert len(waits) == 1


def test_buckets_keep_the_order_and_are_bounded():
    weights = [Weight(str(n), torch.bfloat16, (size,), ()) for n, size in enumerate([3, 4, 9, 1, 1])]
    split = list(buckets(weights, 16))
    assert [[w.name for w in batch] for batch in split] == [["0", "1"], ["2"], ["3", "4"]]


def test_each_place_has_its_back_end():
    assert [backend("vllm", layout, "cuda") for layout in ("colocated", "apart")] == ["ipc", "nccl"]
    assert backend("embedded", "apart", "cuda") == backend("vllm", "apart", "cpu") == "gloo"
