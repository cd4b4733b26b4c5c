"""The adaptive order: its distribution against the formula, what it never does, and that it resumes exactly."""

import json
import math
from collections import Counter
from contextlib import closing

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.config import DataSettings
from observe_r1.data.order import AdaptiveOrder, CumulativeWeights
from observe_r1.records import Example, Prompt
from observe_r1.training.prompts import PromptStream


def taught(rates: list[float], *, size: int, seed: int, floor: float = 0.1) -> AdaptiveOrder:
    """An order that has seen its first rows and knows their pass rates."""
    order = AdaptiveOrder(size, seed, floor)
    order.load_state_dict({"draws": 0, "waiting": [], "rates": rates})
    return order


class SmallBlocks(CumulativeWeights):
    """Blocks so small that a few weights fill several."""

    BLOCK = 3


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_find_is_a_running_sum(weights, data):
    changed, filled = SmallBlocks(len(weights)), SmallBlocks(len(weights))
    for index in data.draw(st.permutations(range(len(weights)))):
        changed[index] = 9.0
        changed[index] = float(weights[index])
    filled.fill(np.array(weights, dtype=float))
    assert changed.total == filled.total == sum(weights)
    expected = [index for index, weight in enumerate(weights) for _ in range(weight)]
    assert [changed.find(point + 0.5) for point in range(sum(weights))] == expected
    assert [filled.find(float(point)) for point in range(sum(weights))] == expected


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 1_023, 1_024, 1_025, 3_000]))
def test_blocks_of_full_size_find_what_one_sum_does(seed, size):
    random = np.random.default_rng(seed)
    weights = random.integers(0, 3, size).astype(float)
    own = CumulativeWeights(size)
    own.fill(weights)
    assert own.total == weights.sum()
    for point in random.random(10) * own.total if own.total else ():
        assert own.find(point) == np.searchsorted(weights.cumsum(), point, side="right")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms())
def test_a_sum_depends_on_the_weights_alone(weights, random):
    changed, filled = SmallBlocks(len(weights)), SmallBlocks(len(weights))
    for _ in range(3):
        for index in random.sample(range(len(weights)), len(weights)):
            changed[index] = weights[index]
    filled.fill(np.array(weights))
    assert changed.total == filled.total
    if changed.total > 0:
        for point in (math.nextafter(changed.total, 0), changed.total, 2 * changed.total):  # as rounding may leave it
            assert weights[changed.find(point)] > 0


def test_a_seed_draws_what_it_always_drew():
    """The first draws of a seed, as every version has made them: a change here breaks the resuming of older runs."""
    order, drawn = taught([0.0, 0.25, 0.5, 0.75, 1.0] * 400, size=2_100, seed=11), []
    for _ in range(12):
        drawn.append(order.next())
        order.record(drawn[-1], 0.5)
    assert drawn == [98, 258, 1776, 1922, 141, 2000, 377, 1022, 1401, 1282, 732, 1146]


def test_rows_are_drawn_by_the_formula():
    rates, size, floor, draws = [0.0, 0.125, 0.5, 0.75, 1.0], 7, 0.2, 6000
    counts = Counter(taught(rates, size=size, seed=seed, floor=floor).next() for seed in range(draws))
    preferences = [floor + (1 - floor) * 4 * p * (1 - p) for p in rates]
    total = sum(preferences) + 2  # two rows not yet seen, of preference 1 each …
    shares = [each / total for each in preferences] + [2 / total, 0.0]  # … come in the file's order
    for row, share in enumerate(shares):
        assert abs(counts[row] / draws - share) <= 4.5 * math.sqrt(share * (1 - share) / draws), row


def test_a_later_draw_follows_what_was_recorded():
    """From one seed, every draw but for the rows waiting: the second moment, so to say, of the test above."""
    order, size = taught([0.0, 0.5, 1.0], size=3, seed=1, floor=0.25), 3
    counts = Counter()
    for _ in range(4000):
        row = order.next()
        counts[row] += 1
        order.record(row, [0.0, 0.5, 1.0][row])
    for row, share in enumerate([1 / 6, 4 / 6, 1 / 6]):
        assert abs(counts[row] / 4000 - share) < 4.5 * math.sqrt(share * (1 - share) / 4000)
    assert sum(counts.values()) == 4000 and len(counts) == size


def test_the_mean_weighs_the_newest_by_one_half():
    order = taught([], size=1, seed=0)
    for rate in (1.0, 0.5, 0.25):
        order.next()
        order.record(0, rate)
    assert order.state_dict()["rates"] == [(1.0 / 2 + 0.5 / 2) / 2 + 0.25 / 2]


def test_none_is_forgotten():
    order = AdaptiveOrder(50, seed=3, floor=0.05)
    last = {}
    for draw in range(6000):
        row = order.next()
        last[row] = draw
        order.record(row, 0.5 if row < 10 else float(row % 2))
    # A row at the floor has 0.05 of 10 + 40 · 0.05 = 12 in each draw: 3000 draws without it have odds of 4e-6.
    assert len(last) == 50 and min(last.values()) > 3000


def test_a_first_pass_climbs_the_file():
    order = AdaptiveOrder(100, seed=0, floor=0.1)
    first = {}
    for draw in range(1000):
        row = order.next()
        first.setdefault(row, draw)
        order.record(row, 0.5)
    assert list(first) == list(range(100))


@given(size=st.integers(1, 12), seed=st.integers(0, 2**40), ops=st.lists(st.integers(0, 3), max_size=60))
def test_a_row_waits_until_it_is_recorded(size, seed, ops):
    order, waiting = AdaptiveOrder(size, seed, 0.1), []
    for op in ops:
        if op and len(waiting) < size:
            row = order.next()
            assert row not in waiting and 0 <= row < size
            waiting.append(row)
        elif waiting:
            order.record(waiting.pop(0), op / 3)


def test_where_all_wait_all_may_be_drawn():
    order = AdaptiveOrder(4, seed=0, floor=0.1)
    assert sorted(order.next() for _ in range(4)) == [0, 1, 2, 3]
    assert sorted(order.next() for _ in range(4)) == [0, 1, 2, 3]


@given(
    size=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    before=st.lists(st.floats(0, 1), max_size=30),
    lag=st.integers(0, 6),
    after=st.lists(st.floats(0, 1), min_size=1, max_size=30),
)
def test_resumed_order_goes_on(size, seed, before, lag, after):
    def go_on(order, drawn, rates):
        for rate in rates:
            drawn.append(order.next())
            if len(drawn) > lag:
                order.record(drawn.pop(0), rate)
            yield order.metrics(), list(drawn)

    order, drawn = AdaptiveOrder(size, seed, 0.1), []
    list(go_on(order, drawn, before))
    state = json.loads(json.dumps(order.state_dict()))
    resumed = AdaptiveOrder(size, seed, 0.1)
    resumed.next()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert list(go_on(resumed, list(drawn), after)) == list(go_on(order, drawn, after))
    assert resumed.state_dict() == order.state_dict()


def test_the_state_holds_only_rows_that_were_seen():
    order = AdaptiveOrder(1_000_000, 0, 0.1)
    for _ in range(3):
        order.record(order.next(), 0.5)
    assert len(json.dumps(order.state_dict())) < 100


def test_metrics_are_of_rows_with_a_pass_rate():
    order = taught([0.0, 0.25, None, 0.75, 1.0], size=9, seed=0)
    assert order.metrics() == {"order/seen": 4.0, "order/pass_rate": 0.5, "order/near_half": 0.5}
    assert AdaptiveOrder(9, 0, 0.1).metrics() == {"order/seen": 0.0}


def test_settings_name_the_floor():
    order = registry.load("order", "adaptive")(DataSettings(path="d", adaptive_floor=0.3), 5, 0)
    assert order.floor == 0.3


def stream(order, ahead):
    def encode(example, number):
        return Prompt(ids=None, token_types=None, stream=number)

    examples = [Example(str(row), (), (), "1") for row in range(order.size)]
    return PromptStream(examples, order, encode, print, ahead=ahead)


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 5), st.integers(0, 8), st.integers(1, 8))
def test_a_stream_that_reads_ahead_resumes_exactly(size, ahead, count, before, after):
    def steps(source, number):
        for _ in range(number):
            drawn = source.take(count)
            for each in drawn:
                source.order.record(each.row, (each.row % 5) / 4)
            yield [(each.row, each.prompt.stream) for each in drawn]

    source, resumed = (stream(AdaptiveOrder(size, 7, 0.1), ahead) for _ in range(2))
    with closing(source), closing(resumed):
        list(steps(source, before))
        resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
        assert list(steps(resumed, after)) == list(steps(source, after))
