"""A question as a page shows it: its images, its text and its gold answer."""

import base64
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data import open_image
from observe_r1.errors import UserError
from observe_r1.records import Example, ImageSource

MAX_IMAGES = 4
"""Images shown per question."""
SIDE = 480
"""Pixels along the longer side of a copy, at most."""
_MAX_COPY_BYTES = 60_000
"""A larger copy is made smaller."""
_FEW_COLORS = 8192
"""An image with more colours is a photograph: lossless encoding would be wasted on it, and take ten times as long."""
_SMALL = 160
"""An image whose longer side has no more pixels is shown enlarged."""


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image as a page shows it."""

    uri: str = ""
    width: int = 0
    height: int = 0
    small: bool = False
    """Whether it has so few pixels that it is shown enlarged."""
    error: str = ""
    """Why there is nothing to show, in one line."""


@dataclass(frozen=True, slots=True)
class QuestionCard:
    """What a page shows of an example."""

    id: str
    source: str
    question: str
    answer: str
    complexity: float | None
    images: tuple[InlineImage, ...]
    left_out: int
    """Images that are not shown."""


def question_card(example: Example, data: QuestionSettings) -> QuestionCard:
    """Return the card of an example; an image that cannot be opened (see `open_image`) shows the reason."""
    return QuestionCard(
        id=example.id,
        source=example.source,
        question=shown_text(example),
        answer=example.answer,
        complexity=example.complexity,
        images=tuple(inline_image(image, example.origin, data) for image in example.images[:MAX_IMAGES]),
        left_out=max(0, len(example.images) - MAX_IMAGES),
    )


def shown_text(example: Example) -> str:
    """Return the text of all turns except the system turn; several images have their numbers where they are."""
    turns, number = [], 0
    for message in example.messages:
        pieces = []
        for part in message["content"]:
            if part["type"] == "text":
                pieces.append(part["text"])
            elif len(example.images) > 1:
                number += 1
                pieces.append(f" [image {number}] ")
        if message["role"] != "system":
            turns.append("".join(pieces).strip())
    return "\n\n".join(turns)


def inline_image(source: ImageSource, origin: str, settings: QuestionSettings) -> InlineImage:
    """Return a copy of the image or, if it cannot be opened, the reason.

    Args:
        source: What `open_image` takes.
        origin: The row that names the image, for the reason.
        settings: As for `open_image`.
    """
    try:
        image = open_image(source, origin, settings)
    except UserError as error:
        return InlineImage(error=" ".join(str(error).split()))
    small = max(image.size) <= _SMALL
    data = _encode(image, SIDE)
    uri = "data:image/webp;base64," + base64.b64encode(data).decode()
    return InlineImage(uri, image.width, image.height, small)


def _encode(image: Image.Image, side: int) -> bytes:
    """Return the image as WebP: lossless if that is small enough, as for most diagrams."""
    image.thumbnail((side, side))
    for lossless in (True, False) if image.getcolors(_FEW_COLORS) else (False,):
        buffer = BytesIO()
        image.save(buffer, format="WEBP", lossless=lossless, quality=80, method=2)
        if buffer.tell() <= _MAX_COPY_BYTES:
            return buffer.getvalue()
    return _encode(image, side // 2)
