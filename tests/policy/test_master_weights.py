"""Float32 masters of bfloat16 weights, beside them and in the CPU's memory: what is held and computed in which type."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from learning import (
    DATA,
    assert_resumes,
    batch,
    distance,
    equal,
    group,
    learn,
    load,
    logprobs,
    policy,
    wide_checkpoint,
)
from safetensors.torch import load_file
from tiny import FAMILIES, group_of, random_group, random_model, random_prompt
from torch import nn
from torch.overrides import TorchFunctionMode

from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.model.saving import save_model
from observe_r1.policy import master_weights
from observe_r1.policy.policy import Policy
from observe_r1.records import Sampling
from observe_r1.rollout.embedded import EmbeddedEngine

BF16 = {"dtype": torch.bfloat16}
PLACES = pytest.mark.parametrize("offload", [False, True], ids=["device", "CPU"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return wide_checkpoint(tmp_path_factory.mktemp("masters"))


# In bfloat16


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}, {"gradient_checkpointing": True}], ids=str)
@PLACES
def test_all_of_a_forward_and_its_gradients_are_bfloat16(checkpoint, settings, offload):
    vlm = load(checkpoint, dtype="bfloat16", **settings)
    trained = policy(vlm, offload=offload, **BF16)
    held_in_bfloat16(vlm.model, trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family):
    vlm = random_model(family, dtype=torch.float32, scale=0.2)
    trained = Policy(vlm, OptimizerSettings(), ObjectiveSettings(), **BF16)
    held_in_bfloat16(vlm.model, trained, random_group([(4, 6)], [5, 9], dtype=torch.float32))


def held_in_bfloat16(model, trained, *groups):
    """One update, watched by hooks on every layer, norm, product and embedding."""
    forward, backward, gradients = {}, {}, {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Linear | nn.Embedding) or kind.endswith(("Norm", "DecoderLayer", "Block")):
            module.register_forward_hook(lambda m, i, output, n=name: forward.update({n: output.dtype}))
            if not isinstance(module, nn.Embedding):
                module.register_full_backward_hook(lambda m, i, output, n=name: backward.update({n: output[0].dtype}))
    names = {id(parameter): name for name, parameter in trained.weights.named_parameters()}

    def before_step(optimizer, *_):
        gradients.update({names[id(p)]: p.grad.dtype for p in trained.parameters if p.grad is not None})

    trained.optimizer.register_step_pre_hook(before_step)
    if groups:
        trained.update(batch(*groups))
    else:
        learn(trained, steps=1)
    assert len(forward) > 20 and set(forward.values()) == {torch.bfloat16}
    assert len(backward) > 20 and set(backward.values()) == {torch.bfloat16}
    assert len(gradients) > 20 and set(gradients.values()) == {torch.float32}
    assert {p.dtype for p in trained.parameters} == {torch.float32}


@PLACES
def test_the_model_holds_two_bytes_a_weight_and_no_gradient(checkpoint, offload):
    vlm = load(checkpoint, dtype="bfloat16")
    gradients = []
    trained = policy(vlm, offload=offload, **BF16)
    for parameter in vlm.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad))
    learn(trained)
    assert {parameter.dtype for parameter in vlm.model.parameters()} == {torch.bfloat16}
    assert {(parameter.dtype, parameter.device.type) for parameter in trained.parameters} == {(torch.float32, "cpu")}
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(vlm.model.parameters(), trained.parameters, strict=True))
    assert gradients and all(gradient is None for gradient in gradients)
    masters = {storage(m) for m in trained.parameters}
    assert masters.isdisjoint(storage(p) for p in vlm.model.parameters())


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@PLACES
def test_computing_in_bfloat16_goes_where_float32_goes(checkpoint, offload):
    exact, rounded = policy(load(checkpoint)), policy(load(checkpoint, dtype="bfloat16"), offload=offload, **BF16)
    learn(exact)
    learn(rounded)
    assert distance(rounded.parameters, exact.parameters, load(checkpoint).model.parameters()) < 0.5


@pytest.mark.parametrize("packs", [1, 4])
def test_gradients_of_packs_and_of_the_head_s_chunks_add_up_in_float32(packs):
    """Against the sum of their parts in float64: in bfloat16 it would be off by up to 1 in 256 at each addition."""

    def gradients(budget, chunk):
        vlm = random_model(dtype=torch.float32, scale=0.2)
        settings = OptimizerSettings(tokens_per_pack=budget, head_chunk=chunk, max_grad_norm=1e9)
        trained, seen, parts = Policy(vlm, settings, ObjectiveSettings(), **BF16), {}, {}
        for name, parameter in vlm.model.named_parameters():
            parameter.register_hook(lambda g, n=name: parts.setdefault(n, []).append(g.double()))

        def before_step(*_):
            seen.update({n: m.grad for n, m in trained.weights.named_parameters() if m.grad is not None})

        trained.optimizer.register_step_pre_hook(before_step)
        trained.update(batch(*(random_group([], [9, 7, 8], seed=i, dtype=torch.float32) for i in range(packs))))
        assert {len(each) for each in parts.values()} == {packs}
        for name, gradient in seen.items():
            torch.testing.assert_close(gradient.double(), sum(parts[name]), atol=1e-7, rtol=1e-6)
        return seen

    whole, chunked = gradients(40, 1000), gradients(40, 2)
    head = "lm_head.weight"
    torch.testing.assert_close(chunked[head], whole[head], atol=1e-8, rtol=1e-4)
    assert not torch.equal(chunked[head], chunked[head].bfloat16().float())


@PLACES
def test_steps_too_small_for_bfloat16_add_up_and_are_saved(checkpoint, tmp_path, offload):
    vlm = load(checkpoint, dtype="bfloat16")
    trained = policy(vlm, offload=offload, **BF16)
    learn(trained, lr=1e-6)
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    start, master = load(checkpoint).model.get_parameter(name), vlm.masters[name]
    moved = (master - start).abs()
    assert 1e-6 < moved.max() < 4e-6
    assert (vlm.model.get_parameter(name) == start.bfloat16()).float().mean() > 0.98

    save_model(vlm, tmp_path / "model", DATA)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(saved[name.replace("language_model.", "")], master)


@PLACES
def test_adapters_are_saved_as_their_masters(checkpoint, tmp_path, offload):
    vlm = load(checkpoint, lora_rank=4, dtype="bfloat16")
    learn(policy(vlm, offload=offload, **BF16))
    save_model(vlm, tmp_path / "model", DATA)
    layer = "model.language_model.layers.0.mlp.up_proj"
    a, b = (vlm.masters[f"{layer}.lora_{side}.default.weight"] for side in "AB")
    held = load_file(tmp_path / "model" / "adapter" / "adapter_model.safetensors")
    assert torch.equal(held[f"base_model.model.{layer}.lora_B.weight"], b)
    base = vlm.model.get_parameter(f"{layer}.base_layer.weight").float()
    merged = load_file(tmp_path / "model" / "model.safetensors")[f"{layer}.weight".replace("language_model.", "")]
    torch.testing.assert_close(merged, base + 16 / 4 * b @ a)


@PLACES
def test_a_run_in_bfloat16_resumes_bit_by_bit(checkpoint, tmp_path, offload):
    settings = {"offload": offload, "tokens_per_pack": 30}
    assert_resumes(lambda: policy(load(checkpoint, dtype="bfloat16"), **settings, **BF16), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampler_and_policy_agree_in_bfloat16(family):
    """0.02 nats on average and 0.25 at most, on random weights so wide that they spread rounding as no trained ones do.

    They compute the same in different shapes: what a residual stream of bfloat16 rounds differently stays.
    """
    vlm = random_model(family, dtype=torch.float32)
    scored = Policy(vlm, OptimizerSettings(), ObjectiveSettings(), **BF16)
    prompts = [random_prompt([(4, 6)], 5, torch.Generator().manual_seed(i), torch.float32) for i in range(3)]
    sampled = EmbeddedEngine(vlm).generate(prompts, Sampling(n=4, max_new_tokens=16))
    groups = [group_of(prompt, completions) for prompt, completions in zip(prompts, sampled, strict=True)]
    theirs = torch.cat([c.logprobs for completions in sampled for c in completions])
    difference = (torch.cat(scored.logprobs(groups)) - theirs).abs()
    assert 0 < difference.mean() < 0.02 and difference.max() < 0.25


# In the CPU's memory


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}, {"freeze": ("model.visual",)}], ids=str)
def test_offloaded_in_float32_is_adamw_bit_by_bit(checkpoint, settings, monkeypatch):
    """Clipped, with gradients summed over several packs, and in many pieces."""
    monkeypatch.setattr(master_weights, "_PIECE", 1000)
    common = {"max_grad_norm": 0.01, "tokens_per_pack": 30, "weight_decay": 0.1}
    plain, away = (policy(load(checkpoint, **settings), offload=offload, **common) for offload in (False, True))
    assert learn(plain) == learn(away)
    assert equal(plain.parameters, away.parameters)
    assert equal(plain.vlm.model.parameters(), away.vlm.model.parameters())


class Late(TorchFunctionMode):
    """A device whose copies are done only when an event behind them is waited for: `torch.cuda`, as `_Bus` uses it."""

    def __init__(self):
        self.queued, self.done, self.most = [], 0, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.copy_ and (kwargs or {}).get("non_blocking"):
            self.queued.append(partial(function, *args))
            return args[0]
        return function(*args, **(kwargs or {}))

    def Stream(self):  # noqa: N802, torch's name
        return self

    def current_stream(self):
        return self

    def wait_stream(self, stream):
        pass

    def stream(self, stream):
        return nullcontext()

    def Event(self):  # noqa: N802, torch's name
        return LateEvent(self)


class LateEvent:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.behind = len(self.device.queued)
        self.device.most = max(self.device.most, self.behind - self.device.done)

    def synchronize(self):
        for copy in self.device.queued[self.device.done : self.behind]:
            copy()
        self.device.done = max(self.device.done, self.behind)


def test_no_buffer_is_used_before_its_copy_is_done(monkeypatch):
    monkeypatch.setattr(master_weights, "_PIECE", 5)
    monkeypatch.setattr(master_weights, "_SLOTS", 3)
    late, sizes = Late(), (3, 12, 40)
    monkeypatch.setattr(torch, "get_device_module", lambda device: late)
    bus = master_weights._Bus(torch.device("cpu"), torch.bfloat16)
    masters = [nn.Parameter(torch.randn(size)) for size in sizes]
    copies = [nn.Parameter(torch.zeros(size, dtype=torch.bfloat16)) for size in sizes]
    rounds = [[torch.randn(size).bfloat16() for size in sizes] for _ in range(3)]
    with torch.no_grad(), late:
        for gradients in rounds:
            for master, copy, gradient in zip(masters, copies, gradients, strict=True):
                copy.grad = gradient.clone()
                bus.fetch(master, copy)
                assert copy.grad is None
        assert late.done < len(late.queued), "it waits for every copy"
        bus.wait()
        for copy, master in zip(copies, masters, strict=True):
            bus.send(copy, master)
        bus.wait()
    assert late.most == 3
    for master, copy, gradients in zip(masters, copies, zip(*rounds, strict=True), strict=True):
        assert torch.equal(master.grad, sum(gradient.float() for gradient in gradients))
        assert torch.equal(copy, master.bfloat16())


def test_gradients_in_the_cpu_s_memory_keep_it(checkpoint):
    """Fresh memory is mapped page by page: filling it takes four times as long, and the device waits meanwhile."""
    trained, places = policy(load(checkpoint, dtype="bfloat16"), offload=True, **BF16), []
    trained.optimizer.register_step_pre_hook(lambda *_: places.append([storage(p.grad) for p in trained.parameters]))
    others = []
    for step in range(2):
        learn(trained, steps=1, first=step)
        others.append([torch.empty_like(parameter) for parameter in trained.parameters])  # take what was given back
    assert places[0] == places[1]


@PLACES
def test_a_refused_step_leaves_no_gradient_behind(checkpoint, offload):
    vlm = load(checkpoint)
    trained = policy(vlm, offload=offload)
    data = batch(group(vlm))
    poisoned = [replace(each, loss_weights=each.loss_weights * math.nan) for each in data.groups]
    with pytest.raises(UserError, match="not finite"):
        trained.update(replace(data, groups=tuple(poisoned)))
    assert all(p.grad is None for p in [*trained.parameters, *vlm.model.parameters()])
    assert equal(logprobs(vlm), logprobs(load(checkpoint)))
