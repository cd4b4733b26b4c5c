"""Decisions about unsolved questions: what they do, what they never do, and broken ones."""

import pytest
from measured_ladder import TRIES, read, review, run, unsolved_id, write

from observe_r1.errors import UserError
from observe_r1.ladder.journal import Journal

pytest_plugins = ["measured_ladder"]


def test_review_keeps_corrects_and_drops(built):
    unsolved = [row["id"] for row in read(built / "measured.jsonl") if row["correct"] == 0]
    kept, corrected, refused, *rest = unsolved
    texts = [r["text"] for r in read(built / "responses.jsonl") if r["id"] == corrected]
    right = sum(text == "<answer>2</answer>" for text in texts)
    assert 0 < right < TRIES
    solved = next(row["id"] for row in read(built / "measured.jsonl") if row["correct"])
    review(built, **{kept: ("keep", "1"), corrected: ("correct", "2"), refused: ("drop", "1"), solved: ("drop", "1")})
    ladder = {row["id"]: row for row in run(built)}
    assert ladder[kept]["difficulty"] == 1 and ladder[kept]["complexity_correct"] is None
    assert ladder[corrected]["answer"] == "2"
    assert ladder[corrected]["difficulty"] == 1 - right / TRIES and ladder[corrected]["complexity_correct"]
    assert refused not in ladder and solved not in ladder
    assert {row["id"] for row in read(built / "unsolved.jsonl")} == {refused, *rest}
    assert {"id": solved, "stage": "review"}.items() <= read(built / "dropped.jsonl")[1].items()


def measure_again(folder, name, correct):
    """Add a measurement of everything in which the questions of `correct` have so many right responses."""
    refreshed = folder / name
    refreshed.mkdir()
    rows = read(folder / "measured.jsonl")
    for row in rows:
        right = correct.get(row["id"], row["correct"])
        row.update(correct=right, difficulty=1 - right / TRIES, complexity_correct=9.0 if right else None)
    with Journal(refreshed, "measure", ["measured.jsonl", "responses.jsonl", "dropped.jsonl"]) as journal:
        journal.append("measured.jsonl", rows)
        journal.commit(60, complete=True)


@pytest.mark.parametrize("action", ["undecided", "drop", "keep", None])
def test_no_decision_drops_what_a_newer_measurement_solves(built, action):
    unsolved = [row["id"] for row in read(built / "measured.jsonl") if row["correct"] == 0]
    newly, still = unsolved[:6], unsolved[6:]
    if action:
        review(built, **dict.fromkeys(unsolved, (action, "1")))
    before = {row["id"] for row in run(built)}
    assert before.isdisjoint(unsolved) or action == "keep"
    measure_again(built, "refreshed-1", dict.fromkeys(newly, 2))
    notes = []
    ladder = {row["id"]: row["difficulty"] for row in run(built, notes, measured="refreshed-1")}
    assert {name: ladder.get(name) for name in newly} == dict.fromkeys(newly, 0.5) and before <= set(ladder)
    assert {row["id"] for row in read(built / "unsolved.jsonl")} == (set() if action == "keep" else set(still))
    assert [row["id"] for row in read(built / "dropped.jsonl")] == ["early"]
    told = "6 questions that review.yaml drops were unsolved and are solved in refreshed-1: they are in the ladder"
    assert [note.split(" (")[0] for note in notes] == [told] * (action == "drop")


def test_what_every_measurement_solves_can_be_dropped_by_hand(built):
    solved = next(row["id"] for row in read(built / "measured.jsonl") if row["correct"])
    measure_again(built, "refreshed-1", {solved: 4})
    review(built, **{solved: ("drop", "1")})
    assert solved not in {row["id"] for row in run(built, measured="refreshed-1")}
    measure_again(built, "refreshed-2", {solved: 0})
    assert solved in {row["id"] for row in run(built, measured="refreshed-1")}


def test_what_is_kept_or_corrected_by_hand_is_not_dropped_as_too_short(built):
    kept, corrected, other, *_ = [row["id"] for row in read(built / "measured.jsonl") if row["correct"] == 0]
    review(built, **{kept: ("keep", "1"), corrected: ("correct", "2"), other: ("undecided", "1")})
    assert {row["id"] for row in run(built, min_complexity=1000)} == {kept, corrected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: q999, answer: '1', action: keep}", "unknown id 'q999'"),
        ("- {id: q1, answer: '1', action: kept}", "'kept'"),
        ("- {id: q1, answer: '', action: correct}", "empty"),
        ("- {id: q1, answer: null, action: correct}", "null: action correct needs the right answer"),
        ("- {id: q1, answer: ' 1 ', action: correct}", "the gold answer already: give the right one, or use"),
        (r"- {id: q1, answer: '\frac{', action: correct}", "cannot be verified"),
        ("- {id: q1, answer: '1', action: keep}\n- {id: q1, answer: '1', action: drop}", "duplicate id 'q1'"),
        ("- q1", "entry 1"),
        ("{", "line 1, column"),
        ("- {id: q1, answer: '2', action: drop}", "use action correct"),
    ],
)
def test_a_broken_review_is_one_line(built, text, message):
    (built / "review.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        run(built)
    assert message in str(error.value) and "review.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_correction_becomes_a_letter_as_gold_answers_do(built):
    rows = read(built / "screened.jsonl")
    row = next(row for row in rows if row["id"] == unsolved_id(built))
    row["message"] = row["message"].replace("?", "? A. red B. dark blue")
    write(built / "screened.jsonl", rows)
    review(built, **{row["id"]: ("correct", "Dark blue.")})
    assert {row["id"]: row["answer"] for row in run(built)}[row["id"]] == "B"


def test_responses_that_are_gone_cannot_be_graded_again(built):
    name = unsolved_id(built)
    review(built, **{name: ("correct", "2")})
    rows = [row for row in read(built / "responses.jsonl") if (row["id"], row["number"]) != (name, 0)]
    write(built / "responses.jsonl", rows)
    with pytest.raises(UserError, match=rf"responses\.jsonl: not all responses to '{name}' are there"):
        run(built)
    write(built / "responses.jsonl", [row | {"tokens": "many"} for row in rows])
    with pytest.raises(UserError, match=r"responses\.jsonl row 1, 'tokens': not as the build wrote it: needs int"):
        run(built)
