"""The image tower as it runs here says what transformers' own says: patches as a product, all segments in one call."""

from itertools import pairwise

import pytest
import torch
from tiny import FAMILIES, plain_copy, random_group, random_model
from torch import nn
from torch.nn import functional as F

from observe_r1.model import image_tower
from observe_r1.model.forward import encode_images
from observe_r1.model.image_tower import FLASH_SEGMENTS, flash_segments, prepare_tower, use_flash_segments

GRIDS = [[(4, 6), (8, 4)], [(16, 14)]]


def prompts(dtype):
    return [random_group(grids, [1], seed=i, dtype=dtype).prompt for i, grids in enumerate(GRIDS)]


def features(vlm, prompts):
    output = encode_images(vlm, prompts)
    return torch.cat(
        [image.flatten() for level in (output.pooler_output, *output.deepstack_features) for image in level]
    )


def gradients(model, said):
    """Of the tower's parameters, for one random direction."""
    model.zero_grad()
    said.mul(torch.randn(said.shape, dtype=said.dtype, generator=torch.Generator().manual_seed(9))).sum().backward()
    return {name: p.grad for name, p in model.model.visual.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_as_a_product_are_those_of_the_convolution(family):
    vlm = random_model(family)
    ours = vlm.model.model.visual.patch_embed
    if ours.proj.bias is not None:
        nn.init.normal_(ours.proj.bias)
    theirs = plain_copy(vlm).model.visual.patch_embed
    assert isinstance(theirs.proj, nn.Conv3d) and not isinstance(ours.proj, nn.Conv3d)
    assert (ours.proj.bias is None) == (family in ("qwen2_vl", "qwen2_5_vl"))
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(60, 1176, dtype=torch.float64, generator=generator)
    upstream = torch.randn(60, 32, dtype=torch.float64, generator=generator)
    made = []
    for embedding in (ours, theirs):
        embedding.zero_grad()
        given = pixels.clone().requires_grad_()
        output = embedding(given)
        output.backward(upstream)
        made.append([output.detach(), given.grad, *(p.grad for p in embedding.parameters())])
    assert len(made[0]) == (3 if ours.proj.bias is None else 4)
    torch.testing.assert_close(*made, atol=1e-12, rtol=1e-12)


def test_the_patch_embedding_is_a_product_in_bfloat16_too_and_under_autocast():
    vlm = random_model(dtype=torch.float32)
    pixels = torch.randn(60, 1176, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = vlm.model.model.visual.patch_embed(pixels)
    expected = pixels.bfloat16() @ vlm.model.model.visual.patch_embed.proj.weight.flatten(1).bfloat16().T
    assert output.dtype == torch.bfloat16 and torch.equal(output, expected)


def each_segment_alone(query, key, value, starts, key_starts, longest, longest_key, *, scale):
    """`varlen_attn` written out, with what its CUDA kernel asks for (torch's `flash_api.cpp`)."""
    assert starts is key_starts and starts.dtype == torch.int32 and starts.is_contiguous()
    assert type(longest) is int and longest == longest_key == int(starts.diff().max())
    for states in (query, key, value):
        assert states.shape == query.shape and states.shape[0] == starts[-1]
        assert states.stride(-1) == 1 and states.dtype == value.dtype and states.shape[-1] % 8 == 0
    outputs = [
        F.scaled_dot_product_attention(*(s[a:b].transpose(0, 1) for s in (query, key, value)), scale=scale)
        for a, b in pairwise(starts.tolist())
    ]
    return torch.cat([output.transpose(0, 1) for output in outputs])


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_at_once_equal_one_after_the_other(monkeypatch, family):
    vlm, asked = random_model(family, scale=0.1), prompts(torch.float64)
    expected = features(vlm, asked)
    expected_gradients = gradients(vlm.model, expected)
    calls = []

    def attend(*arguments, **options):
        calls.append(arguments[3].tolist())
        return each_segment_alone(*arguments, **options)

    monkeypatch.setattr(image_tower, "varlen_attn", attend)
    use_flash_segments(vlm.model)
    said = features(vlm, asked)
    torch.testing.assert_close(said, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradients(vlm.model, said), expected_gradients, atol=1e-9, rtol=1e-9)
    assert len(calls) == 2 and calls[1] == [0, 24, 56, 280]  # two layers, the second over whole images in each family
    assert len(calls[0]) > 4 if family == "qwen2_5_vl" else calls[0] == calls[1]


def test_segments_under_autocast_are_bfloat16(monkeypatch):
    vlm, types = random_model(dtype=torch.float32, scale=0.1), []

    def attend(query, *arguments, **options):
        types.append(query.dtype)
        return each_segment_alone(query, *arguments, **options)

    monkeypatch.setattr(image_tower, "varlen_attn", attend)
    use_flash_segments(vlm.model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features(vlm, prompts(torch.float32))
    assert types == [torch.bfloat16] * 2


def test_torch_takes_the_call_as_it_is_made():
    """Through `varlen_attn` itself, forward and backward; on a device without numbers, as it has none for the CPU."""
    query, key, value = (torch.empty(1, 2, 40, 16, device="meta", requires_grad=True) for _ in range(3))
    boundaries = torch.empty(4, device="meta", dtype=torch.int32)
    output, weights = flash_segments(None, query, key, value.bfloat16(), None, 0.25, boundaries, 16, dropout=0.0)
    assert output.shape == (1, 40, 2, 16) and output.dtype == torch.bfloat16 and weights is None
    output.sum().backward()
    assert query.grad.shape == key.grad.shape == value.grad.shape == query.shape


@pytest.mark.parametrize(
    ("dtype", "cores", "width", "flash"),
    [
        (torch.bfloat16, True, 16, True),
        (torch.float32, True, 16, False),
        (torch.bfloat16, False, 16, False),
        (torch.bfloat16, True, 12, False),
    ],
)
def test_flash_attention_is_taken_where_it_exists(monkeypatch, dtype, cores, width, flash):
    model = random_model(dtype=torch.float32).model
    model.model.visual.blocks[0].attn.head_dim = width
    assert model.config.vision_config._attn_implementation == "sdpa"  # on the CPU
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr(image_tower, "has_tensor_cores", lambda device: cores)
    prepare_tower(model, dtype, torch.device("cuda"))
    assert (model.config.vision_config._attn_implementation == FLASH_SEGMENTS) == flash
