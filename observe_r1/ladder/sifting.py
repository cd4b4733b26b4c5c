"""Questions that are there already, or that a benchmark asks, found by pictures and words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain

from PIL.Image import Image

from observe_r1.records import Example

DISTINCTIVE_WORDS = 8
"""A question of fewer words ("Find x.") is asked of many pictures, so that its words alone say nothing."""

_STRIP = 256
"""Rows of pixels that are digested at once: as bytes, they are there twice."""

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
"""Characters of scripts without spaces: two of them are about a word."""
_ALIKE = str.maketrans("−–’′", "--''")


class Fingerprint:
    """A question by its pictures and its words, whatever their file format, spacing, case and punctuation.

    Of single letters the case counts, and all signs of formulas count: side a is not angle A, f'(2) is not f(2), and
    A ∪ B is not A ∩ B.

    Args:
        example: The question.
        images: What `image_digest` made of its pictures.
    """

    def __init__(self, example: Example, images: Sequence[bytes]) -> None:
        text = unicodedata.normalize("NFKC", _conversation(example)).translate(_ALIKE)
        words = [word if len(word) == 1 else word.casefold() for word in _WORD.findall(text)]
        signs = "".join(filter(_in_formula, text))
        self.question = _digest([" ".join(words).encode(errors="surrogatepass"), signs.encode()])
        self.images = tuple(images)
        self.distinctive = len(words) + len(_UNSPACED.findall(text)) / 2 >= DISTINCTIVE_WORDS or not images


def image_digest(image: Image) -> bytes:
    """Return what stands for a picture's size and pixels."""
    width, height = image.size
    strips = range(0, height, _STRIP)
    pixels = (image.crop((0, top, width, min(top + _STRIP, height))).tobytes() for top in strips)
    return _digest(chain([str(image.size).encode()], pixels))


class Duplicates:
    """Finds questions that have the same pictures and the same words as an earlier one."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}

    def find(self, name: str, print_: Fingerprint) -> str | None:
        """Return the id of the earlier question that this one repeats; else remember this one as `name`."""
        key = _digest([print_.question, *print_.images])
        earlier = self._seen.setdefault(key, name)
        return None if earlier == name else earlier


class Contamination:
    """Finds questions that share a picture or a question with a benchmark.

    Words alone count where they are distinctive: at least `DISTINCTIVE_WORDS`, or asked without a picture.

    Args:
        items: The benchmark's items, each with where it stands.
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
        """Return in words what the question shares with which item; None if nothing."""
        for image in print_.images:
            if image in self._images:
                return f"same picture as {self._images[image]}"
        if print_.distinctive and print_.question in self._questions:
            return f"same question as {self._questions[print_.question]}"
        return None


def _conversation(example: Example) -> str:
    """Return the text of all turns but the system's."""
    turns = (message["content"] for message in example.messages if message["role"] != "system")
    return "\n".join(part["text"] for content in turns for part in content if part["type"] == "text")


def _in_formula(sign: str) -> bool:
    """Whether a sign tells formulas apart; dollar signs only say where one stands."""
    return sign in "-*/%!'" or (unicodedata.category(sign).startswith("S") and sign != "$")


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
