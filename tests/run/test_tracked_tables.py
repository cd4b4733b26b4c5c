"""The tables that trackers show keep to their bytes."""

import pytest
from PIL import Image
from tracked import DATA, example, group, picture

from observe_r1.evaluation.accuracy import GradedQuestion
from observe_r1.evaluation.figures import GradedResponse
from observe_r1.run.trackers.tables import cut, evaluation_table, group_table, png


@pytest.mark.parametrize("most", [10_000, 60_000])
def test_a_table_keeps_to_its_bytes_and_texts_keep_their_ends(most):
    images = [picture((900, 700), noise=True)] * 2
    long = "<observe>" + "ü" * 40_000 + "the end"
    count = 3
    groups = group_table([group(long, images, long)] * 5, count, most, DATA)
    graded = [GradedQuestion(example(images, long), GradedResponse(long, True, True, 5, "stop"))] * 40
    evaluation = evaluation_table(graded, most, DATA)
    assert (len(groups.rows), len(evaluation.rows)) == (2 * count, 32)
    for table in (groups, evaluation):
        cells = [cell for row in table.rows for cell in row]
        size = sum(len(cell.encode()) for cell in cells if isinstance(cell, str))
        size += sum(len(png(cell)) for cell in cells if isinstance(cell, Image.Image))
        assert most / 4 < size <= most
    text = groups.rows[0][groups.columns.index("response")]
    assert text.startswith("<observe>ü") and text.endswith("üthe end") and " bytes … " in text
    assert groups.rows[0][2].width > 1.5 * groups.rows[0][2].height  # both images, beside each other


def test_an_image_has_half_of_its_groups_bytes_at_most():
    image = picture((40, 60), noise=True)
    assert 5_000 < len(image) < 10_000
    table = group_table([group("x" * 9_000, [image])], 4, 10_000, DATA)
    assert 2_500 < len(png(table.rows[0][2])) <= 5_000
    assert group_table([group("x", [image])], 4, 20_000, DATA).rows[0][2].size == (40, 60)


def test_short_text_is_whole_and_what_cannot_be_shown_is_marked():
    assert cut("a\tb\nü", 7) == "a\tb\nü"
    assert cut("a\x00\ud800\u202e", 90) == "a" + "\ufffd" * 3
    assert len(cut("x" * 99, 30).encode()) <= 30 and cut("x" * 99, 3) == ""
