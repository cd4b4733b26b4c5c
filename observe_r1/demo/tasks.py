"""Questions about a scene, and responses in the observe format by a teacher who makes mistakes.

The teacher describes every image correctly but counts and remembers badly: of three or more objects it often misses
one, and of two attributes it often forgets the second. A model that is warm-started on these demonstrations learns to
see, and learns the mistakes too; rewards are given for the true answer. Reinforcement learning then mostly unlearns the
mistakes, which is what it does best: choose among things that the model already does sometimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from observe_r1.demo.scene import COLOURS, SHAPES, Object, Scene

_ASK_ABOUT_PRESENT = 0.5
"""Probability that an attribute is taken from an object of the scene. Drawn at random, most attributes have a count of
zero, and zero would be too good a guess."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is counted: a colour, a shape, or a coloured shape. At least one of the two is given."""

    colour: str | None = None
    shape: str | None = None

    @property
    def name(self) -> str:
        """What responses call it: `red`, `circle` or `red-circle`."""
        return "-".join(part for part in (self.colour, self.shape) if part)

    @property
    def plural(self) -> str:
        """What questions call it: `red objects`, `circles` or `red circles`."""
        return " ".join(part for part in (self.colour, f"{self.shape or 'object'}s") if part)

    def matches(self, thing: Object) -> bool:
        """Return whether an object has it."""
        return self.colour in (None, thing.colour) and self.shape in (None, thing.shape)

    def count(self, scene: Scene) -> int:
        """Return how many objects of the scene have it."""
        return sum(map(self.matches, scene.objects))


@dataclass(frozen=True, slots=True)
class _Kind:
    wording: str
    asks: tuple[tuple[str, ...], ...]
    """For each attribute, the fields that are given."""


KINDS = {
    "count_colour": _Kind("How many {} are there?", (("colour",),)),
    "count_shape": _Kind("How many {} are there?", (("shape",),)),
    "count_both": _Kind("How many {} are there?", (("colour", "shape"),)),
    "sum_colours": _Kind("How many {} and {} are there together?", (("colour",), ("colour",))),
    "difference": _Kind(
        "What is the difference between the number of {} and the number of {}?", (("colour",), ("colour",))
    ),
    "colour_plus_shape": _Kind("What is the number of {} plus the number of {}?", (("shape",), ("colour",))),
}
"""The kinds of questions, by name."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question: its kind, a key of `KINDS`, and the attributes it is about."""

    kind: str
    attributes: tuple[Attribute, ...]

    @property
    def text(self) -> str:
        """The question as the model reads it."""
        return KINDS[self.kind].wording.format(*(attribute.plural for attribute in self.attributes))

    def combine(self, counts: Sequence[int]) -> int:
        """Return the answer that follows from these counts: one for each attribute, or only for the first."""
        if self.kind == "difference" and len(counts) == 2:
            return abs(counts[0] - counts[1])
        return sum(counts)

    def answer(self, scene: Scene) -> int:
        """Return the true answer."""
        return self.combine([attribute.count(scene) for attribute in self.attributes])


def draw_question(rng: Random, scene: Scene) -> Question:
    """Draw a question about `scene`, each kind equally often; two attributes of one question always differ."""
    kind = rng.choice(list(KINDS))
    attributes: list[Attribute] = []
    for fields in KINDS[kind].asks:
        attribute = _draw_attribute(rng, scene, fields)
        while attribute in attributes:
            attribute = _draw_attribute(rng, scene, fields)
        attributes.append(attribute)
    return Question(kind, tuple(attributes))


def _draw_attribute(rng: Random, scene: Scene, fields: tuple[str, ...]) -> Attribute:
    if rng.random() < _ASK_ABOUT_PRESENT:
        model = rng.choice(scene.objects)
        values = {"colour": model.colour, "shape": model.shape}
    else:
        values = {"colour": rng.choice(COLOURS), "shape": rng.choice(SHAPES)}
    return Attribute(**{field: values[field] for field in fields})


MISCOUNT_FROM = 3
"""Counts from this one up may come out one too low."""
MISCOUNT = 0.6
"""Probability that such a count comes out one too low."""
FORGET = 0.6
"""Probability that the second attribute of a question is forgotten."""


def demonstrate(rng: Random, scene: Scene, question: Question) -> str:
    """Return the teacher's response, mistakes included: well-formed, and consistent with its own counts."""
    attributes = question.attributes
    if len(attributes) == 2 and rng.random() < FORGET:
        attributes = attributes[:1]
    return write_response(scene, question, [_miscount(rng, attribute.count(scene)) for attribute in attributes])


def write_response(scene: Scene, question: Question, counts: Sequence[int]) -> str:
    """Return a worked response: what each cell shows, each attribute with its count, the answer that follows.

    Args:
        scene: What the image shows.
        question: What is asked.
        counts: One for each attribute of the question; if there are fewer, the last attributes are left out.
    """
    seen = " ".join(scene.cell_names())
    counted = " ".join(f"{a.name} {count}" for a, count in zip(question.attributes, counts, strict=False))
    answer = question.combine(counts)
    return f"<observe> {seen} </observe> <think> {counted} </think> <answer> {answer} </answer>"


def _miscount(rng: Random, count: int) -> int:
    return count - (count >= MISCOUNT_FROM and rng.random() < MISCOUNT)
