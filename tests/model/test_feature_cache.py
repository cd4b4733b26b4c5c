"""Features of a frozen image tower: the same as computed anew, computed once an image, within the bound."""

from dataclasses import replace

import pytest
import torch
from tiny import SHARING, random_group, random_model, random_prompt

from observe_r1.model.forward import encode_images
from observe_r1.model.image_tower import FeatureCache
from observe_r1.policy.packing import build_pack, plan_packs
from observe_r1.policy.token_logprobs import TokenLogprobs

GIB = 2**30


def frozen(family="qwen2_5_vl", gib=1.0, **model):
    """A model whose tower is frozen, and a list of how many patches each run of it was given."""
    vlm = replace(random_model(family, **model), features=FeatureCache(gib))
    vlm.model.model.visual.requires_grad_(False)
    runs = []
    vlm.model.model.visual.register_forward_hook(lambda _, args, out: runs.append(len(args[0])))
    return vlm, runs


def prompt(*grids, seed=0):
    return random_prompt(list(grids), 5, torch.Generator().manual_seed(seed), torch.float64)


def everything(output):
    return [*output.pooler_output, *(image for layer in output.deepstack_features for image in layer)]


@pytest.mark.parametrize("family", SHARING)
def test_kept_features_are_those_of_a_tower_that_runs_every_time(family):
    prompts = [prompt((4, 6), (8, 4), seed=1), prompt(seed=2), prompt((6, 4), seed=3)]
    expected = everything(encode_images(random_model(family), prompts))
    vlm, runs = frozen(family)
    for _ in range(3):
        torch.testing.assert_close(everything(encode_images(vlm, prompts)), expected)
    assert len(runs) == 3  # once an image
    assert len(expected) == (6 if family == "qwen3_vl" else 3)


@pytest.mark.parametrize("family", SHARING)
def test_the_policy_learns_the_same_from_kept_features(family):
    groups = [random_group([(4, 6)], [5, 3], seed=1), random_group([(4, 4), (6, 4)], [4], seed=2)]

    def gradients(vlm):
        scorer = TokenLogprobs(vlm, 1.0, chunk=8)
        (spans,) = plan_packs(groups, 10_000, shared=True)
        vlm.model.zero_grad()
        scorer(build_pack(vlm, groups, spans)).logprobs.sum().backward()
        return {n: p.grad.clone() for n, p in vlm.model.named_parameters() if p.grad is not None}

    trained = {n: g for n, g in gradients(random_model(family)).items() if "visual" not in n}
    vlm, runs = frozen(family)
    for _ in range(2):
        torch.testing.assert_close(gradients(vlm), trained)
    assert len(runs) == 3


def test_an_image_is_known_by_its_content():
    vlm, runs = frozen()
    first = prompt((4, 6), seed=1)
    other_question = replace(first, ids=first.ids.flip(0), stream=7, pixel_values=first.pixel_values.clone())
    turned = replace(first, image_grid=first.image_grid[:, [0, 2, 1]], image_digests=(b"another",))
    encode_images(vlm, [first, other_question])
    assert len(runs) == 1
    (kept,) = encode_images(vlm, [other_question]).pooler_output
    (other,) = encode_images(vlm, [turned]).pooler_output
    assert len(runs) == 2 and not torch.allclose(kept, other)


def test_each_image_is_encoded_by_itself():
    """Its features' last bits then depend on nothing else in the batch, before and after a resume alike."""
    vlm, runs = frozen()
    encode_images(vlm, [prompt((4, 6), (8, 8), seed=1), prompt((6, 4), seed=2)])
    assert runs == [24, 64, 24]


def test_the_bound_holds_and_what_was_used_longest_ago_goes_first():
    prompts = [prompt((4, 4), seed=seed) for seed in range(3)]
    size = 4 * 32 * 8  # 4 tokens of 32 float64 an image
    vlm, runs = frozen(gib=2.5 * size / GIB)
    for index, expected in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4), (2, 5)):
        encode_images(vlm, [prompts[index]])
        assert len(runs) == expected and vlm.features.used <= vlm.features.limit
    assert vlm.features.used == 2 * size


def test_without_room_every_call_runs_the_tower():
    vlm, runs = frozen(gib=0)
    for expected in (1, 2):
        (features,) = encode_images(vlm, [prompt((4, 4))]).pooler_output
        assert len(runs) == expected and features.shape == (4, 32) and vlm.features.used == 0


def test_a_tower_with_anything_to_train_is_never_kept():
    vlm, runs = frozen()
    weight = vlm.model.model.visual.blocks[0].attn.proj.weight
    (before,) = encode_images(vlm, [prompt((4, 4))]).pooler_output
    weight.requires_grad_(True)
    for _ in range(2):
        (trained,) = encode_images(vlm, [prompt((4, 4))]).pooler_output
        assert trained.requires_grad
    assert len(runs) == 3 and vlm.features.used == 0
    with torch.no_grad():
        weight.mul_(2)
    weight.requires_grad_(False)
    (after,) = encode_images(vlm, [prompt((4, 4))]).pooler_output
    assert not torch.allclose(after, before)


def test_models_do_not_share():
    (one, _), (other, runs) = frozen(seed=1), frozen(seed=2)
    (features,) = encode_images(one, [prompt((4, 4))]).pooler_output
    (others,) = encode_images(other, [prompt((4, 4))]).pooler_output
    assert len(runs) == 1 and not torch.allclose(features, others)


def test_each_compute_type_has_its_own():
    vlm, runs = frozen(dtype=torch.float32)
    image = random_prompt([(4, 4)], 5, torch.Generator().manual_seed(0), torch.float32)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (low,) = encode_images(vlm, [image]).pooler_output
        (high,) = encode_images(vlm, [image]).pooler_output
        assert low.dtype == torch.bfloat16 and high.dtype == torch.float32
    assert len(runs) == 2
