"""Rollouts for the gallery of a page: a bounded choice of questions with their images and responses, as JSON.

The page's script (`templates/report.js`) shows, filters and searches them. How much is left out is part of the result,
and the page says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from observe_r1.records import Example
from observe_r1.report.pages import clean, clipped
from observe_r1.report.question import MAX_IMAGES, inline_image, shown_text
from observe_r1.report.run_questions import Questions
from observe_r1.report.run_records import SampledGroup

T = TypeVar("T")

MAX_GROUPS = 240
"""Questions with their responses in one page, of all its runs together."""
MAX_RESPONSES = 8
"""Responses shown of one group."""
MAX_TEXT = 4_000
"""Characters shown of one response or question."""
MAX_BYTES = 3_000_000
"""Bytes of images and texts in one page, about; what comes after that is left out."""


@dataclass(slots=True)
class Gallery:
    """Cards with their images, and how many there would be."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    """`InlineImage`s, which the cards name by their places here."""
    groups: int = 0
    """Groups that there are, shown or not."""
    full: bool = False
    """Whether `MAX_BYTES` left out some that were chosen."""
    _bytes: int = 0
    _places: dict[tuple[int, str], list[int | str]] = field(default_factory=dict)

    def add(self, card: dict[str, Any], run: int, row_id: str, questions: Questions) -> dict[str, Any] | None:
        """Return a card with its question, whose images are kept; None if there is no more room.

        Args:
            card: Of the question `row_id`.
            run: Which of the page's runs and evaluations it is from.
            row_id: Its id in `questions`.
            questions: Of that run or evaluation.
        """
        example, key = questions.get(row_id), (id(questions), row_id)
        texts = sum(len(response["text"]) for response in card["responses"])
        if self._bytes + texts > MAX_BYTES:
            self.full = True
            return None
        if key not in self._places:
            self._places[key] = self._shown(example, questions)
        self._bytes += texts
        asked = {"run": run, "images": self._places[key]} | _question(example, row_id, questions)
        return card | asked

    def _shown(self, example: Example | None, questions: Questions) -> list[int | str]:
        """Return the images of a question: where they are in `images`, or why one is not shown."""
        if example is None:
            return [] if questions.missing else ["the dataset no longer has this question"]
        places: list[int | str] = []
        for source in example.images[:MAX_IMAGES]:
            image = inline_image(source, example.origin, questions.settings)
            if image.error or self._bytes + len(image.uri) > MAX_BYTES:
                places.append(clean(image.error or "left out: the page has no more room"))
                continue
            self._bytes += len(image.uri)
            self.images.append({"src": image.uri, "width": image.width, "height": image.height, "small": image.small})
            places.append(len(self.images) - 1)
        if (left_out := len(example.images) - MAX_IMAGES) > 0:
            places.append(f"{left_out} more images")
        return places


def _question(example: Example | None, row_id: str, questions: Questions) -> dict[str, Any]:
    return {
        "id": clean(clipped(row_id, 200)),
        "question": clean(clipped(shown_text(example), MAX_TEXT)) if example else "",
        "difficulty": questions.difficulty.get(row_id),
    }


def training_card(group: SampledGroup) -> dict[str, Any]:
    """Return the card of a group sampled in training, without its question."""
    right = sum(bool(row["correct"]) for row in group.rows)
    return {
        "part": "training",
        "step": group.step,
        "answer": clean(clipped(str(group.rows[0].get("answer", "")), 300)),
        "right": right,
        "of": len(group.rows),
        "weight": group.rows[0].get("weight"),
        "responses": [_response(row, f"response {row['response'] + 1}") for row in _telling(group.rows)],
    }


def answers_card(
    part: str, step: int | None, answer: str, rows: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Return the card of a question whose answers are compared, without the question itself.

    Args:
        part: Where it stands in the gallery: `held-out`, `evaluation`.
        step: The last one that it shows; None for an evaluation.
        answer: The gold answer.
        rows: Whose response it is, and the response, in the order to be shown.
    """
    responses = [_response(row, by) for by, row in rows]
    return {"part": part, "step": step, "answer": clean(clipped(answer, 300)), "responses": responses}


def _telling(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `MAX_RESPONSES` of a group, its best and its worst among them, in their order."""
    if len(rows) <= MAX_RESPONSES:
        return list(rows)
    ranked = sorted(rows, key=lambda row: -row["advantage"])
    half = MAX_RESPONSES // 2
    return sorted(ranked[:half] + ranked[-half:], key=lambda row: int(row["response"]))


def _response(row: dict[str, Any], by: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: row[name] for name in ("tokens", "correct", "reward", "parts", "bonus", "advantage") if name in row
    }
    cut = {"cut": True} if row.get("finish") == "length" else {}
    return {"by": by, "text": clean(clipped(str(row["text"]), MAX_TEXT)), **shown, **cut}


def choose(groups: Sequence[SampledGroup], most: int) -> list[SampledGroup]:
    """Return at most `most` groups of a step, spread over it: those with both right and wrong responses first.

    The choice for a smaller `most` is the beginning of that for a larger one.
    """
    mixed = [group for group in groups if 0 < group.share_right < 1]
    rest = [group for group in groups if not 0 < group.share_right < 1]
    return [each[place] for each in (mixed, rest) for place in _halving(len(each))][:most]


def _halving(count: int) -> list[int]:
    """Return the numbers below `count` so that the first of them, however many, are spread: 0, 4, 2, 6, 1, 5, 3, 7."""
    bits = max(0, count - 1).bit_length()
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in turned if number < count]


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return `most` items at even distances, or all if there are no more."""
    return [items[len(items) * i // most] for i in range(most)] if len(items) > most else list(items)


def steps_shown(steps: Sequence[int], most: int) -> Iterable[tuple[int, int]]:
    """Return the steps of which groups are shown, spread over `steps`, and how many of each: at most `most` in all."""
    if not steps or most < 1:
        return []
    if len(steps) >= most:
        return [(steps[len(steps) * i // most], 1) for i in range(most)]
    each, more = divmod(most, len(steps))
    return [(step, each + (number < more)) for number, step in enumerate(steps)]
