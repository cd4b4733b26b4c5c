"""The mixing rule, against its own words written out; nothing lost or doubled; the same bytes every time."""

from collections import Counter
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.ladder import mix

# The published shares, read to ±0.001, sum to 1.004; here as 20,000 items.
PUBLISHED = [299, 717, 996, 1494, 2709, 2988, 2988, 3984, 3825]

# Percent that each slot (row) draws from each level (column) of nine.
TABLE = [
    [0, 20, 15, 10, 5, 0, 0, 0, 0],
    [15, 0, 15, 10, 5, 0, 0, 0, 0],
    [10, 15, 0, 15, 10, 0, 0, 0, 0],
    [0, 10, 15, 0, 15, 10, 0, 0, 0],
    [0, 0, 10, 15, 0, 15, 10, 0, 0],
    [0, 0, 0, 10, 15, 0, 15, 10, 0],
    [0, 0, 0, 0, 10, 15, 0, 15, 10],
    [0, 0, 0, 0, 5, 10, 15, 0, 15],
    [0, 0, 0, 0, 5, 10, 15, 20, 0],
]

LEVELS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def items(sizes):
    return [[(level, number) for number in range(size)] for level, size in enumerate(sizes)]


def counts(slots, levels):
    """How many items of each level each slot holds."""
    found = [Counter(level for level, _ in slot) for slot in slots]
    return [[slot[level] for level in range(levels)] for slot in found]


def percentages(slot, levels):
    """The rule in words: the first and second slot, their mirrors, and those between."""
    if slot == 0:
        drawn = {1: 20, 2: 15, 3: 10, 4: 5}
    elif slot == levels - 1:
        drawn = {slot - 1: 20, slot - 2: 15, slot - 3: 10, slot - 4: 5}
    elif slot == 1:
        drawn = {0: 15, 2: 15, 3: 10, 4: 5}
    elif slot == levels - 2:
        drawn = {slot + 1: 15, slot - 1: 15, slot - 2: 10, slot - 3: 5}
    else:
        drawn = {slot - 2: 10, slot - 1: 15, slot + 1: 15, slot + 2: 10}
    return [drawn.get(level, 0) for level in range(levels)]


def expected(sizes, table):
    """Counts by slot and level: each slot takes its share of what is left, in turn; the rest stays at home."""
    left = list(sizes)
    taken = []
    for row in table:
        taken.append(
            [floor(Fraction(percent, 100) * rest + Fraction(1, 2)) for percent, rest in zip(row, left, strict=True)]
        )
        left = [rest - drawn for rest, drawn in zip(left, taken[-1], strict=True)]
    return [
        [drawn + (left[level] if level == slot else 0) for level, drawn in enumerate(row)]
        for slot, row in enumerate(taken)
    ]


def test_the_published_ladder_of_20_000():
    assert sum(PUBLISHED) == 20_000
    found = counts(mix(items(PUBLISHED), seed=0), 9)
    assert found == expected(PUBLISHED, TABLE)
    # By hand: 299 → 45 and 25 leave; slot 0 takes 143 of 717, 149 of 996, 149 of 1,494 and 135 of 2,709.
    assert found[0] == [229, 143, 149, 149, 135, 0, 0, 0, 0]
    assert found[1][0] == 45
    assert found[2][0] == 25


def test_the_words_of_the_rule_are_its_table():
    assert [percentages(slot, 9) for slot in range(9)] == TABLE


@given(LEVELS, st.integers(0, 2**32))
def test_any_number_of_levels_of_any_size(sizes, seed):
    slots = mix(items(sizes), seed)
    assert len(slots) == len(sizes)
    assert sorted(item for slot in slots for item in slot) == [item for level in items(sizes) for item in level]
    table = [percentages(slot, len(sizes)) for slot in range(len(sizes))]
    assert counts(slots, len(sizes)) == expected(sizes, table)


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([5], [[5]]),
        ([0], [[0]]),
        ([10, 10], [[8, 2], [2, 8]]),
        ([100, 100, 100], [[72, 20, 15], [15, 64, 13], [13, 16, 72]]),
        ([2, 2, 2, 2, 2], [[2 * (slot == level) for level in range(5)] for slot in range(5)]),
        ([3, 3, 3], [[3, 1, 0], [0, 2, 0], [0, 0, 3]]),  # 20 % of 3 is rounded to 1, then 20 % of 2 to none
    ],
)
def test_few_levels(sizes, found):
    assert counts(mix(items(sizes), seed=1), len(sizes)) == found


def test_halves_are_rounded_up():
    # Slot 0 takes 15 % of 10 = 1.5 → 2; slot 1 then 15 % of 8 = 1.2 → 1.
    found = counts(mix(items([0, 0, 10, 0, 0]), seed=0), 5)
    assert [row[2] for row in found] == [2, 1, 5, 1, 1]


def test_the_same_seed_gives_the_same_ladder():
    levels = [list("abcdefghij"), list("klmnopqrst"), list("uvwxyz")]
    pinned = ["abceghjlmu", "diknoprsz", "fqtvwxy"]
    assert ["".join(slot) for slot in mix(levels, seed=3)] == pinned
    assert levels == [list("abcdefghij"), list("klmnopqrst"), list("uvwxyz")]


def test_the_seed_decides_which_items_move_and_not_how_many():
    levels = items(PUBLISHED)
    first, second = mix(levels, seed=0), mix(levels, seed=1)
    assert first != second
    assert counts(first, 9) == counts(second, 9)


def test_draws_are_spread_over_the_level():
    moved = [number for level, number in mix(items([10_000, 0]), seed=0)[1] if level == 0]
    assert len(moved) == 2_000
    assert 4_800 < sum(moved) / len(moved) < 5_200


@given(LEVELS, st.integers(0, 9))
def test_a_slot_is_ordered_by_its_key(sizes, seed):
    def complexity(item):
        return item[1] * 7 % 5

    for slot, plain in zip(mix(items(sizes), seed, complexity), mix(items(sizes), seed), strict=True):
        assert plain == sorted(plain)
        assert slot == sorted(plain, key=complexity)  # stable: equal keys keep the order of the levels


def test_items_need_not_be_comparable_or_unique():
    levels = [[{"x": 1}] * 20, [{"x": 2}] * 20]
    assert sorted(item["x"] for slot in mix(levels, 0) for item in slot) == [1] * 20 + [2] * 20
