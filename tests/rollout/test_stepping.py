"""The embedded engine, step by step: prompts that come and go, and weights that change, while others are answered."""

import pytest
import torch
from embedded_engine import engine, prompts, same_tokens
from tiny import plain_copy, plain_logprobs

from observe_r1.records import Sampling


def test_two_calls_at_once_and_prompts_let_in_later_change_no_response():
    """One call comes while another's responses are in flight; it is drawn in another way, and waits for its turn."""
    sampler, greedy = engine(max_rows=6), Sampling(temperature=0, max_new_tokens=9)
    sampling, groups = Sampling(n=3, max_new_tokens=25, seed=7), {}
    expected, expected_greedy = engine().generate(prompts(), sampling), engine().generate(prompts(), greedy)
    first = [sampler.add(p, sampling, lambda g, i=i: groups.setdefault(i, g)) for i, p in enumerate(prompts()[:3])]
    for _ in range(5):
        sampler.step()
    same_tokens(sampler.generate(prompts(), greedy), expected_greedy)
    number = sampler.add(prompts()[3], sampling, lambda g: groups.setdefault(3, g))
    assert number not in first and sampler.unfinished
    while sampler.unfinished:
        sampler.step()
    same_tokens([groups[i] for i in range(4)], expected)
    assert sampler.finished == 3 * 4 + 4


def test_dropped_prompts_leave_the_others_alone():
    sampler, sampling, groups = engine(max_rows=9), Sampling(n=3, max_new_tokens=25, seed=7), {}
    expected = engine().generate(prompts(), sampling)
    numbers = [sampler.add(p, sampling, lambda g, i=i: groups.setdefault(i, g)) for i, p in enumerate(prompts())]
    sampler.step()
    sampler.drop([numbers[0], numbers[3]])  # one is being decoded, one waits
    assert sampler.unfinished == 6
    while sampler.unfinished:
        sampler.step()
    assert sorted(groups) == [1, 2]
    same_tokens([groups[1], groups[2]], expected[1:3])
    sampler.add(prompts()[0], sampling, None)
    sampler.step()
    sampler.drop([numbers[3] + 1])
    same_tokens(sampler.generate(prompts(), sampling), expected)


def test_an_error_of_whoever_takes_a_group_ends_the_call_and_leaves_nothing_behind():
    def refuse(index, completions):
        raise ValueError("enough")

    sampler, sampling = engine(max_rows=6), Sampling(n=3, max_new_tokens=12, seed=1)
    with pytest.raises(ValueError, match="enough"):
        sampler.generate(prompts(), sampling, refuse)
    assert not sampler.unfinished
    same_tokens(sampler.generate(prompts(), sampling), engine().generate(prompts(), sampling))


def test_new_weights_between_two_steps_go_on_with_what_the_old_ones_computed():
    """Each token bears its weights' version and the log-probability under keys and values as they were computed."""
    sampler, sampling, groups = engine(), Sampling(n=2, max_new_tokens=12, seed=3), []
    prompt = prompts()[1]
    old = plain_copy(sampler.vlm)
    sampler.add(prompt, sampling, groups.extend)
    for _ in range(4):
        sampler.step()  # the first draws two tokens of each response
    with torch.no_grad():
        sampler.vlm.model.lm_head.weight.mul_(1.7)  # keys and values stay what they would have been
    sampler.version = 1
    new = plain_copy(sampler.vlm)
    while sampler.unfinished:
        sampler.step()
    (later,) = sampler.generate([prompt], Sampling(n=1, max_new_tokens=2))
    assert later[0].version == 1 and later[0].versions is None
    long = [c for c in groups if len(c.ids) > 5]
    assert long
    for completion in long:
        assert completion.versions.tolist() == [0] * 5 + [1] * (len(completion.ids) - 5) and completion.version == 0
        with torch.no_grad():
            expected = [plain_logprobs(model, prompt, completion.ids, 1.0) for model in (old, new)]
        torch.testing.assert_close(completion.logprobs[:5], expected[0][:5], atol=1e-4, rtol=0)
        torch.testing.assert_close(completion.logprobs[5:], expected[1][5:], atol=1e-4, rtol=0)
        assert not torch.allclose(completion.logprobs[5:], expected[0][5:], atol=1e-2)
