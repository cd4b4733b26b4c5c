"""Checking a dataset row by row, and finding duplicates in it, in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from observe_r1.config import QuestionSettings
from observe_r1.data.examples import Examples
from observe_r1.data.images import opened_image
from observe_r1.errors import UserError
from observe_r1.records import Example


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """One row, read and with its images opened."""

    example: Example | None
    """None if the row cannot be read."""
    image_sizes: tuple[tuple[int, int], ...]
    """Width and height of each image that opens, in pixels."""
    tokens: int | None
    """Length of the prompt; None if it was not asked for, or the row has a problem."""
    problems: tuple[str, ...]


def read_example(examples: Examples, index: int) -> Example | UserError:
    """Return the row at `index`, or the error that says why it cannot be read."""
    try:
        return examples[index]
    except UserError as error:
        return error


@dataclass(frozen=True)
class RowCheck:
    """Opens a row's images and checks its gold answer, and continues after a problem if that is possible."""

    data: QuestionSettings
    """How images are opened."""
    check_answer: Callable[[Example], None]
    """Raises `UserError` for a gold answer that cannot be verified."""
    count_tokens: Callable[[Example], int] | None = None
    """Returns the length of an example's prompt; raises `UserError`."""

    def __call__(self, examples: Examples, index: int, example: Example | UserError) -> CheckedRow:
        """Check one row.

        Args:
            examples: The file, opened with `require_answer=False`.
            index: The row, from 0.
            example: What `read_example` returned for it.
        """
        problems: list[str] = []
        sizes: list[tuple[int, int]] = []
        tokens = None
        if isinstance(example, UserError):
            return CheckedRow(None, (), None, (str(example),))
        for source in example.images:
            with _noted(problems), opened_image(source, example.origin, self.data) as image:
                sizes.append(image.size)
        with _noted(problems):
            if example.answer:
                self.check_answer(example)
            elif example.response is None:
                _ = replace(examples, require_answer=True)[index]  # its error says what is missing
        if self.count_tokens and not problems:
            with _noted(problems):
                tokens = self.count_tokens(example)
        return CheckedRow(example, tuple(sizes), tokens, tuple(problems))


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        problems.append(str(error))


class Repeats:
    """Finds values that occur again, at 16 bytes per value, whatever its size."""

    def __init__(self) -> None:
        self._hashes, self._places = array("Q"), array("Q")

    def add(self, place: int, *value: str | bytes) -> None:
        """Add the value at `place`, given in one part or several; places ascend."""
        digest = blake2b(digest_size=8)
        for part in value:
            data = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8))
            digest.update(data)
        self._hashes.append(int.from_bytes(digest.digest()))
        self._places.append(place)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield, for each value that occurred before, its place and the first place of the same value."""
        hashes, places = np.array(self._hashes), np.array(self._places)
        by_hash = np.argsort(hashes, kind="stable")
        is_new = np.append(True, np.diff(hashes[by_hash]) != 0)[: len(hashes)]
        first = by_hash[np.maximum.accumulate(np.where(is_new, np.arange(len(hashes)), 0))]
        repeats = np.sort(by_hash[~is_new])
        first_of = np.empty_like(by_hash)
        first_of[by_hash] = first
        for repeat in repeats:
            yield int(places[repeat]), int(places[first_of[repeat]])
