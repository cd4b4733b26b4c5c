"""Every row of a dataset checked: bad ones listed, the rest in figures."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from threading import Lock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from observe_r1.cli.data_survey import Survey
from observe_r1.cli.gold_answers import require_verifiable
from observe_r1.cli.terminal import one_line
from observe_r1.config import DataCheckSettings, DataSettings, ModelSettings, ProcessorSettings
from observe_r1.data.checking import CheckedRow, RowCheck
from observe_r1.data.examples import Examples, open_examples
from observe_r1.data.mixture import file_names, mix_sequences
from observe_r1.data.wrong_value import shorten
from observe_r1.records import Example
from observe_r1.threads import in_daemon_thread

_AT_ONCE = 32
"""Rows being checked: most of the time goes into waiting for images."""

Place = tuple[Examples, int]
"""A row: its file, and its number there from 0."""


def check_data(settings: DataCheckSettings) -> int:
    """Check the dataset and print what is found. Returns 0 where all rows are good, else 2."""
    data = settings.data
    files = [open_examples(name, data.input_key, data.label_key, require_answer=False) for name in file_names(data)]
    rows = mix_sequences(files, None, seed=0, limit=data.max_samples)
    check = RowCheck(data.image_cache, require_verifiable, _token_counter(settings.model, data))
    out, survey = Console(), Survey()
    # Beside lines on the same terminal the bar has to know of them; where they go to a file it may have its own.
    with _progress(out if out.is_terminal else Console(stderr=True)) as progress:
        bar = progress.add_task("checking", total=len(rows))
        for (examples, index), row in _checked(check, islice(_places(files), len(rows))):
            survey.add(row, examples.implied_id(index))
            if row.problems:
                _say(out, all_problems(row))
            progress.advance(bar)
    for place, first in survey.ids.pairs():
        survey.mark_bad(place)
        _say(out, _same_id(rows[place], rows[first]))
    _summarise(out, survey, data.max_prompt_tokens)
    return 2 if survey.bad else 0


def all_problems(row: CheckedRow) -> str:
    """Return all problems of a row as one line that names the row once."""
    first, *others = row.problems
    origin = row.example.origin if row.example else ""
    return "; ".join([first, *(other.removeprefix(origin).lstrip(":, ") for other in others)])


def _places(files: Sequence[Examples]) -> Iterator[Place]:
    return ((examples, index) for examples in files for index in range(len(examples)))


def _checked(check: RowCheck, places: Iterator[Place]) -> Iterator[tuple[Place, CheckedRow]]:
    """Yield every row with its check, in order; decoding and fetching images lets other threads run."""
    waiting: deque[tuple[Place, Future[CheckedRow]]] = deque()
    for place in places:
        waiting.append((place, in_daemon_thread(check, *place)))
        if len(waiting) == _AT_ONCE:
            oldest, future = waiting.popleft()
            yield oldest, future.result()
    for oldest, future in waiting:
        yield oldest, future.result()


def _token_counter(model: ProcessorSettings, data: DataSettings) -> Callable[[Example], int] | None:
    if model.path is None:
        return None
    from observe_r1.model.encoding import encode_prompt
    from observe_r1.model.processor import load_processor

    processor = load_processor(ModelSettings(**model.model_dump()))
    unlimited = data.model_copy(update={"max_prompt_tokens": sys.maxsize})
    one_at_a_time = Lock()  # fast tokenizers may not be shared between threads

    def count(example: Example) -> int:
        with one_at_a_time:
            return len(encode_prompt(example, processor, unlimited).ids)

    return count


def _progress(console: Console) -> Progress:
    columns = ("checking", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redirected, standard output would end up on the bar's console.
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal)


def _same_id(row: Example, first: Example) -> str:
    return f"{row.origin}, 'id': {shorten(row.id)} is the id of {first.origin} already: give every row its own"


def _summarise(out: Console, survey: Survey, max_prompt_tokens: int) -> None:
    for name, figures in survey.lines(max_prompt_tokens):
        _say(out, f"{name:<10} {figures}")
    if survey.bad:
        _say(out, f"bad: {survey.bad:,} of {survey.rows:,} rows, each named above")
    else:
        _say(out, f"good: all {survey.rows:,} rows")


def _say(out: Console, line: str) -> None:
    out.print(Text(one_line(line)), soft_wrap=True)
