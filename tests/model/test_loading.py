"""How weights are held: trained ones in float32, frozen ones in the compute type or in 8 or 4 bits."""

import sys

import pytest
import torch
from learning import (
    DATA,
    assert_resumes,
    equal,
    in_bfloat16,
    learn,
    load,
    logprobs,
    policy,
    trained_names,
    wide_checkpoint,
)

from observe_r1.errors import UserError
from observe_r1.model.saving import save_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return wide_checkpoint(tmp_path_factory.mktemp("loading"))


def held(vlm):
    """The types of trained and of frozen weights."""
    parameters = list(vlm.model.parameters())
    return tuple({p.dtype for p in parameters if p.requires_grad is trained} for trained in (True, False))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_only_trained_weights_need_a_float32_master(checkpoint, compute):
    name = str(compute).removeprefix("torch.")
    assert held(load(checkpoint, dtype=name)) == ({torch.float32}, set())
    assert held(load(checkpoint, dtype=name, freeze=("model.visual",))) == ({torch.float32}, {compute})
    assert held(load(checkpoint, dtype=name, lora_rank=2)) == ({torch.float32}, {compute})
    assert held(load(checkpoint, dtype=name, frozen=True)) == (set(), {compute})


@pytest.mark.parametrize("settings", [{"freeze": ("model.visual",)}, {"lora_rank": 2}, {"frozen": True}], ids=str)
def test_frozen_weights_in_bfloat16_change_log_probabilities_as_little_as_computing_in_it(checkpoint, settings):
    exact = torch.cat(logprobs(load(checkpoint)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = torch.cat(logprobs(load(checkpoint)))
    also_held = torch.cat(logprobs(in_bfloat16(load(checkpoint, dtype="bfloat16", **settings))))
    noise = (computed - exact).abs().mean()
    assert 0 < (also_held - exact).abs().mean() < 2 * noise < 0.1


def test_buffers_keep_their_precision(checkpoint):
    """Rotary frequencies in bfloat16 would blur positions from a few hundred on."""
    assert {buffer.dtype for buffer in load(checkpoint, dtype="bfloat16", frozen=True).model.buffers()} == {
        torch.float32
    }


def test_trying_a_model_keeps_no_second_copy_of_its_weights(checkpoint, monkeypatch):
    """Autocast would keep one of each float32 weight until the end: half as much again as the weights take."""
    caching, forward = [], torch.nn.Linear.forward

    def watched(self, x):
        caching.append(torch.is_autocast_cache_enabled() and torch.is_autocast_enabled("cpu"))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    load(checkpoint, dtype="bfloat16")
    assert caching and not any(caching)


# Quantized, on bitsandbytes' CPU backend


@pytest.mark.parametrize(("quantize", "kind"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_the_text_model_s_layers_are_quantized_and_nothing_else(checkpoint, quantize, kind):
    vlm = load(checkpoint, lora_rank=2, quantize=quantize, dtype="bfloat16")
    quantized = {n.removesuffix(".base_layer") for n, m in vlm.model.named_modules() if type(m).__name__ == kind}
    assert len(quantized) == 21 and all(n.startswith("model.language_model.layers.") for n in quantized)
    assert trained_names(vlm) == {n for n, _ in vlm.model.named_parameters() if ".lora_" in n}
    trained, frozen = held(vlm)
    assert trained == {torch.float32} and len(frozen) == 2 and torch.bfloat16 in frozen
    if quantize == "4bit":
        layer = vlm.model.get_submodule("model.language_model.layers.0.mlp.up_proj.base_layer")
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, torch.bfloat16)


@pytest.mark.parametrize(("quantize", "least", "most"), [("8bit", 1e-4, 0.1), ("4bit", 1e-3, 1.0)])
def test_a_quantized_base_says_nearly_what_the_full_one_says_and_learns(checkpoint, tmp_path, quantize, least, most):
    vlm = load(checkpoint, lora_rank=4, quantize=quantize)
    full, start = torch.cat(logprobs(load(checkpoint))), torch.cat(logprobs(vlm))
    assert least < (start - full).abs().mean() < most
    frozen = [parameter.detach().clone() for parameter in vlm.model.parameters() if not parameter.requires_grad]
    trained = policy(vlm)
    learn(trained)
    learned = torch.cat(logprobs(vlm))
    change = (learned - start).abs().mean()
    assert change > 0.1
    assert equal(frozen, [parameter for parameter in vlm.model.parameters() if not parameter.requires_grad])

    save_model(vlm, tmp_path / "model", DATA)
    merged = torch.cat(logprobs(load(tmp_path / "model")))
    assert (merged - learned).abs().mean() < (1e-4 if quantize == "4bit" else 0.05)  # int8 rounds activations too
    assert equal([torch.cat(logprobs(vlm))], [learned])


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantized_run_goes_on_bit_by_bit(checkpoint, tmp_path, quantize):
    assert_resumes(lambda: policy(load(checkpoint, lora_rank=4, quantize=quantize)), tmp_path)


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_sampling_in_evaluation_mode_leaves_quantized_weights_as_they_are(checkpoint, quantize):
    vlm = load(checkpoint, lora_rank=2, quantize=quantize, dtype="bfloat16")
    trained = policy(vlm, dtype=torch.bfloat16)
    before = logprobs(vlm)
    vlm.model.eval()
    logprobs(vlm)
    vlm.model.train()
    assert equal(logprobs(vlm), before)
    learn(trained, steps=1)


def test_quantized_weights_cannot_be_trained(checkpoint):
    with pytest.raises(
        UserError, match=r"model\.quantize = '4bit': quantized weights cannot be trained; train adapters"
    ):
        load(checkpoint, quantize="4bit")


def test_without_bitsandbytes_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"model\.quantize = '8bit' needs bitsandbytes: pip install -e '\.\[quan"):
        load(checkpoint, quantize="8bit", lora_rank=4)
