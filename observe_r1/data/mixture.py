"""Several datasets as one: joined in order, or interleaved with probabilities."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Sequence
from itertools import accumulate
from os.path import expanduser

import numpy as np

from observe_r1.config import DataSettings, FileSettings
from observe_r1.data.examples import load_examples
from observe_r1.data.lazy import Joined, LazySequence
from observe_r1.data.places import MissingDataError
from observe_r1.errors import UserError
from observe_r1.records import Example

_DRAWS = 65_536
_COMMA = re.compile(r"(?<!\\),")


class Mixture(LazySequence[Example]):
    """Chosen rows of several sequences, each fetched when it is asked for.

    Args:
        sequences: The datasets; together their rows count from 0 through all of them.
        chosen: The rows of this sequence, in order, by that count (8 bytes per row, or a range).
    """

    def __init__(self, sequences: Sequence[Sequence[Example]], chosen: Sequence[int] | np.ndarray) -> None:
        self._joined = Joined(sequences)
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def item(self, index: int) -> Example:
        """Fetch one row from the dataset it belongs to."""
        return self._joined[int(self._chosen[index])]


def load_data(
    settings: DataSettings, seed: int, *, require_answer: bool = True, setting: str = "data.path"
) -> Sequence[Example]:
    """Return the examples that the settings name, lazily: loaded, mixed, and limited to `max_samples`.

    Args:
        settings: `path` with one or more comma-separated names, and the settings for them.
        seed: Seeds the mixing (≥ 0).
        require_answer: As for `load_examples`.
        setting: What the names come from, for errors.

    Raises:
        UserError: As `load_examples`, or the probabilities do not fit the files.
    """
    names = file_names(settings, setting)
    if settings.probs is not None:
        _check_probs(settings.probs, len(names))
    try:
        files = [
            load_examples(
                name,
                settings.input_key,
                settings.label_key,
                require_answer=require_answer,
                columns=settings.columns,
            )
            for name in names
        ]
    except MissingDataError as error:
        raise UserError(f"{setting}: {error}; --{setting} names another") from error
    return mix_sequences(files, settings.probs, seed, limit=settings.max_samples)


def file_names(settings: FileSettings, setting: str = "data.path") -> list[str]:
    """Return the names in `path`: commas separate them, `\\,` is a comma inside one.

    Raises:
        UserError: A name is empty, or a file's name has a comma that is not escaped.
    """
    place, escaped = f"{setting} = {settings.path!r}", settings.path.replace(",", "\\,")
    # Not through Path: an empty name beside a comma would become the current folder.
    parts = [part.strip().replace("\\,", ",") for part in _COMMA.split(settings.path)]
    paths = [expanduser(part) for part in parts]  # noqa: PTH111
    if not all(paths):
        raise UserError(f"{place}: a name is missing next to a comma")
    if len(paths) > 1 and os.path.exists(expanduser(settings.path)):  # noqa: PTH110, PTH111
        raise UserError(f"{place}: a comma separates two names; for one name with a comma in it write {escaped!r}")
    return paths


def mix_sequences(
    sequences: Sequence[Sequence[Example]],
    probs: Sequence[float] | None,
    seed: int,
    limit: int | None = None,
) -> Mixture:
    """Return the sequences joined in order, or interleaved if there are probabilities.

    Interleaving draws a sequence for every place and takes its next row. A sequence that is at its end starts again,
    until every sequence has been at its end once: the same rows in the same order as
    `datasets.interleave_datasets(…, probabilities, seed, stopping_strategy="all_exhausted")`.

    Args:
        sequences: The datasets; with probabilities, none may be empty.
        probs: One positive probability per sequence, summing to 1; None to join them.
        seed: Seeds the draws (≥ 0).
        limit: Keep only the first so many rows.

    Raises:
        UserError: The probabilities do not fit.
    """
    lengths = [len(sequence) for sequence in sequences]
    if probs is None:
        return Mixture(sequences, range(sum(lengths))[:limit])
    _check_probs(probs, len(sequences))
    return Mixture(sequences, _interleaved(lengths, probs, seed)[:limit])


def _check_probs(probs: Sequence[float], files: int) -> None:
    place = f"data.probs = {','.join(map(str, probs))}"
    if len(probs) != files:
        raise UserError(f"{place}: needs one probability per file, got {len(probs)} for {files}")
    if not all(prob > 0 for prob in probs):
        raise UserError(f"{place}: needs positive probabilities; leave unwanted files out")
    if not math.isclose(sum(probs), 1, rel_tol=0, abs_tol=1e-6):
        raise UserError(f"{place}: must sum to 1, sums to {sum(probs):.6g}")


def _interleaved(lengths: Sequence[int], probs: Sequence[float], seed: int) -> np.ndarray:
    """Return the row at each place, counted through all sequences."""
    generator = np.random.default_rng(seed)
    shares = np.asarray(probs) / sum(probs)
    starts = [0, *accumulate(lengths)]
    rows = array("q")  # grows in place: joining blocks at the end would take their memory twice
    drawn = [0] * len(lengths)
    end = 0
    while any(count < length for count, length in zip(drawn, lengths, strict=True)):
        picks = generator.choice(len(lengths), size=_DRAWS, p=shares)
        block = np.empty(_DRAWS, dtype=np.int64)
        for which, length in enumerate(lengths):
            places = np.flatnonzero(picks == which)
            before, drawn[which] = drawn[which], drawn[which] + len(places)
            block[places] = starts[which] + np.arange(before, drawn[which]) % length
            if before < length <= drawn[which]:
                end = max(end, len(rows) + int(places[length - 1 - before]) + 1)
        rows.frombytes(block.tobytes())
    return np.frombuffer(rows, dtype=np.int64)[:end]
