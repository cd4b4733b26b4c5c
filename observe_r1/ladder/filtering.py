"""Filters that need no model: broken rows, unverifiable answers, duplicates, and questions of a benchmark."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from hashlib import blake2b
from itertools import chain
from pathlib import Path

from PIL.Image import Image

from observe_r1.config import LadderSettings, QuestionSettings
from observe_r1.data.alike import Alike
from observe_r1.data.images import MOST_HELD, held_bytes, opened_image
from observe_r1.errors import UserError
from observe_r1.ladder.answers import checked_answer, in_capitals
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.questions import is_embedded, question_row, save_image
from observe_r1.ladder.sources.stream import BadRow, read_sources
from observe_r1.ladder.stage import DROPPED, QUESTIONS, READ, Watch, dropped
from observe_r1.records import Example
from observe_r1.threads import in_order

_AHEAD = 32
"""Rows whose images are decoded ahead."""
_SHOW_EVERY = 64

DISTINCTIVE_WORDS = 8
"""A question of fewer words ("Find x.") is asked about many images, so its words alone prove nothing."""

_STRIP = 256
"""Rows of pixels that are hashed at once: as bytes, they are in memory twice."""

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
"""Characters of scripts without spaces: two of them are about a word."""
_ALIKE = str.maketrans("−–’′", "--''")


class Fingerprint:
    """A question's images and words, whatever their file format, spacing, case and punctuation.

    The case of single letters counts, and so does every sign in a formula: side a is not angle A, f'(2) is not f(2),
    and A ∪ B is not A ∩ B.

    Args:
        example: The question.
        images: The `image_digest` of each of its images.
    """

    def __init__(self, example: Example, images: Sequence[bytes]) -> None:
        text = unicodedata.normalize("NFKC", _conversation(example)).translate(_ALIKE)
        words = [word if len(word) == 1 else word.casefold() for word in _WORD.findall(text)]
        signs = "".join(filter(_in_formula, text))
        self.question = _digest([" ".join(words).encode(errors="surrogatepass"), signs.encode()])
        self.images = tuple(images)
        self.distinctive = len(words) + len(_UNSPACED.findall(text)) / 2 >= DISTINCTIVE_WORDS or not images


def image_digest(image: Image) -> bytes:
    """Return a digest of an image's size and pixels."""
    width, height = image.size
    strips = range(0, height, _STRIP)
    pixels = (image.crop((0, top, width, min(top + _STRIP, height))).tobytes() for top in strips)
    return _digest(chain([str(image.size).encode()], pixels))


class Duplicates:
    """Finds questions that have the same images and the same words as an earlier one."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def find(self, name: str, print_: Fingerprint) -> str | None:
        """Return the id of the earlier question that this one repeats; without one, remember this one as `name`."""
        key = _digest([print_.question, *print_.images])
        earlier = self._seen.setdefault(key, name)
        return None if earlier == name else earlier


class Contamination:
    """Finds questions that share an image or their words with a benchmark.

    Words alone count if they are distinctive: at least `DISTINCTIVE_WORDS`, or asked without an image.

    Args:
        items: The benchmark's items, each with its place.
    """

    def __init__(self, items: Iterable[tuple[str, Fingerprint]]) -> None:
        self._images: dict[bytes, str] = {}
        self._questions: dict[bytes, str] = {}
        for place, print_ in items:
            for image in print_.images:
                self._images.setdefault(image, place)
            if print_.distinctive:
                self._questions.setdefault(print_.question, place)

    def find(self, print_: Fingerprint) -> str | None:
        """Return in words what the question shares with which item; None if it shares nothing."""
        for image in print_.images:
            if image in self._images:
                return f"same image as {self._images[image]}"
        if print_.distinctive and print_.question in self._questions:
            return f"same question as {self._questions[print_.question]}"
        return None


def _conversation(example: Example) -> str:
    """Return the text of all turns except the system turn."""
    turns = (message["content"] for message in example.messages if message["role"] != "system")
    return "\n".join(part["text"] for content in turns for part in content if part["type"] == "text")


def _in_formula(sign: str) -> bool:
    """Return whether a sign tells formulas apart; dollar signs only mark where one is."""
    return sign in "-*/%!'" or (unicodedata.category(sign).startswith("S") and sign != "$")


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


_Examined = tuple[Example, Fingerprint] | BadRow


def filter_questions(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Write the questions of all sources that pass to `questions.jsonl`, the others to `dropped.jsonl`.

    Dropped, in this order: rows that cannot be read or whose images do not open (with `skip_bad`); answers that cannot
    be verified; questions that repeat an earlier one; questions of a benchmark. Images inside rows are written into
    `images/`. After a kill it starts again from the first row.

    Returns:
        Whether it came to the end; False if it was stopped.

    Raises:
        UserError: A source or benchmark cannot be opened or, unless `skip_bad`, has a bad row.
    """
    data = settings.data
    count = 0
    with ExitStack() as stack:
        skipped = stack.enter_context(closing(Alike(watch.note)))
        watch.now("reading the benchmarks" if settings.screen.benchmarks else "reading the questions")
        duplicates, contamination = Duplicates(), _benchmarks(settings, skipped)
        journal = stack.enter_context(Journal(folder, READ, [QUESTIONS, DROPPED]))
        for count, row in enumerate(_examined(read_sources(data.sources, data), data), start=1):
            if isinstance(row, BadRow):
                if not data.skip_bad:
                    raise UserError(f"{row.error} (--skip-bad leaves such rows out)") from row.error
                skipped.add(str(row.error), start="skipped: ")
                journal.append(DROPPED, [dropped(row.id, row.source, READ, "broken row", str(row.error))])
            else:
                example, print_ = row
                answer, unverifiable = checked_answer(example)
                if reason := _reason(example, print_, unverifiable, duplicates, contamination):
                    journal.append(DROPPED, [dropped(example.id, example.source, *reason)])
                else:
                    images = [
                        save_image(source, folder, example.origin, data) if is_embedded(source) else str(source)
                        for source in example.images
                    ]
                    journal.append(QUESTIONS, [question_row(in_capitals(example, answer), images)])
            if count % _SHOW_EVERY == 0:
                watch.progress("reading", count, None)
                if watch.stopped():
                    return False
        journal.commit(count, complete=True)
    watch.progress("reading", count, count)
    return True


def _reason(
    example: Example,
    print_: Fingerprint,
    unverifiable: str | None,
    duplicates: Duplicates,
    contamination: Contamination,
) -> tuple[str, str, str] | None:
    """Return stage, reason and detail if a question does not pass."""
    if unverifiable:
        return "answer", unverifiable, f"gold answer {example.answer!r:.80}"
    if earlier := duplicates.find(example.id, print_):
        return "duplicate", "repeats an earlier question", f"same images and question as {earlier}"
    if shared := contamination.find(print_):
        return "benchmark", "is in a benchmark", shared
    return None


def _benchmarks(settings: LadderSettings, skipped: Alike) -> Contamination:
    whole = settings.data.model_copy(update={"max_samples": None})
    rows = _examined(read_sources(settings.screen.benchmarks, whole, benchmark=True), settings.data)

    def fingerprints() -> Iterator[tuple[str, Fingerprint]]:
        for row in rows:
            if not isinstance(row, BadRow):
                yield row[0].origin or row[0].id, row[1]
            elif not settings.data.skip_bad:
                raise UserError(f"screen.benchmarks: {row.error} (--skip-bad leaves such rows out)") from row.error
            else:
                skipped.add(str(row.error), start="skipped: screen.benchmarks: ")

    return Contamination(fingerprints())


def _examined(rows: Iterator[Example | BadRow], settings: QuestionSettings) -> Iterator[_Examined]:
    """Yield every row with its fingerprint, in order; other threads run while images are fetched and decoded."""

    def examine(row: Example | BadRow) -> _Examined:
        if isinstance(row, BadRow):
            return row
        try:
            images = []
            for source in row.images:
                with opened_image(source, row.origin, settings) as image:
                    images.append(image_digest(image))
            return row, Fingerprint(row, images)
        except UserError as error:
            return BadRow(row.id, row.source, error)

    def held(row: Example | BadRow) -> int:
        return 0 if isinstance(row, BadRow) else held_bytes(row)

    for _, examined in in_order(examine, rows, _AHEAD, held, MOST_HELD):
        yield examined
