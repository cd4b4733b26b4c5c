"""The image tower with all segments in one call says the same as transformers' loop over them."""

from itertools import pairwise

import pytest
import torch
from tiny import FAMILIES, random_group, random_model
from torch._dynamo.testing import CompileCounter

from observe_r1.model import families, flex_attention
from observe_r1.model.families import use_flash_segments
from observe_r1.model.forward import encode_images


@pytest.fixture(autouse=True)
def _traced_only(monkeypatch):
    """Traced but not lowered, which needs no C++ compiler."""
    compiled = torch.compile(flex_attention.flex_attention, backend=CompileCounter(), dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex_attention, "_compiled", lambda: compiled)
    yield
    torch._dynamo.reset()


def features(vlm, prompts):
    with torch.no_grad():
        output = encode_images(vlm, prompts)
    return [*output.pooler_output, *(torch.cat(level) for level in output.deepstack_features)]


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_at_once_equal_one_after_the_other(monkeypatch, family):
    vlm = random_model(family, dtype=torch.float32, scale=0.1)
    grids = [[(4, 6), (8, 4)], [(16, 14)]]
    prompts = [random_group(g, [1], seed=i, dtype=torch.float32).prompt for i, g in enumerate(grids)]
    expected, made = features(vlm, prompts), []

    def make(runs, device):
        made.append([run.start for run in runs])
        return make_block_mask(runs, device)

    make_block_mask = flex_attention.make_block_mask
    monkeypatch.setattr(flex_attention, "make_block_mask", make)
    use_flash_segments(vlm.model)
    torch.testing.assert_close(features(vlm, prompts), expected, atol=1e-5, rtol=1e-5)
    images = [0, 24, 56]
    windowed = family == "qwen2_5_vl"
    assert made[-1] == images and len(made) == 1 + windowed
    assert not families._masks


def test_the_mask_is_the_segment():
    boundaries = torch.tensor([0, 16, 200, 201, 384, 640])
    segment = torch.arange(5).repeat_interleave(boundaries.diff())
    runs = [flex_attention.Run(a, b, a, b) for a, b in pairwise(boundaries.tolist())]
    mask = flex_attention.make_block_mask(runs, torch.device("cpu"))
    tokens = torch.arange(640)
    assert torch.equal(mask.mask_mod(None, None, tokens[:, None], tokens), segment[:, None] == segment)
    assert mask.full_kv_num_blocks[0, 0].tolist() == [0, 0, 1, 2, 2, 0, 0, 0]
    assert mask.kv_num_blocks[0, 0].tolist() == [2, 3, 1, 0, 0, 0, 0, 0]
