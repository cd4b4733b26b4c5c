"""Passes against every way to share out a few pieces."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.cluster.balance import Piece, makespan, plan_passes
from observe_r1.policy.packing import ResponseSpan

BUDGET = 100


def pieces_of(sizes):
    return [Piece(ResponseSpan(i, 0, 1), tokens, work) for i, (tokens, work) in enumerate(sizes)]


def sizes(most, largest=BUDGET):
    return st.lists(st.tuples(st.integers(1, largest), st.integers(1, 1000)), min_size=1, max_size=most)


@given(sizes(40, largest=150), st.integers(1, 6))
def test_every_piece_is_in_one_pack_within_the_budget_and_every_rank_makes_every_pass(drawn, ranks):
    pieces = pieces_of(drawn)
    passes = plan_passes(pieces, BUDGET, ranks)
    assert all(len(each) == ranks for each in passes)
    packs = [pack for each in passes for pack in each]
    assert sorted(p.span.group for pack in packs for p in pack) == list(range(len(pieces)))
    assert all(len(pack) == 1 or sum(p.tokens for p in pack) <= BUDGET for pack in packs)
    assert all(any(each) for each in passes)


@given(sizes(20), st.integers(1, 4))
def test_without_a_budget_each_piece_has_a_pack_of_its_own(drawn, ranks):
    passes = plan_passes(pieces_of(drawn), 0, ranks)
    assert len(passes) == -(-len(drawn) // ranks)
    assert all(len(pack) <= 1 for each in passes for pack in each)


@settings(max_examples=60)
@given(sizes(7, largest=1), st.integers(2, 3))
def test_the_slowest_rank_has_at_most_four_thirds_of_the_best_plans_work(drawn, ranks):
    pieces = pieces_of(drawn)
    best = min(
        max(sum(p.work for p, owner in zip(pieces, owners, strict=True) if owner == rank) for rank in range(ranks))
        for owners in product(range(ranks), repeat=len(pieces))
    )
    assert best <= makespan(plan_passes(pieces, BUDGET, ranks)) <= best * 4 / 3


@settings(max_examples=60)
@given(sizes(6), st.integers(1, 2))
def test_no_more_passes_than_first_fit_is_bound_to(drawn, ranks):
    def fewest():
        for bins in range(1, len(drawn) + 1):
            for owners in product(range(bins), repeat=len(drawn)):
                filled = [0] * bins
                for (tokens, _), owner in zip(drawn, owners, strict=True):
                    filled[owner] += tokens
                if max(filled) <= BUDGET:
                    return bins
        raise AssertionError

    bound = int(11 / 9 * fewest() + 6 / 9)
    assert len(plan_passes(pieces_of(drawn), BUDGET, ranks)) <= -(-bound // ranks)


def test_differences_find_what_longest_first_does_not():
    """8 7 6 5 4 to two ranks: longest first gives 17 and 13, differences 16 and 14."""
    passes = plan_passes(pieces_of([(1, work) for work in (8, 7, 6, 5, 4)]), BUDGET, 2)
    assert sorted(sum(p.work for p in pack) for pack in passes[0]) == [14, 16]


def test_a_ranks_image_counts_as_work():
    """One piece of few tokens and much work has a rank for itself."""
    (only,) = plan_passes(pieces_of([(10, 300), (30, 100), (30, 100), (30, 100)]), BUDGET, 2)
    assert sorted(len(pack) for pack in only) == [1, 3]
