"""Worked responses in the observe format, by a teacher who slips.

The teacher describes every picture rightly but counts and remembers badly: it often finds one too few where there are
three or more, and often forgets the second of two attributes. A model that is warm-started on these demonstrations
learns to see, and learns the slips too; rewards are given for the true answer. What reinforcement learning then does is
mostly to unlearn the slips, which is what it does best: choose among things that the model already does sometimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from observe_r1.world.scene import Scene
from observe_r1.world.tasks import Question

MISCOUNT_FROM = 3
"""Counts from this on may come out one short."""
MISCOUNT = 0.6
"""Probability that such a count comes out one short."""
FORGET = 0.6
"""Probability that the second attribute of a question is forgotten."""


def demonstrate(rng: Random, scene: Scene, question: Question) -> str:
    """Return the teacher's response, slips included: well-formed, and consistent with its own counts."""
    attributes = question.attributes
    if len(attributes) == 2 and rng.random() < FORGET:
        attributes = attributes[:1]
    return write_response(scene, question, [_miscount(rng, attribute.count(scene)) for attribute in attributes])


def write_response(scene: Scene, question: Question, counts: Sequence[int]) -> str:
    """Return a worked response: what each cell shows, each attribute with its count, the answer that follows.

    Args:
        scene: What the picture shows.
        question: What is asked.
        counts: One for each attribute of the question; fewer, and the last attributes are left out.
    """
    seen = " ".join(scene.cell_names())
    counted = " ".join(f"{a.name} {count}" for a, count in zip(question.attributes, counts, strict=False))
    answer = question.combine(counts)
    return f"<observe> {seen} </observe> <think> {counted} </think> <answer> {answer} </answer>"


def _miscount(rng: Random, count: int) -> int:
    return count - (count >= MISCOUNT_FROM and rng.random() < MISCOUNT)
