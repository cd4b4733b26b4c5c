"""Orders: what an epoch holds, and that a saved position resumes exactly."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.config import DataSettings
from observe_r1.data import Order


def make(name: str, size: int, seed: int) -> Order:
    return registry.load("order", name)(DataSettings(path="d"), size, seed)


def take(order: Order, count: int) -> list[int]:
    return [order.next() for _ in range(count)]


def test_ladder_repeats_the_files_order() -> None:
    assert take(make("ladder", 3, seed=5), 8) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_random_shuffles_every_epoch_anew() -> None:
    drawn = take(make("random", 50, seed=0), 150)
    epochs = [drawn[:50], drawn[50:100], drawn[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(50)]}) == 4


def test_random_depends_on_the_seed_alone() -> None:
    assert take(make("random", 50, seed=3), 120) == take(make("random", 50, seed=3), 120)
    assert take(make("random", 50, seed=3), 50) != take(make("random", 50, seed=4), 50)


def test_random_puts_every_row_in_every_place() -> None:
    firsts = Counter(make("random", 4, seed).next() for seed in range(400))
    assert sorted(firsts) == [0, 1, 2, 3]
    assert min(firsts.values()) > 60  # 100 expected, standard deviation 8.7


@given(
    name=st.sampled_from(["ladder", "random"]),
    size=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    before=st.integers(0, 30),
    elsewhere=st.integers(0, 30),
    after=st.integers(1, 30),
)
def test_resumed_order_goes_on(name: str, size: int, seed: int, before: int, elsewhere: int, after: int) -> None:
    order = make(name, size, seed)
    take(order, before)
    state = json.loads(json.dumps(order.state_dict()))
    resumed = make(name, size, seed)
    take(resumed, elsewhere)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert take(resumed, after) == take(order, after)


def test_nothing_to_order() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        make("ladder", 0, 0)
