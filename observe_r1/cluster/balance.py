"""Packs of a batch shared out to ranks: as few passes as the token budget allows, and in each pass like amounts of
work.

Ranks gather every layer's weights together, so a pass takes as long as its slowest rank, and every rank makes the same
passes. What is balanced is work, not tokens: an image's patches cost time in the tower and a response's tokens in the
head, and neither shows in the length of a sequence.

Two steps. Pieces (whole groups, or the parts of a group over the budget) go into as many packs as there are passes
times ranks, by the best of three ways: Karmarkar and Karp's differencing, which balances best; longest first to the
pack with the least work, which minds the budget; and first fit by decreasing tokens, which needs at most 11/9 of the
fewest packs, plus one. Then packs of like work make a pass: sorted and cut, the sum of the largest is the smallest that
there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from observe_r1.policy.packing import ResponseSpan

Bin = tuple["Piece", ...]
"""Pieces of one pack."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A group, or responses of a group that is over the budget."""

    span: ResponseSpan
    tokens: int
    """That count against the budget."""
    work: int
    """Cost, in any unit."""


def plan_passes(pieces: Sequence[Piece], budget: int, ranks: int) -> list[tuple[Bin, ...]]:
    """Share pieces out to ranks.

    Args:
        pieces: At least one.
        budget: Tokens of a pack. A piece over it has a pack of its own; 0 gives each piece its own.
        ranks: That work side by side.

    Returns:
        The passes, those with most work first, each with a pack for every rank; a pack without a piece leaves its rank
        idle.
    """
    most = max(budget, 1) * ranks
    fewest = -(-sum(min(piece.tokens, budget) for piece in pieces) // most)
    for passes in count(max(1, fewest)):
        bins = passes * ranks
        ways = (_by_differences(pieces, bins), _longest_first(pieces, bins, budget), _first_fit(pieces, bins, budget))
        plans = [_cut(way, ranks) for way in ways if way is not None and all(_fits(each, budget) for each in way)]
        if plans:
            return min(plans, key=makespan)
    raise AssertionError("unreachable: packs of one piece each always fit")


def makespan(passes: Sequence[Sequence[Bin]]) -> int:
    """Return the work that ranks wait for: the sum over passes of the largest pack's."""
    return sum(max(_work(members) for members in each) for each in passes)


def _cut(bins: Sequence[Bin], ranks: int) -> list[tuple[Bin, ...]]:
    """Make passes of packs with like work."""
    ordered = sorted(bins, key=_work, reverse=True)
    return [tuple(ordered[first : first + ranks]) for first in range(0, len(ordered), ranks)]


def _work(members: Sequence[Piece]) -> int:
    return sum(piece.work for piece in members)


def _fits(members: Sequence[Piece], budget: int) -> bool:
    return len(members) < 2 or sum(piece.tokens for piece in members) <= budget


def _by_differences(pieces: Sequence[Piece], bins: int) -> list[Bin]:
    """Balance work by the largest differencing method, whatever the budget.

    The two partitions with the largest differences are laid over each other, the most with the least, until one is
    left. Source: Karmarkar and Karp, The differencing method of set partitioning (1982); for more than two sets
    Michiels et al. (2003), who bound the largest set by 4/3 of the best.
    """
    numbers = count()

    def entry(partition: list[tuple[int, Bin]]) -> tuple[int, int, list[tuple[int, Bin]]]:
        """What the heap orders by; a partition lists its sets with members, the most work first."""
        least = partition[-1][0] if len(partition) == bins else 0
        return least - partition[0][0], next(numbers), partition

    heap = [entry([(piece.work, (piece,))]) for piece in pieces]
    heapify(heap)
    while len(heap) > 1:
        one, other = heappop(heap)[2], heappop(heap)[2]
        # Set i of the one meets set (bins - 1 - i) of the other; beyond a partition's end sets are empty.
        met = max(0, len(one) + len(other) - bins)
        alone, free = len(one) - met, len(other) - met
        joined = one[:alone] + other[:free]
        for (work, members), (more, others) in zip(one[alone:], reversed(other[free:]), strict=True):
            joined.append((work + more, members + others))
        heappush(heap, entry(sorted(joined, key=lambda each: -each[0])))
    filled = [members for _, members in heap[0][2]]
    return filled + [()] * (bins - len(filled))


def _longest_first(pieces: Sequence[Piece], bins: int, budget: int) -> list[Bin] | None:
    """Give pieces, the most work first, to the pack with the least work that has room; None if none has."""
    return _placed(sorted(pieces, key=lambda piece: -piece.work), bins, budget, even=True)


def _first_fit(pieces: Sequence[Piece], bins: int, budget: int) -> list[Bin] | None:
    """Give pieces, the most tokens first, to the first pack that has room; None if none has."""
    return _placed(sorted(pieces, key=lambda piece: -piece.tokens), bins, budget, even=False)


def _placed(pieces: Sequence[Piece], bins: int, budget: int, *, even: bool) -> list[Bin] | None:
    packs: list[list[Piece]] = [[] for _ in range(bins)]
    tokens, work = [0] * bins, [0] * bins
    for piece in pieces:
        room = (i for i in range(bins) if not packs[i] or tokens[i] + piece.tokens <= budget)
        chosen = min(room, key=work.__getitem__, default=None) if even else next(room, None)
        if chosen is None:
            return None
        packs[chosen].append(piece)
        tokens[chosen] += piece.tokens
        work[chosen] += piece.work
    return [tuple(pack) for pack in packs]
