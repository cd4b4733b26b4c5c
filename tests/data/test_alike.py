"""Many messages of one cause are one line with a count, whatever values they name, in bounded memory."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from observe_r1.data.alike import MOST_CAUSES, NAMED, Alike


def lines(*messages):
    alike = Alike()
    for message in messages:
        alike.add(message)
    return alike.lines()


def test_many_are_one_line_with_a_count_and_the_first_rows():
    assert lines(*(f"a/b.jsonl row {n}: no column 'answer': the row has problem" for n in range(1, 61))) == [
        "60 rows: no column 'answer': the row has problem (first: a/b.jsonl row 1, 2, 3)"
    ]


def test_what_differs_is_left_out_and_what_all_have_stays():
    texts = [f"b.jsonl row {n}, 'images': needs a list, got {n * 1.5}: make it a list" for n in (2, 4, 6, 9)]
    assert lines(*texts) == ["4 rows: 'images': needs a list, got …: make it a list (first: b.jsonl row 2, 4, 6)"]
    texts = [f"c.jsonl row {n}: image '/x y/{n}.png' is empty (0 bytes)" for n in range(4)]
    assert lines(*texts) == [
        "4 rows: image '…' is empty (0 bytes) (first: c.jsonl row 0, 1, 2; the first has '/x y/0.png')"
    ]
    texts = [f"row {n}: the prompt has {n}00 tokens, data.max_prompt_tokens is 10" for n in range(1, 5)]
    expected = "4 rows: the prompt has … tokens, data.max_prompt_tokens is 10 (first: row 1, row 2, row 3)"
    assert lines(*texts) == [expected.replace("row 1, row 2, row 3", "row 1, 2, 3")]
    texts = [f"d.jsonl: line {n}, column 2: broken JSON: trailing comma" for n in range(1, 5)]
    assert lines(*texts) == ["4 rows: broken JSON: trailing comma (first: d.jsonl: line 1, 2, 3)"]


def test_causes_are_told_apart_by_column_key_and_words():
    messages = [
        text
        for n in range(5)
        for text in (
            f"a row {n}: no column 'answer'",
            f"a row {n}: no column 'message'",
            f"a row {n}, 'answer': needs text, got ''",
            f"a row {n}, 'problem': needs text, got ''",
            f"a row {n}: the model's template is 'broken'",
        )
    ]
    assert [line.split(" (first")[0] for line in lines(*messages)] == [
        "5 rows: no column 'answer'",
        "5 rows: no column 'message'",
        "5 rows: 'answer': needs text, got ''",
        "5 rows: 'problem': needs text, got ''",
        "5 rows: the model's template is 'broken'",
    ]


def test_few_are_told_whole_and_several_files_by_their_names():
    few = [f"a row {n}: image '{n}.png': no such file" for n in range(NAMED)]
    assert lines(*few) == few
    files = [f"{name}.jsonl row 7: no column 'answer'" for name in "abcd"]
    assert lines(*files) == ["4 rows: no column 'answer' (first: a.jsonl row 7, b.jsonl row 7, c.jsonl row 7)"]


def test_a_stream_is_told_at_once_and_then_at_every_power_of_ten():
    told = []
    alike = Alike(told.append)
    for n in range(1, 1235):
        alike.add(f"q.jsonl row {n}: the prompt has {n} tokens", start="dropped: ")
        assert len(told) == min(n, 3) + sum(n >= power for power in (10, 100, 1000))
    assert told[:3] == [f"dropped: q.jsonl row {n}: the prompt has {n} tokens" for n in (1, 2, 3)]
    assert told[3] == "dropped: 10 rows: the prompt has … tokens (first: q.jsonl row 1, 2, 3) so far"
    alike.add("step 4: found 3 of 4")
    alike.close()
    alike.close()
    assert told[6:] == [
        "step 4: found 3 of 4",
        "dropped: 1,234 rows: the prompt has … tokens (first: q.jsonl row 1, 2, 3)",
    ]


def test_a_million_bad_rows_take_no_more_memory_than_a_thousand():
    rng = random.Random(0)

    def take(alike, count):
        for n in range(count):
            # Causes that nobody foresaw, and values of any length.
            alike.add(f"f.jsonl row {n}: {'x' * rng.randrange(2_000)} of {n}, got {'y' * rng.randrange(5_000)!r:.80}")

    alike = Alike()
    take(alike, 1_000)
    tracemalloc.start()
    take(alike, 3_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 50_000
    assert len(alike.lines()) <= NAMED * MOST_CAUSES + 1
    assert "rows: other causes (first: f.jsonl row " in alike.lines()[-1]


@given(st.lists(st.text(), max_size=30))
def test_any_text_is_counted_once(texts):
    told = lines(*texts)
    alike = Alike()
    for text in texts:
        alike.add(text)
    counts = [cause.count for cause in alike._causes.values()]
    assert sum(counts) == len(texts) and len(told) == sum(count if count <= NAMED else 1 for count in counts)
