"""Whether a dataset still has the rows that a run began with."""

import json
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.data import load_examples
from observe_r1.data.lazy import LazySequence
from observe_r1.data.same_rows import check_rows, row_digests
from observe_r1.errors import UserError
from observe_r1.records import Example


def example(number, **changes):
    text = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"question {number}"}]}
    whole = Example(f"id{number}", (text,), (f"/data/{number}.png",), str(number), origin=f"d.jsonl row {number + 1}")
    return replace(whole, **changes)


def saved(examples):
    """As a checkpoint holds it."""
    return json.loads(json.dumps(row_digests(examples)))


OTHER = {
    "id": "other",
    "answer": "other",
    "messages": ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "another?"}]},),
    "images": ("/data/other.png",),
    "response": "shown",
    "columns": {"box": [1, 2]},
}


@given(size=st.integers(1, 12), data=st.data())
def test_one_row_that_is_another_in_anything_is_named(size, data):
    rows = [example(number) for number in range(size)]
    row, field = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(sorted(OTHER)))
    before = saved(rows)
    check_rows(before, rows, "data.path")
    rows[row] = replace(rows[row], **{field: OTHER[field]})
    with pytest.raises(UserError, match=rf"^data\.path: d\.jsonl row {row + 1} is not the row that .*: resume with"):
        check_rows(before, rows, "data.path")


def test_rows_in_another_order_and_another_number_of_rows_are_refused():
    rows = [example(number) for number in range(5)]
    with pytest.raises(UserError, match="is not the row that"):
        check_rows(saved(rows), [*rows[1:], rows[0]], "data.path")
    with pytest.raises(UserError, match=r"evaluation\.path: the saved run had 5 rows, there are 4 now: resume with"):
        check_rows(saved(rows), rows[:4], "evaluation.path")


def test_a_folder_that_moved_has_the_same_rows():
    rows = [example(number) for number in range(3)]
    moved = [replace(row, images=(row.images[0].replace("/data/", "/elsewhere/"),), origin="") for row in rows]
    check_rows(saved(rows), moved, "data.path")


def test_a_broken_row_may_be_mended_but_a_good_one_not_broken(tmp_path):
    path = tmp_path / "d.jsonl"
    good = [json.dumps({"message": [{"role": "user", "content": f"q{number}"}], "answer": "1"}) for number in range(3)]

    def load(*lines):
        path.write_text("\n".join(lines))
        return load_examples(path)

    broken = saved(load(good[0], '{"message": 3}', good[2]))
    check_rows(broken, load(*good), "data.path")
    whole = saved(load(*good))
    with pytest.raises(UserError, match=r"data\.path: row 2 \(.*d\.jsonl row 2.*\) is not the row that"):
        check_rows(whole, load(good[0], '{"message": 3}', good[2]), "data.path")


class Many(LazySequence[Example]):
    """A million rows; which of them are read."""

    def __init__(self, replaced=()):
        self.replaced = replaced
        self.read = []

    def __len__(self):
        return 1_000_000

    def item(self, index):
        self.read.append(index)
        return example(-index if index in self.replaced else index)


def test_of_a_million_rows_few_are_read_the_first_and_the_last_among_them():
    rows = Many()
    before = saved(rows)
    assert len(rows.read) == 4096 == len(set(rows.read)) and {0, 999_999} <= set(rows.read)
    assert len(json.dumps(before)) < 40_000
    check_rows(before, Many(), "data.path")
    for replaced in (range(500_000, 501_000), {999_999}, range(1, 1_000_000, 7)):
        with pytest.raises(UserError, match="is not the row that"):
            check_rows(before, Many(replaced), "data.path")


def test_a_run_from_before_there_were_columns_goes_on():
    row = example(1)
    known = repr((row.id, row.messages, ["1.png"], row.answer, row.response)).encode()
    check_rows({"size": 1, "digests": blake2b(known, digest_size=4).hexdigest()}, [row], "data.path")
