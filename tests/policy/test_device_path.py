"""A forward and backward pass as they run on CUDA, on a device without numbers (`meta`).

FlashAttention's call, products that end in float32 and fused norms are those of a GPU; FlexAttention, which has tests
of its own, is left out. Whoever mixes devices or types, or waits for the device, fails.
"""

from dataclasses import replace

import pytest
import torch
from recorded_graph import refuse_waiting
from tiny import random_group, random_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.model import flex_attention
from observe_r1.model.families import use_fused_norms
from observe_r1.model.image_tower import use_flash_segments
from observe_r1.objective import policy_loss
from observe_r1.policy.packing import ResponseSpan, build_pack
from observe_r1.policy.policy import Policy

META = torch.device("meta")
PATCHES = 64


class OnDevice(TorchDispatchMode):
    """Refuses operations between the CPU and the device, aside from single numbers, and those that wait for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors if tensor.ndim or tensor.is_meta}
        assert len(kinds) < 2, f"{function} is between the CPU and the device"
        if kinds == {"meta"}:
            refuse_waiting(function)
        return result


def attend(query, key, value, mask, scaling):
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16 and mask is META
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    return query * key + value


def one_image(family):
    """The tower's arguments for one image; what it counts on the CPU is given to it."""
    boundaries = torch.empty(5, dtype=torch.int32, device=META)
    given = {"position_ids": torch.empty(PATCHES, 2, dtype=torch.long, device=META)}
    given |= {"cu_seqlens": boundaries, "max_seqlen": PATCHES}
    if family == "qwen2_5_vl":
        windows = {"window_index": torch.empty(PATCHES // 4, dtype=torch.long, device=META), "max_window_seqlen": 16}
        given |= windows | {"cu_window_seqlens": boundaries}
    if family == "qwen3_vl":
        places = torch.empty(PATCHES, 4, dtype=torch.long, device=META)
        given |= {"interp_indices": places, "interp_weights": torch.empty(PATCHES, 4, device=META)}
    pixels, grid = torch.empty(PATCHES, 1176, device=META), torch.empty(1, 3, device=META)
    return {"hidden_states": pixels, "grid_thw": grid} | given


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_nothing_leaves_the_device_and_gradients_are_float32(monkeypatch, family):
    vlm = random_model(family, dtype=torch.float32)
    groups = [random_group([], [5, 9, 3], seed=1, dtype=torch.float32), random_group([], [4], dtype=torch.float32)]
    pack = build_pack(vlm, groups, (ResponseSpan(0, 0, 3), ResponseSpan(1, 0, 1)))
    use_fused_norms(vlm.model)
    use_flash_segments(vlm.model)
    vlm.model.to(META)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = Policy(vlm, OptimizerSettings(), ObjectiveSettings(kl_in="loss"), dtype=torch.bfloat16)
    pack.layout.device = META
    moved = {name: getattr(pack, name).to(META) for name in ("ids", "positions", "predictors", "targets")}

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta))
    monkeypatch.setattr(flex_attention, "make_block_mask", lambda runs, device: device)
    monkeypatch.setattr(flex_attention, "flex_attend", attend)
    with OnDevice():
        scores = trained.logprob_model.score(replace(pack, **moved))
        names = ("advantages", "weights", "sampler_logprobs", "old_logprobs", "reference_logprobs", "kl_weights")
        streams = {name: torch.empty_like(scores.logprobs, requires_grad=False) for name in names}
        loss, sums = policy_loss(scores.logprobs, objective=trained.objective, **streams)
        loss.backward()
        images = vlm.model.model.visual(**one_image(family))
        said = [images.pooler_output, *getattr(images, "deepstack_features", [])]
        sum(each.sum() for each in said).backward()
        trained.publish()
    assert {(each.dtype, each.device) for each in (scores.logprobs, scores.entropy)} == {(torch.float32, META)}
    assert {each.dtype for each in said} == {torch.bfloat16} and {value.device for value in sums.values()} == {META}
    assert {(p.grad.dtype, p.grad.device) for p in trained.parameters} == {(torch.float32, META)}
