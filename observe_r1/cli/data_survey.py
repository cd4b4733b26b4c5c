"""A dataset in figures, collected row by row in about 70 bytes a row."""

from array import array
from collections import Counter

import numpy as np

from observe_r1.data.checking import CheckedRow, Repeats
from observe_r1.records import Example
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import kind


class Survey:
    """Counts, lengths, image sizes, and what stands in the dataset twice."""

    def __init__(self) -> None:
        self.rows = 0
        self.ids = Repeats()
        """Of rows that state one."""
        self._bad = bytearray()
        self._answers: Counter[str] = Counter()
        self._demonstrations = 0
        """Rows with a response in the place of a gold answer."""
        self._characters, self._tokens = array("L"), array("L")
        self._widths, self._heights = array("L"), array("L")
        self._questions = Repeats()

    @property
    def bad(self) -> int:
        """Rows with a problem."""
        return sum(self._bad)

    def add(self, row: CheckedRow, implied_id: str) -> None:
        """Take the next row."""
        place, example = self.rows, row.example
        self.rows += 1
        self._bad.append(bool(row.problems))
        for width, height in row.image_sizes:
            self._widths.append(width)
            self._heights.append(height)
        if row.tokens is not None:
            self._tokens.append(row.tokens)
        if example is None:
            return
        if example.id != implied_id:
            self.ids.add(place, example.id)
        if example.answer or example.response is None:
            self._answers[_answer_kind(example.answer)] += 1
        else:
            self._demonstrations += 1
        self._characters.append(_characters(example))
        self._questions.add(place, repr(example.messages), *example.images)

    def mark_bad(self, place: int) -> None:
        """Say that the row at `place` has a problem after all."""
        self._bad[place] = True

    def lines(self, max_prompt_tokens: int, label_key: str) -> list[tuple[str, str]]:
        """Return the figures, each with its name."""
        answers = [f"{count:,} {kind}" for kind, count in self._answers.most_common()]
        if count := self._demonstrations:
            noun = "demonstration" if count == 1 else "demonstrations"
            answers.append(f"{count:,} {noun}: for sft; train and ladder need a gold answer in {label_key!r}")
        lines = [
            ("rows", f"{self.rows:,}"),
            ("answers", ", ".join(answers)),
            ("questions", f"{_spread(self._characters)} characters"),
        ]
        if self._tokens:
            over = int((np.array(self._tokens) > max_prompt_tokens).sum())
            limit = f"{over:,} over data.max_prompt_tokens ({max_prompt_tokens:,}), which training drops"
            lines.append(("prompts", f"{_spread(self._tokens)} tokens, those of images included; {limit}"))
        if self._widths:
            lines.append(("images", f"{len(self._widths):,}: {self._image_sizes()} pixels"))
        repeated = sum(1 for _ in self._questions.pairs())
        lines.append(("repeated", f"{repeated:,} (rows that ask an earlier row's question of the same images)"))
        return lines

    def _image_sizes(self) -> str:
        by_pixels = np.argsort(np.array(self._widths) * np.array(self._heights), kind="stable")
        places = (by_pixels[0], by_pixels[(len(by_pixels) - 1) // 2], by_pixels[-1])
        smallest, median, largest = (f"{self._widths[place]} × {self._heights[place]}" for place in places)
        return f"smallest {smallest}, median {median}, largest {largest}"


def _answer_kind(answer: str) -> str:
    readings = read(answer)
    return kind(readings[0]) if readings else "unverifiable" if answer else "absent"


def _characters(example: Example) -> int:
    return sum(len(part.get("text", "")) for message in example.messages for part in message["content"])


def _spread(values: "array[int]") -> str:
    if not values:
        return "no"
    ordered = np.sort(np.array(values))
    return f"{ordered[0]:,} to {ordered[-1]:,} (median {ordered[(len(ordered) - 1) // 2]:,})"
