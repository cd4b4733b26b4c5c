"""All sources of a build as one stream of questions, broken rows included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path

from observe_r1.config.ladder import LadderDataSettings
from observe_r1.data.examples import Examples, open_examples
from observe_r1.errors import UserError
from observe_r1.ladder.sources import SourceReader, read_source
from observe_r1.records import Example


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read."""

    id: str
    source: str
    error: UserError
    """Names place, key, value and fix."""


def read_sources(
    sources: Sequence[str], data: LadderDataSettings, *, benchmark: bool = False
) -> Iterator[Example | BadRow]:
    """Yield the questions of all `sources`, one after the other, with unique ids and without demonstrations.

    A source is a file in message format, a dataset in that format on the Hugging Face Hub, or
    `name:PATH_OR_HUB_NAME@SPLIT`, see `read_source`. Items of a `benchmark` need no answer in message format, and
    no picture in public layouts.
    Ids stay as they are where they are unique; the second `7` becomes `7#2`.

    Errors: `UserError` for a source that cannot be opened; a bad row is yielded, not raised.
    """
    seen: set[str] = set()
    repeats: Counter[str] = Counter()
    for row in chain.from_iterable(islice(_read(text, data, benchmark), data.max_samples) for text in sources):
        name = row.id
        while name in seen:
            repeats[row.id] += 1
            name = f"{row.id}#{repeats[row.id] + 1}"
        seen.add(name)
        yield replace(row, id=name) if isinstance(row, BadRow) else replace(row, id=name, response=None)


def _read(text: str, data: LadderDataSettings, benchmark: bool) -> Iterator[Example | BadRow]:
    if ":" in text and not Path(text).expanduser().exists():
        return _public(read_source(text, skip_bad=True, benchmark=benchmark))
    parts = open_examples(text, data.input_key, data.label_key, require_answer=not benchmark)
    return chain.from_iterable(map(_message_format, parts))


def _message_format(examples: Examples) -> Iterator[Example | BadRow]:
    name = Path(examples.name).stem
    for index in range(len(examples)):
        try:
            example = examples[index]
            yield replace(example, source=example.source or name)
        except UserError as error:
            yield BadRow(examples.implied_id(index), name, error)


def _public(reader: SourceReader) -> Iterator[Example | BadRow]:
    name, said = reader.source.name, 0
    for example in chain(reader, (None,)):
        new = reader.bad - said  # the rows between this example and the one before
        for number, error in enumerate(islice(chain(reader.errors, repeat(f"{name}: one more broken row")), new)):
            yield BadRow(f"{name}/bad-{said + number + 1}", name, UserError(error))
        said = reader.bad
        reader.errors.clear()  # it keeps so many only
        if example is not None:
            yield example
