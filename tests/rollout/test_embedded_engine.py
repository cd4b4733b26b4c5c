"""The embedded engine against transformers' own generate, the policy's forward, and brute force."""

import math
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from embedded_engine import engine, prompts, same_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_graph import refuse_waiting, use_recorded_graphs
from tiny import (
    FAMILIES,
    IMAGE,
    SHARING,
    STOP,
    VIDEO,
    group_of,
    plain_copy,
    plain_logprobs,
    random_model,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from observe_r1.config import ObjectiveSettings, OptimizerSettings, SamplerSettings
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Sampling
from observe_r1.rollout.decode_layout import DecodeLayout, PrefillLayout
from observe_r1.rollout.embedded import EmbeddedEngine, _Batch
from observe_r1.rollout.engine import next_tokens, response_uniforms


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_agree_with_transformers_under_temperature(family):
    sampler, sampling = engine(family), Sampling(n=3, temperature=0.8, max_new_tokens=20, seed=1)
    reference = plain_copy(sampler.vlm)
    for prompt, group in zip(prompts(), sampler.generate(prompts(), sampling), strict=True):
        for completion in group:
            with torch.no_grad():
                expected = plain_logprobs(reference, prompt, completion.ids, 0.8)
            torch.testing.assert_close(completion.logprobs, expected, atol=1e-4, rtol=0)


def test_finished_responses_are_counted_while_others_are_sampled():
    sampler, seen = engine(max_rows=6), []
    for _ in range(2):
        before = sampler.finished
        sampler.generate(prompts(), Sampling(n=3, max_new_tokens=12, seed=1), lambda *_: seen.append(sampler.finished))
        assert sampler.finished - before == 3 * len(prompts())
    assert seen == sorted(seen) and len(set(seen)) > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_transformers_generates(family):
    sampler = engine(family, seed=5)
    reference = plain_copy(sampler.vlm).eval()
    for prompt, (completion,) in zip(
        prompts(), sampler.generate(prompts(), Sampling(temperature=0, max_new_tokens=15)), strict=True
    ):
        reference.model.rope_deltas = None
        images = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid}
        expected = reference.generate(
            input_ids=prompt.ids[None],
            attention_mask=torch.ones_like(prompt.ids)[None],
            mm_token_type_ids=prompt.token_types[None],
            **(images if prompt.pixel_values is not None else {}),
            max_new_tokens=15,
            do_sample=False,
            eos_token_id=STOP,
            pad_token_id=0,
            suppress_tokens=[IMAGE, VIDEO],
        )[0, len(prompt.ids) :]
        assert completion.ids.tolist() == expected.tolist()


@pytest.mark.parametrize(("family", "max_rows"), [*(("qwen2_5_vl", n) for n in (1, 3, 5, 64)), ("qwen3_5", 64)])
def test_a_response_does_not_depend_on_the_batch(family, max_rows):
    sampling = Sampling(n=3, max_new_tokens=25, seed=7)
    together = engine(family, max_rows).generate(prompts(), sampling)
    for i, prompt in enumerate(prompts()):
        alone = engine(family).generate([prompt], sampling)[0]
        assert [c.ids.tolist() for c in together[i]] == [c.ids.tolist() for c in alone]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_5"])
def test_a_response_does_not_depend_on_when_it_is_read(family):
    """Reading late drops what was drawn beyond an end; no response is longer, shorter or another for it."""
    sampling = Sampling(n=3, max_new_tokens=45, stop=("ab", "Q"), seed=2)
    expected = engine(family, 9).generate(prompts(), sampling)
    assert {c.finish for c in chain(*expected)} == {"stop", "length"}
    for steps in (3, 100):
        sampler, seen = engine(family, 9), {}
        sampler.steps_ahead = steps
        same_tokens(sampler.generate(prompts(), sampling, seen.setdefault), expected)
        assert sampler.finished == 3 * len(prompts()) and sorted(seen) == list(range(len(prompts())))


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize(("max_rows", "steps_ahead"), [(7, 1), (64, 8)])
def test_replayed_steps_draw_the_same_tokens(monkeypatch, family, max_rows, steps_ahead):
    """A graph repeats its operations on its tensors; new ones, when storage grows and rows come and go, are noticed."""
    graphs = use_recorded_graphs(monkeypatch)
    sampling = Sampling(n=3, max_new_tokens=150, seed=4)
    expected = engine(family, max_rows).generate(prompts(), sampling)
    sampler = engine(family, max_rows)
    sampler.cuda_graphs, sampler.steps_ahead = True, steps_ahead
    same_tokens(sampler.generate(prompts(), sampling), expected)
    replays = [graph.replays for graph in graphs]
    assert len(replays) > 4 and sum(replays) > 100 and max(replays) > 20


@pytest.mark.parametrize(
    ("device", "asked", "quantized", "graphs", "ahead"),
    [
        ("cpu", True, False, False, 1),
        ("cuda", True, False, True, 8),
        ("cuda", False, False, False, 8),
        ("cuda", True, True, False, 8),  # bitsandbytes' kernels may wait for the device, which no graph can
    ],
)
def test_graphs_are_for_gpus_and_weights_that_are_not_quantized(device, asked, quantized, graphs, ahead):
    vlm = SimpleNamespace(device=torch.device(device), model=SimpleNamespace(is_quantized=quantized))
    sampler = EmbeddedEngine.from_settings(vlm, SamplerSettings(cuda_graphs=asked), None, torch.bfloat16)
    assert (sampler.cuda_graphs, sampler.steps_ahead) == (graphs, ahead)


class StaysOnDevice(TorchDispatchMode):
    """Refuses what waits for the device, and operations between it and the CPU, which may do what it likes alone."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        assert len(kinds) < 2, f"{function} is between the CPU and the device"
        if kinds == {"meta"}:
            refuse_waiting(function)
        return result


@pytest.mark.parametrize(
    ("dtype", "sampling"),
    [
        (torch.float32, Sampling(n=3, max_new_tokens=90)),
        (torch.float32, Sampling(temperature=0)),
        (torch.bfloat16, Sampling(n=2, temperature=0.7, top_p=0.9, top_k=5)),
    ],
)
def test_a_step_does_not_wait_for_the_device(monkeypatch, dtype, sampling):
    """On a device without data (`meta`): whoever asks it for a number, or for a length that depends on one, fails."""
    sampler = EmbeddedEngine(random_model(dtype=dtype))
    for prompt in prompts():
        sampler.add(prompt, sampling, None)
    batch = _Batch(sampler, sampler._waiting, sampling)
    with torch.no_grad():
        batch._admit()
        for _ in range(127):
            batch._step()
        batch.vlm.model.to("meta")
        for part in (batch, batch.cache.layout):
            for name, value in vars(part).items():
                if name in ("keys", "values", "prompt_keys", "prompt_values"):
                    setattr(part, name, [states.to("meta") for states in value])
                elif isinstance(value, torch.Tensor) and name not in ("lengths", "owner", "prompt_lengths"):
                    setattr(part, name, value.to("meta"))
        batch.cache.layout.device = torch.device("meta")
        monkeypatch.delattr(torch, "tensor")  # Python's numbers would have to be copied to the device
        with StaysOnDevice():
            for _ in range(3):  # the storage grows
                batch._step()
    assert len(batch.unread) == 130 and batch.ids.is_meta and batch.cache.layout.keys[0].shape[2] == 256


def test_bfloat16_scores_are_not_rounded():
    """Against float64 on the same keys and values, with scores to 40: only weights and the result are rounded."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).bfloat16()

    layout, prefill = DecodeLayout(torch.device("cpu"), whole=False), PrefillLayout([9, 40], torch.device("cpu"))
    prefill.keys, prefill.values = [random(2, 49, 16) * 3], [random(2, 49, 16)]
    layout.admit(prefill, 3)
    keys, values = (list(stored[0].split([9, 40], dim=1) * 1) for stored in (prefill.keys, prefill.values))
    keys, values = ([one[n // 3] for n in range(6)] for one in (keys, values))
    largest = 0.0
    for _ in range(20):
        layout.make_room()
        layout.begin_token()
        query, key, value = random(6, 4, 1, 16) * 3, random(6, 2, 1, 16) * 3, random(6, 2, 1, 16)
        output = layout.attend(query, key, value, 16**-0.5, 0)
        layout.end_token()
        for n in range(6):
            keys[n], values[n] = torch.cat([keys[n], key[n]], dim=1), torch.cat([values[n], value[n]], dim=1)
            grouped = query[n].double().view(2, 2, 16)
            scores = grouped @ keys[n].double().transpose(1, 2) * 16**-0.5
            expected = (scores.softmax(2) @ values[n].double()).view(4, 1, 16)
            largest = max(largest, float(scores.abs().max()))
            torch.testing.assert_close(output[n].double(), expected, atol=2**-8, rtol=2**-8)
        assert output.dtype == torch.bfloat16
    assert largest > 30


def test_seed_prompt_and_number_each_give_another_stream():
    base = Sampling(n=2, max_new_tokens=8)
    streams = [
        response_uniforms(base, 0, 0),
        response_uniforms(base, 0, 1),
        response_uniforms(base, 1, 0),
        response_uniforms(Sampling(n=2, max_new_tokens=8, seed=1), 0, 0),
    ]
    assert len({tuple(s.tolist()) for s in streams}) == 4
    torch.testing.assert_close(response_uniforms(base, 0, 0), streams[0])


def test_prompts_and_their_images_are_computed_once(monkeypatch):
    sampler = engine()
    tokens, pixels = [], []
    model = sampler.vlm.model
    model.model.visual.patch_embed.register_forward_hook(lambda _, args, out: pixels.append(len(out)))
    model.model.language_model.register_forward_hook(
        lambda _, args, kwargs, out: tokens.append(kwargs["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    sampler.generate(prompts(), Sampling(n=8, max_new_tokens=4))
    assert sum(pixels) == sum(len(p.pixel_values) for p in prompts() if p.pixel_values is not None)
    assert tokens[0] == sum(len(p.ids) for p in prompts())
    assert all(count <= 4 * 8 for count in tokens[1:])


def test_placeholders_are_never_sampled():
    sampler = engine()
    with torch.no_grad():
        sampler.vlm.model.lm_head.weight[[IMAGE, VIDEO]] *= 40
    sampled = torch.cat([c.ids for g in sampler.generate(prompts(), Sampling(n=8, max_new_tokens=12)) for c in g])
    assert not torch.isin(sampled, torch.tensor([IMAGE, VIDEO])).any()


def test_ends_at_stop_token_stop_string_or_limit():
    sampler = engine()
    free = [c for g in sampler.generate(prompts(), Sampling(n=16, max_new_tokens=60)) for c in g]
    stopped = [c for c in free if c.finish == "stop"]
    assert stopped and all(c.ids[-1] == STOP and STOP not in c.ids[:-1] for c in stopped)
    assert all(len(c.ids) == 60 for c in free if c.finish == "length")

    longest = max(free, key=lambda c: len(c.text))
    mark = longest.text[10:12]
    cut = [c for g in sampler.generate(prompts(), Sampling(n=16, max_new_tokens=60, stop=(mark,))) for c in g]
    for before, after in zip(free, cut, strict=True):
        expected = before.text.find(mark)
        assert after.text == (before.text if expected < 0 else before.text[: expected + 2])
        assert after.finish == ("stop" if expected >= 0 else before.finish)


def test_groups_are_reported_once_when_complete():
    sampler, seen = engine(max_rows=4), {}
    result = sampler.generate(prompts(), Sampling(n=3, max_new_tokens=30), lambda i, g: seen.setdefault(i, g))
    assert {i: [c.text for c in g] for i, g in seen.items()} == {i: [c.text for c in g] for i, g in enumerate(result)}


def test_completions_bear_the_version_of_the_weights():
    sampler = engine()
    sampler.version = 3
    assert {c.version for g in sampler.generate(prompts(), Sampling(max_new_tokens=2)) for c in g} == {3}


@settings(max_examples=60)
@given(
    logits=st.lists(st.floats(-6, 6), min_size=4, max_size=12),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1),
    temperature=st.floats(0.2, 3),
)
def test_truncated_distribution_matches_brute_force(logits, top_k, top_p, temperature):
    """Sweep the uniform over a fine grid: frequencies must be the probabilities computed token by token."""
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    row = torch.tensor(logits)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    tokens, logprobs = next_tokens(row.expand(4000, -1), grid, sampling, suppressed_ids=torch.tensor([1]))

    weights = [0.0 if i == 1 else math.exp(float(x) / temperature) for i, x in enumerate(row.tolist())]
    ranked = sorted((i for i in range(len(weights)) if i != 1), key=lambda i: -weights[i])
    if top_k:
        ranked = [i for i in ranked if weights[i] >= weights[ranked[min(top_k, len(ranked)) - 1]]]
    total, kept, mass = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if mass < top_p * (1 - 1e-9) or top_p == 1:
            kept.append(i)
        mass += weights[i] / total
    expected = {i: weights[i] / sum(weights[j] for j in kept) for i in kept}
    for i in range(len(weights)):
        share = float((tokens == i).float().mean())
        assert abs(share - expected.get(i, 0.0)) < 2e-3 or _on_the_edge(weights, ranked, top_p)
    if not _on_the_edge(weights, ranked, top_p):
        for token, logprob in {(t, round(lp, 5)) for t, lp in zip(tokens.tolist(), logprobs.tolist(), strict=True)}:
            assert abs(math.log(expected[token]) - logprob) < 1e-3


def _on_the_edge(weights, ranked, top_p):
    """Whether float32 and Python may cut the nucleus, or break a tie, at different tokens."""
    total, mass = sum(weights[i] for i in ranked), 0.0
    ties = len({weights[i] for i in ranked}) < len(ranked)
    for i in ranked:
        mass += weights[i] / total
        if abs(mass - top_p) < 1e-5:
            return True
    return ties


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_scores_what_the_engine_sampled(family):
    sampler = engine(family, seed=9)
    groups = [
        group_of(p, g)
        for p, g in zip(
            prompts(),
            sampler.generate(prompts(), Sampling(n=4, temperature=1.3, max_new_tokens=30)),
            strict=True,
        )
    ]
    scored = LogprobModel(sampler.vlm, OptimizerSettings(), temperature=1.3).logprobs(groups)
    sampled = [torch.cat([c.logprobs for c in g.completions]) for g in groups]
    torch.testing.assert_close(scored, tuple(sampled), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_policy_agrees_with_the_engine_in_bfloat16(family):
    """With scores and logits rounded to bfloat16, too, the mean difference would be over 0.04."""
    vlm = random_model(family, dtype=torch.bfloat16, scale=0.5, seed=5)
    policy = Policy(vlm, OptimizerSettings(), ObjectiveSettings(), dtype=torch.bfloat16)
    completions = EmbeddedEngine(vlm).generate(prompts(), Sampling(n=8, max_new_tokens=60, seed=2))
    scored = policy.logprobs([group_of(p, group) for p, group in zip(prompts(), completions, strict=True)])
    sampled = torch.cat([c.logprobs for c in chain(*completions)])
    assert float((torch.cat(scored) - sampled).abs().mean()) < 0.03
