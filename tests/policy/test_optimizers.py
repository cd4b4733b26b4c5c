"""8-bit moments and moments on the CPU, against plain AdamW."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from learning import (
    DATA,
    assert_resumes,
    batch,
    equal,
    group,
    learn,
    load,
    logprobs,
    policy,
    wide_checkpoint,
)
from safetensors.torch import load_file

from observe_r1.errors import UserError
from observe_r1.model.saving import save_model
from observe_r1.run.checkpoint import Checkpoints

BF16 = {"dtype": torch.bfloat16}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return wide_checkpoint(tmp_path_factory.mktemp("optimizers"))


def flat(parameters):
    return torch.cat([parameter.detach().flatten().float() for parameter in parameters])


def distance(ours, theirs, start):
    """How far two runs ended from each other, as a share of how far they went."""
    ours, theirs, start = flat(ours), flat(theirs), flat(start)
    return float((ours - theirs).norm() / (theirs - start).norm())


# 8-bit moments


def test_moments_in_8_bits_take_nearly_the_same_steps(checkpoint):
    plain, small = policy(load(checkpoint)), policy(load(checkpoint), kind="adamw_8bit")
    learn(plain, steps=6)
    learn(small, steps=6)
    assert 0 < distance(small.parameters, plain.parameters, load(checkpoint).model.parameters()) < 0.1
    for parameter, state in small.optimizer.state.items():
        bits = torch.uint8 if parameter.numel() >= 4096 else torch.float32
        assert (state["state1"].dtype, state["state2"].dtype, state["step"]) == (bits, bits, 6)
    assert any(parameter.numel() >= 4096 for parameter in small.parameters)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("offload", [False, True])
def test_every_optimizer_resumes_bit_by_bit(checkpoint, tmp_path, kind, offload):
    assert_resumes(lambda: policy(load(checkpoint), kind=kind, offload=offload), tmp_path)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_parameters_that_never_had_a_gradient_are_no_obstacle(checkpoint, tmp_path, kind):
    """Without images the image tower has none, and Adam no state for it."""
    vlm = load(checkpoint)
    trained, resumed = policy(vlm, kind=kind), policy(load(checkpoint), kind=kind)
    learn(trained, grids=())
    assert len(trained.optimizer.state) < len(trained.parameters)
    Checkpoints(tmp_path, keep=1).save(1, trained, {}, {"x": torch.zeros(1)})
    assert Checkpoints(tmp_path, keep=1).load_newest(resumed, print)
    learn(trained, first=3)
    learn(resumed, first=3)
    assert equal(resumed.parameters, trained.parameters)


def test_without_bitsandbytes_the_extra_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"optimizer\.kind = 'adamw_8bit' needs bitsandbytes: pip install -e '\.\["):
        policy(load(checkpoint), kind="adamw_8bit")


# On the CPU


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}, {"freeze": ("model.visual",)}], ids=str)
def test_offloaded_in_float32_is_adamw_bit_by_bit(checkpoint, settings):
    """Clipped, and with gradients summed over several packs."""
    common = {"max_grad_norm": 0.01, "tokens_per_pack": 30, "weight_decay": 0.1}
    plain, away = (policy(load(checkpoint, **settings), offload=offload, **common) for offload in (False, True))
    assert learn(plain) == learn(away)
    assert equal(plain.parameters, away.parameters)
    assert equal(plain.vlm.model.parameters(), away.vlm.model.parameters())


def test_offloaded_in_bfloat16_the_device_holds_two_bytes_a_weight_and_no_gradient(checkpoint):
    vlm = load(checkpoint, dtype="bfloat16")
    gradients = []
    away = policy(vlm, offload=True, **BF16)
    for parameter in vlm.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad))
    plain = policy(load(checkpoint, dtype="bfloat16"), **BF16)
    learn(plain)
    learn(away)
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
    assert {(parameter.dtype, parameter.device.type) for parameter in away.parameters} == {(torch.float32, "cpu")}
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(vlm.model.parameters(), away.parameters, strict=True))
    assert gradients and all(gradient is None for gradient in gradients)
    assert distance(away.parameters, plain.parameters, load(checkpoint).model.parameters()) < 0.5


def test_steps_too_small_for_bfloat16_add_up_and_are_saved(checkpoint, tmp_path):
    vlm = load(checkpoint, dtype="bfloat16")
    away = policy(vlm, offload=True, **BF16)
    learn(away, lr=1e-6)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    start, master = load(checkpoint).model.get_parameter(name), vlm.masters[name]
    moved = (master - start).abs()
    assert 1e-6 < moved.max() < 4e-6
    assert (vlm.model.get_parameter(name) == start.bfloat16()).float().mean() > 0.99

    save_model(vlm, tmp_path / "model", DATA)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(saved[name.replace("language_model.", "")], master)


def test_offloaded_adapters_are_saved_as_their_masters(checkpoint, tmp_path):
    vlm = load(checkpoint, lora_rank=4, dtype="bfloat16")
    away = policy(vlm, offload=True, **BF16)
    learn(away)
    save_model(vlm, tmp_path / "model", DATA)
    layer = "model.language_model.layers.0.mlp.up_proj"
    a, b = (vlm.masters[f"{layer}.lora_{side}.default.weight"] for side in "AB")
    held = load_file(tmp_path / "model" / "adapter" / "adapter_model.safetensors")
    assert torch.equal(held[f"base_model.model.{layer}.lora_B.weight"], b)
    base = vlm.model.get_parameter(f"{layer}.base_layer.weight").float()
    merged = load_file(tmp_path / "model" / "model.safetensors")[f"{layer}.weight".replace("language_model.", "")]
    torch.testing.assert_close(merged, base + 16 / 4 * b @ a)


def test_a_checkpoint_of_bfloat16_weights_holds_their_masters(checkpoint, tmp_path):
    assert_resumes(lambda: policy(load(checkpoint, dtype="bfloat16"), offload=True, **BF16), tmp_path)


@pytest.mark.parametrize("offload", [False, True])
def test_a_refused_step_leaves_no_gradient_behind(checkpoint, offload):
    vlm = load(checkpoint)
    trained = policy(vlm, offload=offload)
    data = batch(group(vlm))
    poisoned = [replace(each, loss_weights=each.loss_weights * math.nan) for each in data.groups]
    with pytest.raises(UserError, match="not finite"):
        trained.update(replace(data, groups=tuple(poisoned)))
    assert all(p.grad is None for p in [*trained.parameters, *vlm.model.parameters()])
    assert equal(logprobs(vlm), logprobs(load(checkpoint)))
