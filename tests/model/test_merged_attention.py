"""Attention in merged parts against the softmax written out over the whole sequence, gradients included."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.model import merged_attention
from observe_r1.model.merged_attention import Stretch, parts
from observe_r1.model.shared_prefix import PackedLayout

CPU = torch.device("cpu")
GROUPS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 7), max_size=4)), min_size=1, max_size=4)


def visible(prompts, responses):
    """(T, T): who sees whom, token by token."""
    owners = [
        (group, number)
        for group, (prompt, lengths) in enumerate(zip(prompts, responses, strict=True))
        for number, length in enumerate([prompt, *lengths])
        for _ in range(length)
    ]
    return torch.tensor(
        [
            [k <= q and group == theirs and whose in (0, number) for k, (theirs, whose) in enumerate(owners)]
            for q, (group, number) in enumerate(owners)
        ]
    )


def written_out(query, key, value, mask, scaling):
    """Softmax over all T² scores; (1, H, T, D)."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=3) @ value


def states(tokens, heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, heads, tokens, 8), (1, 2, tokens, 8), (1, 2, tokens, 8)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(2 * each).to(dtype).requires_grad_() for each in drawn]


@given(groups=GROUPS, heads=st.sampled_from([2, 4]), slack=st.sampled_from([0, 2, 64]))
@settings(max_examples=60)
def test_output_and_gradients_are_those_of_the_softmax_written_out(groups, heads, slack):
    prompts, responses = [prompt for prompt, _ in groups], [lengths for _, lengths in groups]
    layout = PackedLayout(prompts, responses, CPU)
    inputs = states(layout.tokens, heads)
    with patch.object(merged_attention, "_SLACK", slack):  # how runs are put into batches
        ours = layout.attend(*inputs, 0.3, 0)
    theirs = written_out(*inputs, visible(prompts, responses), 0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(1))
    for mine, expected in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        assert layout.attend(*inputs, 0.3, 0).equal(ours)


@given(lengths=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=30))
def test_every_pair_stands_in_one_batch_beside_pairs_of_like_lengths(lengths):
    queries, keys = zip(*lengths, strict=True)
    pairs = [
        (Stretch(1000 * i, query), Stretch(1000 * i + 50_000, key))
        for i, (query, key) in enumerate(zip(queries, keys, strict=True))
    ]
    found = []
    for part in parts(pairs, causal=False):
        for rows in (part.queries, part.keys):
            shortest, longest = int(rows.real.sum(1).min()), rows.real.shape[1]
            assert shortest >= 7 / 8 * longest or shortest >= longest - 64
        starts = part.queries.index[:, 0].tolist(), part.keys.index[:, 0].tolist()
        sizes = part.queries.real.sum(1).tolist(), part.keys.real.sum(1).tolist()
        found += [
            (Stretch(*query), Stretch(*key))
            for query, key in zip(*(zip(*each, strict=True) for each in zip(starts, sizes, strict=True)), strict=True)
        ]
    assert sorted(found) == pairs


def test_a_token_that_sees_much_more_in_one_part_than_in_the_other():
    """Sums of exponentials e⁶⁰ apart: merged in logarithms, nothing overflows or is lost."""
    layout = PackedLayout([3], [[2, 2]], CPU)
    query, key, value = (each.detach() for each in states(layout.tokens, 2))
    key[:, :, :3] *= 30
    expected = written_out(query, key, value, visible([3], [[2, 2]]), 1.0)
    torch.testing.assert_close(layout.attend(query, key, value, 1.0, 0), expected, rtol=1e-12, atol=1e-12)


def test_prompts_with_one_response_each_take_one_call():
    layout = PackedLayout([3, 4], [[2], [5]], CPU)
    with patch.object(merged_attention, "_flash", wraps=merged_attention._flash) as flash:
        layout.attend(*states(layout.tokens, 2), 0.3, 0)
    assert flash.call_count == 1


def test_bfloat16_is_as_near_as_its_rounding():
    layout = PackedLayout([40, 9], [[30, 17, 1], [5]], CPU)
    inputs = states(layout.tokens, 4, torch.bfloat16)
    ours = layout.attend(*inputs, 0.3, 0)
    exact = written_out(*(each.double() for each in inputs), visible([40, 9], [[30, 17, 1], [5]]), 0.3)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.double(), exact, rtol=0.02, atol=0.02)
    ours.float().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in inputs)


@pytest.mark.parametrize("responses", [2, 16])
def test_what_the_backward_pass_needs_does_not_grow_with_responses_times_prompt(responses):
    layout = PackedLayout([500], [[3] * responses], CPU)
    inputs, kept = states(layout.tokens, 4), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layout.attend(*inputs, 0.3, 0)
    per_token = 4 * 8 + 2 * 8 + 2 * 8 + 4 * 8 + 4  # query, key, value, output, sums
    assert sum(kept.values()) == layout.tokens * per_token
