"""`observe-r1 data check`: what is wrong with each bad row, many alike in one line, then figures of the dataset."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from threading import Lock

import numpy as np
from rich.console import Console
from rich.text import Text

from observe_r1.cli.terminal import one_line
from observe_r1.config import DataCheckSettings, FileSettings, ModelSettings, ProcessorSettings
from observe_r1.data.alike import Alike
from observe_r1.data.checking import CheckedRow, Repeats, RowCheck, read_example
from observe_r1.data.examples import Examples, open_examples
from observe_r1.data.images import MOST_HELD, held_bytes
from observe_r1.data.mixture import file_names, mix_sequences
from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.ladder.answers import checked_answer
from observe_r1.records import Example
from observe_r1.rewards.accuracy import require_verifiable
from observe_r1.rewards.judge.answer import final_answer
from observe_r1.rewards.judge.reading import read
from observe_r1.rewards.judge.values import Several, kind
from observe_r1.run.progress import Progress
from observe_r1.threads import in_order

_AT_ONCE = 32
"""Rows that are checked at a time: most of the time is spent waiting for images."""

Place = tuple[Examples, int]
"""A row: its file, and its number there from 0."""


def check_data(settings: DataCheckSettings, view: Progress) -> tuple[int, str]:
    """Check the dataset and print what is found.

    Args:
        settings: The dataset, and the model whose processor counts tokens.
        view: Of the start of the command; it is closed before the rows are checked, because that prints between its
            own lines.

    Returns:
        Exit code 0 if every row is good, else 2; and nothing more to print.

    Raises:
        UserError: a file or the model cannot be read.
    """
    data = settings.data
    view.now(f"opening {data.path}")
    parts = [
        open_examples(name, data.input_key, data.label_key, data.columns, require_answer=False)
        for name in file_names(data)
    ]
    files = list(chain.from_iterable(parts))
    rows = mix_sequences(files, None, seed=0, limit=data.max_samples)
    check = RowCheck(data, require_verifiable, _token_counter(settings.model, data))
    view.close()
    out, survey, problems = Console(), Survey(), Alike()
    # A view that shares the terminal with printed lines must know of them; if they go to a file, it has its own.
    try:
        with Progress("data check", console=out if out.is_terminal else Console(stderr=True)) as counting:
            counting.now("checking rows", len(rows), lambda: survey.rows)
            for (examples, index), row in _checked(check, islice(_places(files), len(rows))):
                survey.add(row, examples.implied_id(index))
                for problem in row.problems:
                    problems.add(problem)
        for place, first in survey.ids.pairs():
            survey.mark_bad(place)
            problems.add(_same_id(rows[place], rows[first]))
    finally:  # also after Ctrl-C: what was found is not lost
        for line in problems.lines():
            _say(out, line)
    _summarise(out, survey, data)
    return 2 if survey.bad else 0, ""


def _places(files: Sequence[Examples]) -> Iterator[Place]:
    return ((examples, index) for examples in files for index in range(len(examples)))


def _checked(check: RowCheck, places: Iterator[Place]) -> Iterator[tuple[Place, CheckedRow]]:
    """Yield every row with its check, in order; decoding and fetching images lets other threads run."""

    def held(row: tuple[Examples, int, Example | UserError]) -> int:
        return 0 if isinstance(row[2], UserError) else held_bytes(row[2])

    rows = ((*place, read_example(*place)) for place in places)
    for (examples, index, _), checked in in_order(lambda row: check(*row), rows, _AT_ONCE, held, MOST_HELD):
        yield (examples, index), checked


def _token_counter(model: ProcessorSettings, data: FileSettings) -> Callable[[Example], int] | None:
    if model.path is None:
        return None
    from observe_r1.model.encoding import PromptTooLongError, encode_prompt
    from observe_r1.model.processor import load_processor

    processor = load_processor(ModelSettings(**model.model_dump()))
    one_at_a_time = Lock()  # fast tokenizers may not be shared between threads

    def count(example: Example) -> int:
        with one_at_a_time:
            try:
                return len(encode_prompt(example, processor, data).ids)
            except PromptTooLongError as error:
                return error.tokens

    return count


def _same_id(row: Example, first: Example) -> str:
    return f"{row.origin}, 'id': {shorten(row.id)} is already the id of {first.origin}: give every row its own"


def _summarise(out: Console, survey: Survey, data: FileSettings) -> None:
    for name, figures in survey.lines(data.max_prompt_tokens, data.label_key):
        _say(out, f"{name:<10} {figures}")
    if survey.bad:
        _say(out, f"bad: {survey.bad:,} of {survey.rows:,} rows, see above")
    else:
        _say(out, f"good: {'all' if survey.rows > 1 else 'the'} {_counted(survey.rows, 'row')}")


def _say(out: Console, line: str) -> None:
    out.print(Text(one_line(line)), soft_wrap=True)


class Survey:
    """Counts, lengths, image sizes, and what the dataset holds twice."""

    def __init__(self) -> None:
        self.rows = 0
        self.ids = Repeats()
        """Of rows that have one."""
        self._bad = bytearray()
        self._answers: Counter[str] = Counter()
        self._not_for_ladders: Counter[str] = Counter()
        """Why a ladder drops rows that are good."""
        self._demonstrations = 0
        """Rows with a response instead of a gold answer."""
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
            if not row.problems and (reason := checked_answer(example)[1]):
                self._not_for_ladders[reason] += 1
        else:
            self._demonstrations += 1
        self._characters.append(_characters(example))
        self._questions.add(place, repr(example.messages), *example.images)

    def mark_bad(self, place: int) -> None:
        """Count the row at `place` as bad after all."""
        self._bad[place] = True

    def lines(self, max_prompt_tokens: int, label_key: str) -> list[tuple[str, str]]:
        """Return the figures, each with its name."""
        answers = [f"{count:,} {kind}" for kind, count in self._answers.most_common()]
        if count := self._demonstrations:
            answers.append(
                f"{_counted(count, 'demonstration')}: for sft; train and ladder need a gold answer in {label_key!r}"
            )
        lines = [
            ("rows", f"{self.rows:,}"),
            ("answers", ", ".join(answers) or "none"),
            ("questions", f"{_spread(self._characters)} characters" if self._characters else "none"),
        ]
        if self._tokens:
            over = int((np.array(self._tokens) > max_prompt_tokens).sum())
            limit = f"{over:,} over data.max_prompt_tokens ({max_prompt_tokens:,}), which training drops"
            lines.append(("prompts", f"{_spread(self._tokens)} tokens, image tokens included; {limit}"))
        if self._widths:
            lines.append(("images", f"{len(self._widths):,}: {self._image_sizes()} pixels"))
        if dropped := self._not_for_ladders:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
            whose = f"{_counted(dropped.total(), 'row')} by their gold answers or questions"
            lines.append(("ladder", f"drops {whose} (training does not): {reasons}"))
        repeated = sum(1 for _ in self._questions.pairs())
        lines.append(("repeated", f"{repeated:,} (rows with the question and images of an earlier row)"))
        return lines

    def _image_sizes(self) -> str:
        by_pixels = np.argsort(np.array(self._widths) * np.array(self._heights), kind="stable")
        places = (by_pixels[0], by_pixels[(len(by_pixels) - 1) // 2], by_pixels[-1])
        smallest, median, largest = (f"{self._widths[place]} × {self._heights[place]}" for place in places)
        return f"smallest {smallest}, median {median}, largest {largest}"


def _answer_kind(answer: str) -> str:
    readings = read(final_answer(answer))
    if not readings:
        return "unverifiable" if answer else "absent"
    return "of several values" if isinstance(readings[0], Several) else kind(readings[0])


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _characters(example: Example) -> int:
    return sum(len(part.get("text", "")) for message in example.messages for part in message["content"])


def _spread(values: array[int]) -> str:
    ordered = np.sort(np.array(values))
    return f"{ordered[0]:,} to {ordered[-1]:,} (median {ordered[(len(ordered) - 1) // 2]:,})"
