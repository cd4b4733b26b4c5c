"""The screen: which questions are worth measuring, as far as no model is needed to tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from observe_r1.config import LadderSettings, QuestionSettings
from observe_r1.data.alike import Alike
from observe_r1.data.images import MOST_HELD, held_bytes, opened_image
from observe_r1.errors import UserError
from observe_r1.ladder.answers import checked_answer, in_capitals
from observe_r1.ladder.journal import Journal
from observe_r1.ladder.reading import BadRow, read_sources
from observe_r1.ladder.rows import embedded, keep_image, question_row
from observe_r1.ladder.sifting import Contamination, Duplicates, Fingerprint, image_digest
from observe_r1.ladder.stage import DROPPED, Watch, dropped
from observe_r1.records import Example
from observe_r1.threads import in_order

STAGE = "read"
QUESTIONS = "questions.jsonl"
"""What this stage lets pass."""

_AHEAD = 32
"""Rows whose pictures are decoded before they are asked for."""
_SHOW_EVERY = 64

Examined = tuple[Example, Fingerprint] | BadRow


def sift(folder: Path, settings: LadderSettings, watch: Watch) -> bool:
    """Write the questions of all sources that pass to `questions.jsonl`, the others to `dropped.jsonl`.

    In this order: rows that cannot be read or whose pictures do not open (with `skip_bad`); answers that cannot be
    verified; questions that repeat an earlier one; questions of a benchmark. Pictures that stand inside their rows are
    written into `images/`. Killed, it begins again.

    Returns whether it came to the end. Errors: `UserError` for a source or benchmark that cannot be opened and, unless
    `skip_bad`, for the first bad row of either.
    """
    data = settings.data
    if not data.sources:
        raise UserError("setting 'data.sources' is missing: name the files or datasets to build the ladder from")
    count = 0
    with ExitStack() as stack:
        skipped = stack.enter_context(closing(Alike(watch.note)))
        watch.now("reading the benchmarks" if settings.screen.benchmarks else "reading the questions")
        duplicates, contamination = Duplicates(), _benchmarks(settings, skipped)
        journal = stack.enter_context(Journal(folder, STAGE, [QUESTIONS, DROPPED]))
        for count, row in enumerate(_examined(read_sources(data.sources, data), data), start=1):
            if isinstance(row, BadRow):
                if not data.skip_bad:
                    raise UserError(f"{row.error} (--skip-bad leaves such rows out)") from row.error
                skipped.add(str(row.error), start="skipped: ")
                journal.append(DROPPED, [dropped(row.id, row.source, STAGE, "broken row", str(row.error))])
            else:
                example, print_ = row
                answer, unverifiable = checked_answer(example)
                if reason := _reason(example, print_, unverifiable, duplicates, contamination):
                    journal.append(DROPPED, [dropped(example.id, example.source, *reason)])
                else:
                    images = [_place(source, example, folder, data) for source in example.images]
                    journal.append(QUESTIONS, [question_row(in_capitals(example, answer), images)])
            if count % _SHOW_EVERY == 0:
                watch.progress("reading", count, None)
                if watch.stopped():
                    return False
        journal.commit(count, complete=True)
    watch.progress("reading", count, count)
    return True


def _reason(
    example: Example,
    print_: Fingerprint,
    unverifiable: str | None,
    duplicates: Duplicates,
    contamination: Contamination,
) -> tuple[str, str, str] | None:
    """Return stage, reason and detail where a question does not pass."""
    if unverifiable:
        return "answer", unverifiable, f"gold answer {example.answer!r:.80}"
    if earlier := duplicates.find(example.id, print_):
        return "duplicate", "repeats an earlier question", f"same pictures and question as {earlier}"
    if shared := contamination.find(print_):
        return "benchmark", "stands in a benchmark", shared
    return None


def _place(source: str | bytes, example: Example, folder: Path, settings: QuestionSettings) -> str:
    if embedded(source):
        return keep_image(source, folder, example.origin, settings)
    return str(source)


def _benchmarks(settings: LadderSettings, skipped: Alike) -> Contamination:
    whole = settings.data.model_copy(update={"max_samples": None})
    rows = _examined(read_sources(settings.screen.benchmarks, whole, benchmark=True), settings.data)

    def fingerprints() -> Iterator[tuple[str, Fingerprint]]:
        for row in rows:
            if not isinstance(row, BadRow):
                yield row[0].origin or row[0].id, row[1]
            elif not settings.data.skip_bad:
                raise UserError(f"screen.benchmarks: {row.error} (--skip-bad leaves such rows out)") from row.error
            else:
                skipped.add(str(row.error), start="skipped: screen.benchmarks: ")

    return Contamination(fingerprints())


def _examined(rows: Iterator[Example | BadRow], settings: QuestionSettings) -> Iterator[Examined]:
    """Yield every row with its fingerprint, in order; decoding and fetching pictures lets other threads run."""

    def examine(row: Example | BadRow) -> Examined:
        if isinstance(row, BadRow):
            return row
        try:
            images = []
            for source in row.images:
                with opened_image(source, row.origin, settings) as image:
                    images.append(image_digest(image))
            return row, Fingerprint(row, images)
        except UserError as error:
            return BadRow(row.id, row.source, error)

    def held(row: Example | BadRow) -> int:
        return 0 if isinstance(row, BadRow) else held_bytes(row)

    for _, examined in in_order(examine, rows, _AHEAD, held, MOST_HELD):
        yield examined
