"""How many questions each level gives: sums, shares and shortages."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.config import PUBLISHED_SHARES, LadderSettings, validate
from observe_r1.errors import UserError
from observe_r1.ladder.mix import quotas

LEVELS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20)), min_size=1, max_size=10).filter(
    lambda levels: any(share for _, share in levels)
)


@settings(max_examples=300)
@given(LEVELS, st.integers(1, 2000))
def test_the_ladder_is_as_large_as_can_be_and_no_level_gives_more_than_it_has(levels, size):
    counts = [count for count, _ in levels]
    shares = [share / 100 for _, share in levels]
    drawn, said = quotas(counts, size, shares)
    available = sum(count for count, share in levels if share)
    assert sum(drawn) == min(size, available)
    assert all(0 <= some <= count for some, count in zip(drawn, counts, strict=True))
    assert all(some == 0 for some, share in zip(drawn, shares, strict=True) if share == 0)
    full = [i for i, some in enumerate(drawn) if some == counts[i]]
    rest = [i for i in range(len(drawn)) if i not in full and shares[i]]
    for i in rest:  # levels that have more to give keep their proportions, rounding aside
        for j in rest:
            assert abs(drawn[i] * shares[j] - drawn[j] * shares[i]) <= shares[i] + shares[j] + 1e-9
    parts = sum(share for _, share in levels)
    assert bool(said) == any(count < round(Fraction(size * share, parts)) for count, share in levels)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 300), min_size=9, max_size=9))
def test_without_a_size_every_level_that_has_questions_keeps_its_share(counts):
    drawn, _ = quotas(counts, None, PUBLISHED_SHARES)
    total = sum(drawn)
    whole = sum(share for count, share in zip(counts, PUBLISHED_SHARES, strict=True) if count)
    for some, count, share in zip(drawn, counts, PUBLISHED_SHARES, strict=True):
        assert some <= count
        assert abs(some - (total * share / whole if count else 0)) < 1 + 1e-9
    if total:  # one question more would be too many for some level
        assert any((total + 1) * s / whole > c for c, s in zip(counts, PUBLISHED_SHARES, strict=True) if c)


def test_twenty_thousand_with_the_published_shares():
    drawn, said = quotas([20_000] * 9, 20_000, PUBLISHED_SHARES)
    assert sum(drawn) == 20_000 and said == ""
    # By hand: the shares sum to 1.004.
    assert drawn[0] == 299 and drawn[4] == 2709 and drawn[8] == 3825


def test_without_shares_levels_stay_in_proportion():
    assert quotas([10, 0, 30], None, None) == ([10, 0, 30], "")
    assert quotas([10, 0, 30], 20, None) == ([5, 0, 15], "")
    assert quotas([10, 0, 30], 100, None) == ([10, 0, 30], "")


def test_what_is_short_is_said():
    _, said = quotas([100, 5, 100], 60, [1, 1, 1])
    assert said == "fewer questions than the shares ask for: d = 0.5 has 5 of 20"
    with pytest.raises(UserError, match=r"2 shares for 3 levels: give one more than responses per question \(2\)"):
        quotas([1, 2, 3], None, [1, 2])


def test_the_preset_and_what_shares_may_be():
    def shares(value):
        return validate(LadderSettings, {"arrange": {"shares": value}}, "here").arrange.shares

    assert shares("published") == shares(["published"]) == PUBLISHED_SHARES
    assert shares(["1", "2"]) == (1.0, 2.0) and shares(None) is None
    for bad in (["-1", "2"], ["0", "0"], ["much"]):
        with pytest.raises(UserError, match=r"here: arrange\.shares"):
            shares(bad)
