"""Items as message-format rows on disk, or as `Example`s in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from observe_r1.files import replacing
from observe_r1.records import Example
from observe_r1.world.items import Item, Split, make_items
from observe_r1.world.render import render


def write_questions(folder: Path, split: Split, *, seed: int, count: int) -> Path:
    """Write items 0 to `count` − 1 of `seed` as questions, sorted by level: a simple ladder, easy to hard.

    The folder is replaced, all at once: it then holds `<split>.jsonl` and the pictures, which the rows name by paths
    relative to it. Returns the path of the JSONL file.
    """
    items = sorted(make_items(split, seed, count), key=lambda item: item.level)
    return _write(folder, split, ((item, _question(item)) for item in items))


def write_demonstrations(folder: Path, *, seed: int, count: int) -> Path:
    """Write items of the split `sft` in the order of their index, each with the imperfect teacher's response.

    The layout is that of `write_questions`. The response is the assistant turn of `message`; `answer` is the truth.
    """
    return _write(folder, "sft", ((item, _demonstration(item)) for item in make_items("sft", seed, count)))


def to_example(item: Item) -> Example:
    """Return the item as the data room would load it, with the picture as PNG bytes and the demonstration."""
    return Example(
        id=item.id,
        messages=({"role": "user", "content": [{"type": "image"}, _text(item.question.text)]},),
        images=(_png(item),),
        answer=item.answer,
        response=item.demonstration,
        source="world",
        origin=item.id,
    )


def _write(folder: Path, name: str, rows: Iterable[tuple[Item, list[dict[str, Any]]]]) -> Path:
    with replacing(folder) as new:
        (new / "images").mkdir()
        with (new / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for item, message in rows:
                (new / _picture(item)).write_bytes(_png(item))
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
    picture = {"type": "image", "image": _picture(item)}
    return [{"role": "user", "content": [picture, _text(item.question.text)]}]


def _demonstration(item: Item) -> list[dict[str, Any]]:
    return [*_question(item), {"role": "assistant", "content": [_text(item.demonstration)]}]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _picture(item: Item) -> str:
    return f"images/{item.id}.png"


def _png(item: Item) -> bytes:
    buffer = BytesIO()
    render(item.scene).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
