"""The simulated scheduler: cases worked by hand, second by second on another simulator, and what must always hold."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from observe_r1.cluster.simulation import Workload, draw_rollouts, simulate


def workload(engines=1, rows=4, prompt=0, token=1, train=0, publish=0, ahead=0):
    return Workload(engines, rows, prompt, lambda rows: token, lambda tokens: train, publish, ahead)


def test_by_hand_one_engine_waits_for_training():
    first, second = simulate(workload(train=5, publish=2), [[[3, 7]], [[4]]])
    assert (first.sampled, first.handed_out, first.trained, first.published) == (7, 7, 12, 14)
    assert (second.sampling, second.sampled, second.published) == (14, 18, 25)
    assert first.tokens == 10 and second.mean_age == second.oldest == 0


def test_by_hand_one_step_ahead():
    """Sampling 2 starts at 7, when 1 is handed out, makes 5 tokens, waits from 12 to 14, and makes the other 3."""
    first, second, third = simulate(workload(train=5, publish=2, ahead=1), [[[7]], [[8]], [[1]]])
    assert (first.handed_out, first.published) == (7, 14)
    assert (second.sampling, second.sampled, second.handed_out, second.published) == (7, 17, 17, 24)
    assert second.mean_age == pytest.approx(5 / 8) and second.oldest == 1
    assert (third.sampling, third.sampled, third.handed_out) == (17, 18, 24)
    assert third.mean_age == third.oldest == 1


def test_by_hand_a_long_response_holds_nobody_up():
    (step,) = simulate(workload(engines=2, rows=1), [[[10], [2], [2], [2], [3]]])
    assert step.sampled == 10  # the other engine takes the rest: 2 + 2 + 2 + 3


def test_by_hand_a_prompt_goes_to_an_engine_that_is_still_decoding():
    """At 5 the second engine is empty and takes the three rows; only then the last two can go to the first, which has
    one row until 6."""
    (step,) = simulate(workload(engines=2, rows=3), [[[1, 6, 3], [1, 5], [2, 3, 1], [1, 4]]])
    assert step.sampled == 9


def test_by_hand_rows_share_an_engine():
    """Two rows take 3 s a token, one takes 2: two tokens of both, then three of the longer."""
    shared = Workload(1, 2, 1.0, lambda rows: rows + 1.0, lambda tokens: tokens / 7, 0.0)
    (step,) = simulate(shared, [[[2, 5]]])
    assert step.sampled == 1 + 2 * 3 + 3 * 2
    assert step.trained == step.sampled + 1


def second_by_second(rollouts, engines, rows, prompt, train, publish, ahead):
    """The same scheduler as a clock that ticks: every row of an engine that neither waits nor reads makes a token."""
    clock, number, version = 0, 0, 0
    busy, training = [], None  # engines: [seconds of prompts left, rows left]; (step, when trained, when published)
    sampled, handed, published, ages = {}, {}, {}, {}
    waiting = None
    while len(published) < len(rollouts):
        if training and clock == training[2]:
            published[training[0]] = clock
            version, training = version + 1, None
        if waiting is not None and not waiting and not any(each[1] for each in busy):
            sampled[number], waiting, number = clock, None, number + 1
        asked = len(handed)
        if training is None and asked in sampled:
            handed[asked], training = clock, (asked, clock + train, clock + train + publish)
            if training[2] == clock:
                continue
        due = number < len(rollouts) and waiting is None
        if due and (number <= len(handed) - 1 + ahead if ahead and number else number == len(published)):
            waiting, busy, ages[number] = list(rollouts[number]), [[0, []] for _ in range(engines)], 0
        if waiting is not None:
            by_load = sorted(busy, key=lambda each: len(each[1]))
            while waiting:
                group = waiting[0]
                free = next((each for each in by_load if not each[1] or len(each[1]) + len(group) <= rows), None)
                if free is None:
                    break
                waiting.pop(0)
                free[0] += prompt
                free[1] += group
                by_load = sorted(busy, key=lambda each: len(each[1]))
            paused = training is not None and training[1] <= clock < training[2]
            for each in [] if paused else busy:
                if each[0]:
                    each[0] -= 1
                    continue
                ages[number] += len(each[1]) * (number - version)
                each[1] = [left - 1 for left in each[1] if left > 1]
        clock += 1
    return sampled, handed, published, ages


LENGTHS = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=4)
ROLLOUTS = st.lists(LENGTHS, min_size=1, max_size=4)
SMALL = {"train": st.integers(0, 9), "publish": st.integers(0, 3), "ahead": st.integers(0, 3)}


@given(ROLLOUTS, *(st.integers(*each) for each in ((1, 3), (1, 4), (0, 2), (1, 9), (1, 3), (0, 3))))
@examples(max_examples=300)
def test_it_agrees_with_a_clock_that_ticks(rollouts, engines, rows, prompt, train, publish, ahead):
    steps = simulate(workload(engines, rows, prompt, 1, train, publish, ahead), rollouts)
    sampled, handed, published, ages = second_by_second(rollouts, engines, rows, prompt, train, publish, ahead)
    for number, step in enumerate(steps):
        assert (step.sampled, step.handed_out, step.published) == pytest.approx(
            (sampled[number], handed[number], published[number])
        )
        assert step.mean_age * step.tokens == pytest.approx(ages[number])


@given(ROLLOUTS, st.integers(1, 3), st.integers(1, 4), st.integers(0, 2), *SMALL.values())
@examples(max_examples=200)
def test_what_always_holds(rollouts, engines, rows, prompt, train, publish, ahead):
    work = Workload(engines, rows, prompt, lambda rows: 1 + rows / 4, lambda tokens: train, publish, ahead)
    steps = simulate(work, rollouts)
    assert [step.tokens for step in steps] == [sum(map(sum, rollout)) for rollout in rollouts]
    for step, rollout in zip(steps, rollouts, strict=True):
        assert step.sampling < step.sampled <= step.handed_out <= step.trained <= step.published
        assert 0 <= step.mean_age <= step.oldest <= ahead
        longest = max(max(group) for group in rollout)
        assert step.sampled - step.sampling >= prompt + longest * 1.25 - 1e-9
        most = max(rows, max(map(len, rollout)))
        assert step.tokens <= (step.sampled - step.sampling) * engines * most / (1 + most / 4) + 1e-6
    for before, step in pairwise(steps):
        assert step.handed_out >= before.published - 1e-9 and step.sampling >= before.sampled - 1e-9
    if ahead == 0:
        assert all(step.mean_age == 0 for step in steps)


def test_lengths_have_the_mean_that_is_asked_for():
    rollouts = draw_rollouts(20, 50, 8, mean=300, spread=0.8, longest=100_000)
    lengths = [length for rollout in rollouts for group in rollout for length in group]
    assert len(lengths) == 8000 and sum(lengths) / 8000 == pytest.approx(300, rel=0.05)
    assert rollouts == draw_rollouts(20, 50, 8, mean=300, spread=0.8, longest=100_000)
    assert {n for r in draw_rollouts(2, 5, 2, mean=300, spread=0, longest=200) for g in r for n in g} == {200}
