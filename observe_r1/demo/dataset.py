"""The exercises of the world, and datasets of them on disk: rows in message format beside their images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args
from zlib import crc32

from observe_r1.demo.scene import LEVELS, Scene, draw_scene, render
from observe_r1.demo.tasks import Question, demonstrate, draw_question
from observe_r1.files import replacing

Split = Literal["train", "sft", "held_out"]

_SHARES: dict[Split, int] = {"train": 3, "sft": 4, "held_out": 1}
"""Eighths of all possible items."""


@dataclass(frozen=True, slots=True)
class Item:
    """One exercise of the world."""

    split: Split
    seed: int
    index: int
    scene: Scene
    question: Question
    demonstration: str
    """The teacher's response; its answer is often wrong (see `observe_r1.demo.tasks`)."""

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
    """Return one item; it depends on the arguments alone, and its level is drawn unless given.

    A hash of what an item shows and asks decides which split it belongs to, and items are drawn until one belongs to
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
    """Return the split of an item. Positions and sizes do not count, only which object is in which cell."""
    part = crc32(" ".join([*scene.cell_names(), question.text]).encode()) % sum(_SHARES.values())
    for split in get_args(Split):
        if part < _SHARES[split]:
            return split
        part -= _SHARES[split]
    raise AssertionError("shares cover every part")


def write_questions(folder: Path, split: Split, *, seed: int, count: int) -> Path:
    """Write items 0 to `count` − 1 of `seed` as questions, sorted by level: a simple ladder, easy to hard.

    The folder is replaced, all at once. It then holds `<split>.jsonl` and `images/`, which the rows refer to by paths
    relative to the folder.

    Returns:
        The path of the JSONL file.
    """
    items = sorted(make_items(split, seed, count), key=lambda item: item.level)
    return _write(folder, split, ((item, _question(item)) for item in items))


def write_demonstrations(folder: Path, *, seed: int, count: int) -> Path:
    """Write items of the split `sft` in the order of their index, each with the teacher's response.

    The layout is that of `write_questions`. The response is the assistant turn of `message`; `answer` is the true one.

    Returns:
        The path of the JSONL file.
    """
    return _write(folder, "sft", ((item, _demonstration(item)) for item in make_items("sft", seed, count)))


def _write(folder: Path, name: str, rows: Iterable[tuple[Item, list[dict[str, Any]]]]) -> Path:
    with replacing(folder) as new:
        (new / "images").mkdir()
        with (new / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for item, message in rows:
                (new / _image_name(item)).write_bytes(_png(item))
                file.write(json.dumps(_row(item, message)) + "\n")
    return folder / f"{name}.jsonl"


def _row(item: Item, message: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "message": json.dumps(message),
        "answer": item.answer,
        "id": item.id,
        "source": "world",
        "level": item.level,
        "kind": item.question.kind,
    }


def _question(item: Item) -> list[dict[str, Any]]:
    image = {"type": "image", "image": _image_name(item)}
    return [{"role": "user", "content": [image, _text(item.question.text)]}]


def _demonstration(item: Item) -> list[dict[str, Any]]:
    return [*_question(item), {"role": "assistant", "content": [_text(item.demonstration)]}]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _image_name(item: Item) -> str:
    return f"images/{item.id}.png"


def _png(item: Item) -> bytes:
    buffer = BytesIO()
    render(item.scene).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
