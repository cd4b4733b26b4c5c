"""Items: a scene, a question about it and a demonstration, each reproducible from split, seed and index alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args
from zlib import crc32

from observe_r1.world.scene import LEVELS, Scene, draw_scene
from observe_r1.world.tasks import Question, draw_question
from observe_r1.world.teacher import demonstrate

Split = Literal["train", "sft", "held_out"]

_SHARES: dict[Split, int] = {"train": 3, "sft": 4, "held_out": 1}
"""Parts of eight of all possible items."""


@dataclass(frozen=True, slots=True)
class Item:
    """One exercise of the world."""

    split: Split
    seed: int
    index: int
    scene: Scene
    question: Question
    demonstration: str
    """The imperfect teacher's response; its answer is often wrong (see `observe_r1.world.teacher`)."""

    @property
    def id(self) -> str:
        """Unique over all items of the world."""
        return f"world-{self.split}-{self.seed}-{self.index}"

    @property
    def level(self) -> int:
        """Its difficulty: the number of objects."""
        return len(self.scene.objects)

    @property
    def answer(self) -> str:
        """The true answer."""
        return str(self.question.answer(self.scene))


def make_item(split: Split, seed: int, index: int, level: int | None = None) -> Item:
    """Return item `index` of `seed`, the same whatever else is made; its level is drawn unless given.

    A hash of what an item shows and asks decides to which split it belongs, and items are drawn until one belongs to
    `split`: no two splits ever share an item, whatever their seeds.
    """
    rng = Random(f"{split}/{seed}/{index}")
    while True:
        scene = draw_scene(rng, rng.choice(LEVELS) if level is None else level)
        question = draw_question(rng, scene)
        if _split_of(scene, question) == split:
            return Item(split, seed, index, scene, question, demonstrate(rng, scene, question))


def make_items(split: Split, seed: int, count: int) -> list[Item]:
    """Return items 0 to `count` − 1 of `seed`."""
    return [make_item(split, seed, index) for index in range(count)]


def _split_of(scene: Scene, question: Question) -> Split:
    """Positions and sizes do not count: two pictures of the same objects in the same cells are the same scene."""
    part = crc32(" ".join([*scene.cell_names(), question.text]).encode()) % sum(_SHARES.values())
    for split in get_args(Split):
        if part < _SHARES[split]:
            return split
        part -= _SHARES[split]
    raise AssertionError("shares cover every part")
