"""Every row of a dataset checked: what is wrong with bad ones, many alike counted, and the rest in figures."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from threading import Lock

from rich.console import Console
from rich.text import Text

from observe_r1.cli.data_survey import Survey
from observe_r1.cli.gold_answers import require_verifiable
from observe_r1.cli.terminal import one_line
from observe_r1.config import DataCheckSettings, DataSettings, ModelSettings, ProcessorSettings
from observe_r1.data.alike import Alike
from observe_r1.data.checking import CheckedRow, RowCheck, read
from observe_r1.data.examples import Examples, open_examples
from observe_r1.data.images import MOST_HELD, held_bytes
from observe_r1.data.mixture import file_names, mix_sequences
from observe_r1.data.wrong_value import shorten
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.threads import in_order
from observe_r1.training.progress import Progress

_AT_ONCE = 32
"""Rows being checked: most of the time goes into waiting for images."""

Place = tuple[Examples, int]
"""A row: its file, and its number there from 0."""


def check_data(settings: DataCheckSettings) -> int:
    """Check the dataset and print what is found. Returns 0 where all rows are good, else 2."""
    data = settings.data
    parts = [open_examples(name, data.input_key, data.label_key, require_answer=False) for name in file_names(data)]
    files = list(chain.from_iterable(parts))
    rows = mix_sequences(files, None, seed=0, limit=data.max_samples)
    check = RowCheck(data, require_verifiable, _token_counter(settings.model, data))
    out, survey, problems = Console(), Survey(), Alike()
    # Beside lines on the same terminal the view has to know of them; where they go to a file it may have its own.
    try:
        with Progress("data check", console=out if out.is_terminal else Console(stderr=True)) as view:
            view.now("checking rows", len(rows), lambda: survey.rows)
            for (examples, index), row in _checked(check, islice(_places(files), len(rows))):
                survey.add(row, examples.implied_id(index))
                for problem in row.problems:
                    problems.add(problem)
        for place, first in survey.ids.pairs():
            survey.mark_bad(place)
            problems.add(_same_id(rows[place], rows[first]))
    finally:  # Ctrl-C as well: what was found is not lost
        for line in problems.lines():
            _say(out, line)
    _summarise(out, survey, data)
    return 2 if survey.bad else 0


def _places(files: Sequence[Examples]) -> Iterator[Place]:
    return ((examples, index) for examples in files for index in range(len(examples)))


def _checked(check: RowCheck, places: Iterator[Place]) -> Iterator[tuple[Place, CheckedRow]]:
    """Yield every row with its check, in order; decoding and fetching images lets other threads run."""

    def held(row: tuple[Examples, int, Example | UserError]) -> int:
        return 0 if isinstance(row[2], UserError) else held_bytes(row[2])

    rows = ((*place, read(*place)) for place in places)
    for (examples, index, _), checked in in_order(lambda row: check(*row), rows, _AT_ONCE, held, MOST_HELD):
        yield (examples, index), checked


def _token_counter(model: ProcessorSettings, data: DataSettings) -> Callable[[Example], int] | None:
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
    return f"{row.origin}, 'id': {shorten(row.id)} is the id of {first.origin} already: give every row its own"


def _summarise(out: Console, survey: Survey, data: DataSettings) -> None:
    for name, figures in survey.lines(data.max_prompt_tokens, data.label_key):
        _say(out, f"{name:<10} {figures}")
    if survey.bad:
        _say(out, f"bad: {survey.bad:,} of {survey.rows:,} rows, for what is named above")
    else:
        _say(out, f"good: all {survey.rows:,} rows")


def _say(out: Console, line: str) -> None:
    out.print(Text(one_line(line)), soft_wrap=True)
