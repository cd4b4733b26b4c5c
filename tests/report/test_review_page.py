import re

import pytest
import yaml
from built_ladder import Page, build, response, responses, row
from hypothesis import example, given
from hypothesis import strategies as st

from observe_r1.errors import UserError
from observe_r1.ladder.review import ACTIONS, Decision, read_decisions
from observe_r1.report import review_page
from observe_r1.report.review_page import write_decisions, write_review

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


def entries(folder):
    return yaml.safe_load((folder / "review.yaml").read_text())


@pytest.fixture
def built(tmp_path):
    unsolved = [row(number, correct=0) for number in range(5)]
    said = [
        *responses("id-0", "7", "8", "9"),
        *responses("id-1", "7", "7", "$7$"),
        *responses("solved", "1", "1"),
        *responses("id-2", "7", "The answer is 7.", "9"),
        response("id-3", 0, "no tags at all"),
    ]
    return build(tmp_path, unsolved=unsolved, responses=said)


def test_every_question_is_shown_once_those_that_responses_agree_on_first(built):
    assert write_review(built) == (built / "review.html", built / "review.yaml")
    page = Page(built / "review.html")
    order = ["id-1", "id-3", "id-2", "id-0", "id-4"]
    assert re.findall(r"id-\d", page.text) == order
    assert entries(built) == [{"id": id, "answer": id[-1], "action": "undecided", "note": ""} for id in order]
    assert page.count("article") == page.count("img") == 5
    assert page.count("details") == 4


def test_final_answers_are_grouped_and_counted_and_responses_shown_in_full(built):
    write_review(built)
    text = Page(built / "review.html").text
    assert "responses 3 × 7 decision undecided" in text
    assert "responses 2 × 7 1 × 9 decision undecided" in text
    assert "<think>So it is 8.</think><answer>8</answer>" in text
    assert "none kept" in text


def test_page_and_file_lead_a_newcomer_from_one_to_the_other_and_on(built):
    (built / "ladder.yaml").write_text("model: {path: Qwen/3B}")
    write_review(built)
    page, file = Page(built / "review.html"), (built / "review.yaml").read_text()
    assert re.findall(r"# (\d)\. (Question \d\?)\n- id: (id-\d)\n", file) == [
        (str(number), f"Question {id[-1]}?", id) for number, id in enumerate(re.findall(r"id-\d", page.text), start=1)
    ]
    assert re.findall(r"(\d) id-\d", page.text) == list("12345")
    assert f"Then run observe-r1 ladder arrange {built} " in page.text
    assert "No response of Qwen/3B solved these 5 questions" in page.text
    for action in ACTIONS:
        assert action in page.text.partition("id-")[0] and f"\n#   {action}" in file


def test_answers_are_shown_as_a_response_wrote_them(tmp_path):
    said = responses("id-0", "The answer is \\Delta", "\\delta", "C", "c", "(C)")
    build(tmp_path, unsolved=[row(0, correct=0)], responses=said)
    write_review(tmp_path)
    text = Page(tmp_path / "review.html").text
    assert "3 × C" in text and "The answer is \\Delta" in text


def test_many_responses_are_counted_and_some_of_them_shown(tmp_path):
    build(tmp_path, unsolved=[row(0, correct=0)], responses=responses("id-0", *["3"] * 20, *map(str, range(10, 40))))
    write_review(tmp_path)
    page = Page(tmp_path / "review.html")
    assert "20 × 3" in page.text
    assert "34 more in responses.jsonl" in page.text
    assert page.count("li") == 16


def test_pages_hold_so_many_questions_and_stale_ones_go(built, monkeypatch):
    monkeypatch.setattr(review_page, "PAGE_SIZE", 2)
    write_review(built)
    pages = [built / name for name in ("review.html", "review-2.html", "review-3.html")]
    assert [re.findall(r"id-\d", Page(path).text) for path in pages] == [["id-1", "id-3"], ["id-2", "id-0"], ["id-4"]]
    assert Page(pages[1]).count("a", href="review-3.html") == Page(pages[1]).count("a", href="review.html") == 2
    assert Page(pages[2]).count("article", id="item-5") == 1
    monkeypatch.setattr(review_page, "PAGE_SIZE", 4)
    write_review(built)
    assert sorted(path.name for path in built.glob("*.html")) == ["review-2.html", "review.html"]


def test_decisions_are_kept_also_of_questions_no_longer_unsolved(built):
    (built / "review.yaml").write_text(
        "- {id: gone, answer: 5, action: keep}\n- {id: id-2, answer: yes, action: correct, note: 1:30}\n"
    )
    write_review(built)
    by_id = {entry.pop("id"): entry for entry in entries(built)}
    assert list(by_id)[-1] == "gone"
    assert by_id["gone"] == {"answer": "5", "action": "keep", "note": ""}
    assert by_id["id-2"] == {"answer": "yes", "action": "correct", "note": "1:30"}
    assert by_id["id-0"]["action"] == "undecided"
    assert "decision correct yes 1:30" in Page(built / "review.html").text
    assert "\n# 6. (no longer unsolved)\n- id: gone\n" in (built / "review.yaml").read_text()
    first = (built / "review.yaml").read_bytes()
    write_review(built)
    assert (built / "review.yaml").read_bytes() == first


@pytest.mark.parametrize("unsolved", [{}, {"unsolved": []}])
def test_nothing_to_review_is_said(tmp_path, unsolved):
    build(tmp_path, **unsolved)
    write_review(tmp_path)
    assert "Nothing to review" in Page(tmp_path / "review.html").text
    assert read_decisions(tmp_path / "review.yaml") == {}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("- {id: a", "line 1, column"),
        ("id: a", "needs a list"),
        ("- a", "entry 1: needs text under each of id, answer, action, note"),
        ("- {id: a, answer: [1], action: keep}", "entry 1: needs text"),
        ("- {id: a, answer: 1}", "entry 1: no 'action'"),
        ("- {id: a, answer: 1, action: drop, notes: x}", "entry 1: unknown key 'notes'"),
        ("- {id: a, answer: 1, action: fix}", "entry 1, 'action': 'fix': needs one of undecided, keep, drop, correct"),
        ("- {id: a, answer: ' ', action: correct}", "entry 1, 'answer': empty"),
        ("- {id: a, answer: 1, action: drop}\n- {id: a, answer: 2, action: drop}", "duplicate id 'a'"),
    ],
)
def test_a_review_file_that_cannot_be_read_is_named_and_left_alone(built, text, error):
    path = built / "review.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(error)) as raised:
        write_review(built)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert path.read_text() == text
    assert not list(built.glob("*.html"))


def is_answer(text):
    """Whether a correction may say so: an empty value of YAML, spelled out or not, is no answer."""
    return text.strip().casefold() not in ("", "null", "~")


@given(
    st.lists(
        st.builds(Decision, ANY_TEXT, ANY_TEXT.filter(is_answer), st.sampled_from(ACTIONS), ANY_TEXT),
        unique_by=lambda decision: decision.id,
        max_size=3,
    )
)
@example([Decision("\ud800", "\x85\u2028\ufeff\x00\x1b", "keep", "a\r\n- id: x\n  # '\": {}\t")])
@example([Decision("yes", "1:30", "drop", "~"), Decision("null", "0x1F", "drop", "| x")])
def test_any_text_comes_back_from_the_file(tmp_path_factory, decisions):
    path = tmp_path_factory.getbasetemp() / "review.yaml"
    write_decisions(path, decisions, {decision.id: decision.note for decision in decisions})
    assert list(read_decisions(path).values()) == decisions
    assert [Decision(**entry) for entry in yaml.safe_load(path.read_text()) or []] == decisions
