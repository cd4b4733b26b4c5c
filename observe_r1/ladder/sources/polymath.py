"""PolyMATH, the multimodal one, as `him1411/polymath` has it.

Image folders with a `metadata.csv` of `file_name` (a picture beside it, `image` when the Hub is read), `question_text`,
`answer_option` ("(a) 1 (b) 2", "(1) 1 (2) 2" or "1. 1 2. 2"), `category`, `final_answer_range` ("A-D" or "1-4"),
`contains_diagram`, `diagram_description` and `final_answer`, a letter or a number, which need not be what labels the
options: by `data/test/metadata.csv` and `data/testmini/metadata.csv` in kevinscaria/PolyMATH, where any of them can
be named. The picture shows the whole question; where `question_text` is empty or "None", only there. Of the first
twenty gold answers of that test split most are wrong, of the smaller testmini's hardly any. The licence is the card's;
polymathbenchmark/PolyMATH has the MIT licence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import IN_THE_PICTURE, example, field, images, text
from observe_r1.ladder.sources.options import letter_at, letter_of, split_options, with_options
from observe_r1.ladder.sources.source import Source
from observe_r1.records import Example


def _adapt(row: Mapping[str, Any], place: str, folder: Path | None) -> Example:
    listed, given = text(row, "answer_option", place), text(row, "final_answer", place)
    options, where = split_options(listed), f"{place}, 'final_answer'"
    if not options:
        raise UserError(f"{place}, 'answer_option': needs options such as (a) 1 (b) 2, got {listed!r:.80}: label them")
    is_number = given.isdecimal() and len(given) < 3
    answer = letter_at(int(given) - 1, options, where) if is_number else letter_of(given, options, where)
    asked = field(row, "question_text", place)
    question = IN_THE_PICTURE if asked in (None, "", "None") else text(row, "question_text", place)
    key = "file_name" if "file_name" in row else "image"
    pictures = images([field(row, key, place)], key, place, folder)
    return example(with_options(question, options), pictures, answer, place)


SOURCE = Source(
    name="polymath",
    title="PolyMATH",
    hub="him1411/polymath",
    split="test",
    licence="AFL-3.0",
    adapt=_adapt,
    benchmark="all of it is a benchmark: do not report PolyMATH after training on it; check its gold answers",
)
