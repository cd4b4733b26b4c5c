"""A question as a page shows it: its pictures, its text and its gold answer."""

import base64
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data import open_image
from observe_r1.errors import UserError
from observe_r1.records import Example, ImageSource

SIDE = 480
"""Pixels along the longer side of a copy, at most."""
MAX_BYTES = 60_000
"""Of a copy; one that is larger is made smaller."""
_FEW_COLORS = 8192
"""Pictures of more are photographs, on which an attempt without loss is wasted (and takes ten times as long)."""
_SMALL = 160
"""Pictures with no longer side are shown enlarged."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a page shows it."""

    uri: str = ""
    width: int = 0
    height: int = 0
    small: bool = False
    """Whether it has so few pixels that they are best shown enlarged."""
    error: str = ""
    """Why there is nothing to show, in one line."""


def inline_picture(source: ImageSource, origin: str, settings: QuestionSettings) -> Picture:
    """Return a copy of the image, or where it cannot be opened, the reason.

    Args:
        source: What `open_image` takes.
        origin: The row that names the image, for the reason.
        settings: As for `open_image`.
    """
    try:
        image = open_image(source, origin, settings)
    except UserError as error:
        return Picture(error=" ".join(str(error).split()))
    small = max(image.size) <= _SMALL
    data = _encode(image, SIDE)
    uri = "data:image/webp;base64," + base64.b64encode(data).decode()
    return Picture(uri, image.width, image.height, small)


def _encode(image: Image.Image, side: int) -> bytes:
    """Return the image as WebP: without loss where that is small enough, as of most diagrams."""
    image.thumbnail((side, side))
    for lossless in (True, False) if image.getcolors(_FEW_COLORS) else (False,):
        buffer = BytesIO()
        image.save(buffer, format="WEBP", lossless=lossless, quality=80, method=2)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    return _encode(image, side // 2)


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
