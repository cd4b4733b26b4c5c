"""The block mask and the padded kernel call of the CUDA path, on the CPU: FlexAttention has its forward there."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_group, random_model
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_mask

from observe_r1.errors import UserError
from observe_r1.model import flex_attention, shared_prefix
from observe_r1.model.shared_prefix import PackedLayout
from observe_r1.policy.packing import ResponseSpan, build_pack, plan_packs
from observe_r1.policy.token_logprobs import TokenLogprobs

CPU = torch.device("cpu")
BLOCK = 128
AROUND_A_BLOCK = [127, 128, 129, 255, 256, 257]
lengths = st.one_of(st.integers(1, 300), st.sampled_from(AROUND_A_BLOCK))
groups = st.tuples(lengths, st.lists(st.one_of(st.just(0), lengths), max_size=4))
layouts = st.lists(groups, min_size=1, max_size=4).map(lambda g: PackedLayout(*zip(*g, strict=True), CPU))

LAYOUTS = {
    "one token": ([1], [[]]),
    "empty and one-token responses": ([5, 1, 9], [[4, 0, 3], [1, 1], [6, 0, 1]]),
    "around blocks": ([128, 127], [[128, 129, 0], [1, 256]]),
    "a bucket to the last token": ([400, 24], [[300, 200], [100]]),
    "prefill": ([300, 1, 128], [[], [], []]),
}


def visible(layout):
    """(T, T) of a bucket: one's own prompt and one's own response, nothing later; padding neither sees nor is seen."""
    mask = torch.zeros(2 * (flex_attention.bucket(layout.tokens),), dtype=torch.bool)
    start = 0
    for prompt, responses in zip(layout.prompts, layout.responses, strict=True):
        prompt_tokens, start = range(start, start + prompt), start + prompt
        mask[prompt_tokens, prompt_tokens.start : prompt_tokens.stop] = True
        for response in responses:
            own, start = range(start, start + response), start + response
            mask[own, prompt_tokens.start : prompt_tokens.stop] = True
            mask[own, own.start : own.stop] = True
    return mask.tril()


def listed(count, columns):
    """(rows, columns) bool from a block mask's ordered lists."""
    dense = torch.zeros(columns.shape[-2:], dtype=torch.bool)
    for row, (number, order) in enumerate(zip(count[0, 0].tolist(), columns[0, 0].tolist(), strict=True)):
        assert len(set(order[:number])) == number
        dense[row, order[:number]] = True
    return dense


@settings(max_examples=25)
@given(layouts)
def test_block_mask_is_the_rule(layout):
    mask, expected = layout.block_mask, visible(layout)
    assert mask.seq_lengths == expected.shape and mask.BLOCK_SIZE == (BLOCK, BLOCK)
    assert torch.equal(create_mask(mask.mask_mod, None, None, *expected.shape, device="cpu")[0, 0], expected)
    blocks = expected.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    full = blocks.all(dim=3).all(dim=1)
    partial_ = blocks.any(dim=3).any(dim=1) & ~full
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices), partial_)
    assert torch.equal(listed(mask.full_kv_num_blocks, mask.full_kv_indices), full)
    assert torch.equal(listed(mask.q_num_blocks, mask.q_indices), partial_.T)
    assert torch.equal(listed(mask.full_q_num_blocks, mask.full_q_indices), full.T)


@given(st.integers(1, 200_000))
def test_buckets_are_few_and_hold_their_sequence(tokens):
    length = flex_attention.bucket(tokens)
    assert tokens <= length < max(2 * tokens, 1025) and length % BLOCK == 0
    assert length.bit_count() == 1


@pytest.fixture
def compilations(monkeypatch):
    """Counts what is compiled; traced but not lowered, which needs no C++ compiler."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()
    yield counter
    flex_attention._compiled.cache_clear()
    torch._dynamo.reset()


def states(layout, dtype=torch.float32, width=16):
    """Query of four heads, key and value of two."""
    generator = torch.Generator().manual_seed(layout.tokens)
    return [torch.randn(1, heads, layout.tokens, width, generator=generator).to(dtype) for heads in (4, 2, 2)]


def attend(layout, query, key, value):
    with torch.no_grad():
        return flex_attention.flex_attend(query, key, value, layout.block_mask, 0.3)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_padded_attention_is_the_softmax_written_out(compilations, name, dtype, error):
    layout = PackedLayout(*LAYOUTS[name], CPU)
    query, key, value = states(layout, dtype)
    scores = query.float() @ key.float().repeat_interleave(2, dim=1).mT * 0.3
    scores = scores.masked_fill(~visible(layout)[: layout.tokens, : layout.tokens], float("-inf"))
    expected = scores.softmax(dim=-1) @ value.float().repeat_interleave(2, dim=1)
    output = attend(layout, query, key, value)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, atol=error, rtol=error)
    dense = layout.attend(query, key, value, 0.3, layer=0)
    torch.testing.assert_close(output, dense, atol=2 * error, rtol=2 * error)


def test_a_bucket_is_compiled_once(compilations):
    counts = []
    for prompt, response in [(5, 9), (300, 724), (300, 725), (1300, 748), (1300, 749)]:
        layout = PackedLayout([prompt], [[response]], CPU)
        attend(layout, *states(layout))
        counts.append(compilations.frame_count)
    assert counts == [1, 1, 2, 2, 3]


@pytest.fixture
def _backward_on_the_cpu(monkeypatch):
    """FlexAttention refuses it there, for want of a compiled kernel; written out, it has one."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


@pytest.mark.usefixtures("_backward_on_the_cpu")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_what_is_compiled_ahead_is_what_the_model_needs(compilations, monkeypatch, family):
    vlm, said = random_model(family, dtype=torch.float32, scale=0.2), []

    def on_the_cpu(*arguments):
        *before, _, note = arguments
        compile_ahead(*before, CPU, note)

    def attend(layout, query, key, value, scaling, layer):
        return flex_attention.flex_attend(query, key, value, layout.block_mask, scaling)

    monkeypatch.setattr(flex_attention, "_SMALLEST", BLOCK)
    compile_ahead = flex_attention.compile_kernels
    monkeypatch.setattr(flex_attention, "compile_kernels", on_the_cpu)
    shared_prefix.compile_ahead(vlm.model, 250, torch.float32, CPU, said.append)
    assert not said and compilations.frame_count == 0  # there are no kernels on the CPU
    nowhere = random_model(family).model.to("meta")  # as a rank has it, before it reads its part
    shared_prefix.compile_ahead(nowhere, 250, torch.float32, torch.device("cuda"), said.append)
    assert [line.rpartition(", ")[2] for line in said] == ["1 of 2", "2 of 2"]
    assert compilations.frame_count == 4

    monkeypatch.setattr(PackedLayout, "attend", attend)
    vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    scorer = TokenLogprobs(vlm, 1.0, chunk=64)
    for response in (5, 232):  # the second fills its bucket to the last token
        pack = build_pack(
            vlm, [random_group([(4, 4)], [response], text=19, dtype=torch.float32)], (ResponseSpan(0, 0, 1),)
        )
        with torch.no_grad():
            scorer(pack)
        scorer(pack).logprobs.sum().backward()
    assert pack.ids.shape == (1, 256) and compilations.frame_count == 4


@pytest.mark.parametrize(
    ("compiler", "headers", "said"),
    [(None, True, "a C compiler"), ("/usr/bin/gcc", False, "Python's headers"), ("/usr/bin/gcc", True, None)],
)
def test_what_triton_lacks_to_compile_is_one_line(monkeypatch, tmp_path, compiler, headers, said):
    def fail(*_):
        raise RuntimeError("InductorError: CalledProcessError")

    if headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(flex_attention.shutil, "which", lambda name: compiler)
    monkeypatch.setattr(flex_attention.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setattr(flex_attention, "flex_attend", fail)
    expected = pytest.raises(UserError, match=f"without {said}") if said else pytest.raises(RuntimeError, match="Ind")
    with expected:
        flex_attention.compile_kernels((4, 2), 16, 1, torch.float32, CPU, print)


def test_one_kernel_too_many_is_an_error_and_not_a_dense_computation(compilations, monkeypatch):
    monkeypatch.setattr(flex_attention, "_KERNELS", 1)
    layout = PackedLayout([1024], [[]], CPU)
    attend(layout, *states(layout))
    layout = PackedLayout([1024], [[1]], CPU)
    with pytest.raises(FailOnRecompileLimitHit):
        attend(layout, *states(layout))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_model_on_block_masks_says_the_same_and_makes_one_a_pack(compilations, monkeypatch, family):
    vlm = random_model(family, dtype=torch.float32, scale=0.2)
    data = [
        random_group([(4, 4)], [3, 5, 8], seed=1, dtype=torch.float32),
        random_group([(6, 8)], [7, 1, 2], seed=3, dtype=torch.float32),
    ]
    scorer = TokenLogprobs(vlm, 1.0, chunk=64)

    @torch.no_grad()
    def scores():
        return [scorer(build_pack(vlm, data, spans)).logprobs for spans in plan_packs(data, 30, shared=True)]

    expected, made = scores(), []

    def make(*arguments):
        made.append(arguments)
        return make_block_mask(*arguments)

    def attend(layout, query, key, value, scaling, layer):
        return flex_attention.flex_attend(query, key, value, layout.block_mask, scaling)

    make_block_mask = flex_attention.make_block_mask
    monkeypatch.setattr(flex_attention, "make_block_mask", make)
    monkeypatch.setattr(PackedLayout, "attend", attend)
    torch.testing.assert_close(scores(), expected, atol=1e-4, rtol=1e-4)
    assert len(made) == len(expected) > 1
