"""What trackers show beside curves: a step's groups with image, question and responses; the answers of an evaluation.

Bounded by `run.track_bytes`: images are shrunk, then texts lose their middle. The text is the model's and may hold
anything; each tracker sees to it that it is shown as text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

from PIL import Image

from observe_r1.config import QuestionSettings
from observe_r1.data.images import open_image
from observe_r1.evaluation.accuracy import GradedQuestion
from observe_r1.records import Example, Group

Text = str | float | bool | None
Cell = Text | Image.Image

_SIDE = 448
"""Pixels of a shown image's longer side at most."""
_GAP = 4
"""Pixels between the images of one question."""
_EVALUATED = 32
"""Questions of an evaluation that are shown at most."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to look at."""

    name: str
    """`groups` or `evaluation`; may be part of a file's name."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """One response each. The image of a question stands in the first row of its group alone."""

    @property
    def pictures(self) -> list[tuple[str, Image.Image]]:
        """Its images, each with its name in `named`."""
        images = [cell for row in self.rows for cell in row if isinstance(cell, Image.Image)]
        return [(f"image {number}", image) for number, image in enumerate(images, start=1)]

    @property
    def named(self) -> list[list[Text]]:
        """Its rows with names in place of the images, for trackers that show images elsewhere."""
        names = (name for name, _ in self.pictures)
        return [[next(names) if isinstance(cell, Image.Image) else cell for cell in row] for row in self.rows]


def group_table(groups: Iterable[Group], count: int, most: int, data: QuestionSettings) -> Table:
    """Return a table of the first groups that were sampled for a step, a row per response.

    Args:
        groups: Of the step.
        count: How many of them are shown.
        most: Bytes of the table at most: its images as PNG and its text as UTF-8.
        data: How images are fetched.

    Raises:
        UserError: An image cannot be read any more.
    """
    shown = list(islice(groups, count))
    parts = sorted({name for group in shown for name in group.parts})
    columns = ("group", "id", "image", "question", "gold answer", "response", "correct", *parts)
    columns += ("bonus", "weight", "advantage", "tokens")
    rows: list[tuple[Cell, ...]] = []
    for number, group in enumerate(shown, start=1):
        responses = len(group.completions)
        image, left = _picture(group.example, most // len(shown), data)
        text = left // responses
        for i, completion in enumerate(group.completions):
            row: tuple[Cell, ...] = (number, *_asked(group.example, None if i else image, text))
            row += (cut(completion.text, text // 2), bool(group.correct[i]))
            row += tuple(float(group.parts[name][i]) if name in group.parts else None for name in parts)
            rows.append((*row, float(group.bonus[i]), group.weight, float(group.advantages[i]), len(completion.ids)))
    return Table("groups", columns, tuple(rows))


def evaluation_table(graded: Sequence[GradedQuestion], most: int, data: QuestionSettings) -> Table:
    """Return a table of the first greedy responses of an evaluation, 32 at most, as `group_table`."""
    shown = graded[:_EVALUATED]
    columns = ("id", "image", "question", "gold answer", "response", "correct", "well-formed", "tokens")
    rows: list[tuple[Cell, ...]] = []
    for question in shown:
        greedy = question.greedy
        image, text = _picture(question.example, most // len(shown), data)
        asked = _asked(question.example, image, text)
        rows.append((*asked, cut(greedy.text, text // 2), greedy.correct, greedy.well_formed, greedy.tokens))
    return Table("evaluation", columns, tuple(rows))


def _asked(example: Example, image: Image.Image | None, most: int) -> tuple[Cell, ...]:
    """Return id, image, question and gold answer; their text fills half of `most` bytes at most."""
    texts = [part["text"] for message in example.messages for part in message["content"] if part["type"] == "text"]
    answer = cut(example.answer, most // 8)
    return cut(example.id, most // 8), image, cut("\n".join(texts), most // 4), answer


def _picture(example: Example, most: int, data: QuestionSettings) -> tuple[Image.Image | None, int]:
    """Return the images of a question, beside each other, and how many of `most` bytes they leave: half at least."""
    if not example.images:
        return None, most
    opened = [open_image(source, example.origin, data) for source in example.images]
    for image in opened:
        image.thumbnail((_SIDE, _SIDE))
    width = sum(image.width for image in opened) + _GAP * (len(opened) - 1)
    picture = Image.new("RGB", (width, max(image.height for image in opened)), "white")
    left = 0
    for image in opened:
        picture.paste(image, (left, 0))
        left += image.width + _GAP
    while (size := len(png(picture))) > most // 2:
        if max(picture.size) < 16:
            return None, most
        scale = 0.9 * (most / 2 / size) ** 0.5
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return picture, most - size


def png(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


def cut(text: str, most: int) -> str:
    """Return `text` in at most `most` bytes of UTF-8 and without unprintable characters; a long one loses its middle.

    Its end says more than its middle: there is the answer.
    """
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    data = text.encode()
    if len(data) <= most:
        return text
    mark = f" … {len(data):,} bytes … "
    kept = max(0, most - len(mark.encode()))
    start, end = data[: kept // 2], data[len(data) - kept + kept // 2 :]
    return (start.decode(errors="ignore") + mark + end.decode(errors="ignore")) if kept else ""
