"""The sources of a build as one stream of questions, broken rows included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from observe_r1 import registry
from observe_r1.config.ladder import LadderDataSettings
from observe_r1.data.examples import Examples, open_examples
from observe_r1.data.places import find_parts, place_and_split
from observe_r1.errors import UserError
from observe_r1.ladder.sources.source import Source
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
    """Yield the questions of all `sources`, one source after the other, without demonstrations.

    Ids are made unique: the second `7` becomes `7#2`.

    Args:
        sources: Files in message format, datasets in that format on the Hugging Face Hub, or
            `name:PATH_OR_HUB_NAME@SPLIT` as in `read_source`.
        data: The columns to read, and how many rows of each source.
        benchmark: Whether these are items of a benchmark, which are only compared with others: they need no answer
            in message format, and no image in public layouts.

    Raises:
        UserError: A source cannot be opened. A bad row is yielded, not raised.
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


def source_files(text: str, *, benchmark: bool = False) -> list[Path]:
    """Return the files on this machine that hold the rows of a source; none of one on the Hub, or that is not there.

    Args:
        text: As one of `read_sources`.
        benchmark: As there.
    """
    try:
        parts = [Path(part) for part in _parts(text, benchmark)]
    except UserError:
        return []
    return [file for part in parts for file in ([part] if part.is_file() else sorted(part.glob("*")))]


def check_sources(sources: Sequence[str], *, benchmark: bool = False) -> None:
    """Check that each source is on this machine, or may be on the Hub, which is not asked.

    Args:
        sources: As those of `read_sources`.
        benchmark: As there.

    Raises:
        UserError: One has another form, is unknown, or is not there.
    """
    for text in sources:
        _parts(text, benchmark)


def _parts(text: str, benchmark: bool) -> list[str]:
    """Return what `find_parts` finds of a source."""
    if _is_public(text):
        _, place, split, asked = _public(text, benchmark)
    else:
        place, asked = place_and_split(text)
        split = asked or "train"
    return find_parts(place, split, asked=bool(asked))


def _is_public(text: str) -> bool:
    return ":" in text and not Path(text).expanduser().exists()


def _public(text: str, benchmark: bool) -> tuple[Source, str, str, str]:
    """Return the public dataset that `text` names, its place, the split to read, and the split that `text` asks for.

    Raises:
        UserError: `text` has another form, or the source is unknown.
    """
    name, colon, path = text.partition(":")
    if not colon or not path.strip():
        raise UserError(f"source {text!r}: needs NAME:PATH_OR_HUB_NAME, such as geometry3k:hiyouga/geometry3k")
    source: Source = registry.load("source", name)
    place, asked = place_and_split(path.strip())
    return source, place, asked or ("test" if benchmark and source.split == "train" else source.split), asked


def _read(text: str, data: LadderDataSettings, benchmark: bool) -> Iterator[Example | BadRow]:
    if _is_public(text):
        return read_source(text, benchmark=benchmark)
    parts = open_examples(text, data.input_key, data.label_key, data.columns, require_answer=not benchmark)
    return chain.from_iterable(map(_message_format, parts))


def _message_format(examples: Examples) -> Iterator[Example | BadRow]:
    name = Path(examples.name).stem
    for index in range(len(examples)):
        try:
            example = examples[index]
            yield replace(example, source=example.source or name)
        except UserError as error:
            yield BadRow(examples.implied_id(index), name, error)


def read_source(text: str, *, benchmark: bool = False) -> Iterator[Example | BadRow]:
    """Yield the rows of a public dataset.

    Ids are `name/row-id`, with the row's own id or its number from 1. An id that an earlier row has gets that number
    added, so that ids are unique and always the same for the same rows. Bad rows are `name/bad-1` and so on.

    Args:
        text: `name:PATH_OR_HUB_NAME`: a registered source, and what `find_parts` takes: a file in its layout, a
            folder, a name on the Hub. `@SPLIT` after a folder or a name on the Hub says which split to read.
        benchmark: Whether the rows are items of a benchmark: then they need no image, and the split is `test` if
            the source's own is `train`.

    Raises:
        UserError: `text` has another form, the source is unknown, or its files cannot be read.
    """
    source, place, split, asked_split = _public(text, benchmark)
    name = source.name
    seen: set[str] = set()
    number = bad = 0
    for part in find_parts(place, split, asked=bool(asked_split)):
        rows, folder = _open(source, part, split, asked_split)
        for index in range(len(rows)):
            number += 1
            try:
                example = adapt_row(
                    source, rows[index], f"{name}:{part} row {index + 1}", folder, needs_image=not benchmark
                )
            except UserError as error:
                bad += 1
                yield BadRow(f"{name}/bad-{bad}", name, error)
                continue
            row_id = f"{name}/{example.id or number}"
            if row_id in seen:
                row_id += f"#{number}"
            seen.add(row_id)
            yield replace(example, id=row_id, source=name)


def _open(source: Source, part: str, split: str, asked_split: str) -> tuple[Sequence[Any], Path | None]:
    try:
        return source.open(part, split)
    except UserError as error:
        if split in (asked_split, source.split) or Path(part).is_file():
            raise
        other = f"{source.name}:{part}@{source.split}"
        raise UserError(f"{error}: the split {split!r} of a benchmark is read; {other} names another") from error


def adapt_row(source: Source, row: Any, place: str, folder: Path | None, *, needs_image: bool = True) -> Example:
    """Return the example of a row.

    Args:
        source: The dataset.
        row: One of its rows.
        place: The row's place, for errors.
        folder: Where relative image paths start.
        needs_image: Whether a row without an image is an error.

    Raises:
        UserError: The row is broken, or needs an image and has none.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: needs an object with named columns, got {row!r:.80}")
    example = source.adapt(row, place, folder)
    if needs_image and not example.images:
        raise UserError(f"{place}: the row has no image, so it is not a visual question: leave it out")
    return example


def describe_sources() -> str:
    """Return all registered sources as text: name, title, Hub name, licence, and a line for those in a benchmark."""
    sources: list[Source] = [registry.load("source", name) for name in sorted(registry.REGISTRY["source"])]
    wide = max(len(source.name) for source in sources)
    lines = []
    for source in sources:
        lines.append(f"{source.name:<{wide}}  {source.title}: {source.hub} ({source.split}), licence {source.licence}")
        if source.benchmark:
            lines.append(f"{'':<{wide}}  ! {source.benchmark}")
    return "\n".join(lines)
