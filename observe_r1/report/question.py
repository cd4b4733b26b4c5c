"""A question as a page shows it: its pictures, its text and its gold answer."""

from dataclasses import dataclass

from observe_r1.config import QuestionSettings
from observe_r1.records import Example
from observe_r1.report.pictures import Picture, inline_picture

MOST_PICTURES = 4
"""Shown of a question's pictures."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a page shows of an example."""

    id: str
    source: str
    question: str
    answer: str
    complexity: float | None
    pictures: tuple[Picture, ...]
    left_out: int
    """Pictures that are not shown."""


def question(example: Example, data: QuestionSettings) -> Question:
    """Open the example's pictures, as `open_image` does with `data`; those that cannot be opened say why."""
    return Question(
        id=example.id,
        source=example.source,
        question=question_text(example),
        answer=example.answer,
        complexity=example.complexity,
        pictures=tuple(inline_picture(image, example.origin, data) for image in example.images[:MOST_PICTURES]),
        left_out=max(0, len(example.images) - MOST_PICTURES),
    )


def question_text(example: Example) -> str:
    """Return the text of all turns but the system's; of several images each has its number where it stands."""
    turns, number = [], 0
    for message in example.messages:
        pieces = []
        for part in message["content"]:
            if part["type"] == "text":
                pieces.append(part["text"])
            elif len(example.images) > 1:
                number += 1
                pieces.append(f" [picture {number}] ")
        if message["role"] != "system":
            turns.append("".join(pieces).strip())
    return "\n\n".join(turns)
