"""The less usual rows of some layouts; options in one common form; answers inside longer texts."""

from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ladder_layouts import RED

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.ladder.sources.fields import in_braces, letter_of, option_list, split_options
from observe_r1.records import Example


def adapt(name: str, row: dict[str, Any], folder: Path | None = None) -> Example:
    return registry.load("source", name).adapt(row, "here row 1", folder)


def texts(example: Example) -> list[str]:
    return [part["text"] for part in example.messages[0]["content"] if part["type"] == "text"]


def test_free_answers_and_images_beside_the_rows(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(RED)
    free = {"id": "1", "question": "How long is <image1>?", "options": [], "image": "images/1.jpg", "answer": "3"}
    found = adapt("mathvision", free, tmp_path)
    assert texts(found) == ["How long is?"]
    assert found.images == (str(tmp_path / "images" / "1.jpg"),)


def test_a_hint_on_the_form_of_a_free_answer_stays(tmp_path: Path) -> None:
    (tmp_path / "data_images").mkdir()
    (tmp_path / "data_images" / "1.png").write_bytes(RED)
    hint = "Hint: Please answer the question requiring an integer answer.\nQuestion: How many?"
    turns = [{"from": "human", "value": f"<image>\n{hint}"}, {"from": "gpt", "value": "The answer is 12."}]
    found = adapt("mathv360k", {"image": "1.png", "conversations": turns}, tmp_path)
    assert (texts(found), found.answer, found.id) == ([hint], "12", "")


@pytest.mark.parametrize(
    ("answer", "question", "gold"),
    [
        ("\\answer{3.5}. Half of seven.", "What is it? (Final Answer is a value)", "3.5"),
        ("\\answer{\\frac{1}{2}}", "What is it?", "\\frac{1}{2}"),
        ("D", "Which curve?", "D"),
    ],
)
def test_free_responses(answer: str, question: str, gold: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(RED)
    given = {"Question": question, "Answer (final answer highlighted)": answer, "ImagePath": "1"}
    found = adapt("scemqa", given, tmp_path)
    assert (texts(found), found.answer) == ([question], gold)
    assert found.images == (str(tmp_path / "1.png"),)


def test_a_free_response_without_its_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(RED)
    given = {"Question": "What is it?", "Answer (final answer highlighted)": "A stone.", "ImagePath": "1"}
    with pytest.raises(UserError, match="needs a letter or"):
        adapt("scemqa", given, tmp_path)


@pytest.mark.parametrize("answer", ["B", "(B)", "B Since.", "(B) Since.", "B: Since.", "B-Since.", "B  ![image](x)"])
def test_a_letter_before_its_explanation(answer: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(RED)
    given = {"Question": "Which?\n A. 1 \n  B. 2", "Answer (final answer highlighted)": answer, "ImagePath": "1"}
    found = adapt("scemqa", given, tmp_path)
    assert (texts(found), found.answer) == (["Which?\nA. 1\nB. 2"], "B")


@given(st.text("×Ωé’ﬁ𝑥a1 ", min_size=1))
def test_utf_8_that_was_read_as_latin_1_is_undone(signs: str) -> None:
    given = {"Question": f"Q{signs}?", "Answer (final answer highlighted)": "B", "ImagePath": "https://example.org/1"}
    misread = given | {"Question": given["Question"].encode().decode("latin-1")}
    assert texts(adapt("scemqa", misread)) == texts(adapt("scemqa", given)) == [given["Question"]]


@pytest.mark.parametrize("asked", [None, "", "None"])
def test_a_question_that_only_the_image_shows(asked: str | None) -> None:
    given = {"image": RED, "question_text": asked, "answer_option": "(a) (b) (c) (d)", "final_answer": "c"}
    found = adapt("polymath", given)
    assert texts(found) == ["Answer the question in the image.\nA.\nB.\nC.\nD."]
    assert found.answer == "C"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "A. 1.5, 2 B. 3 ;C. 60;D. 7.; E. No correct answer",
            ["1.5, 2", "3", "60", "7.", "No correct answer"],
        ),
        ("(A) p = 0 (B) p ≠ 0", ["p = 0", "p ≠ 0"]),
        ("(A) Only I holds(B) Only II holds", ["Only I holds", "Only II holds"]),
        ("(1) 6 (2) 8 (3) 12", ["6", "8", "12"]),
        ("1. 4:17 2. 9:82 3. 17:4 4. 82:9", ["4:17", "9:82", "17:4", "82:9"]),
        ("(a) f(a) (b) f(b)", ["f(a)", "f(b)"]),
        ("A: yes\nB: no", ["yes", "no"]),
        ("(A) (B)", ["", ""]),
        ("yes or no", []),
        ("(A) alone", []),
        ("first (A) 1 (B) 2", []),
        ("", []),
    ],
)
def test_options_in_one_string(text: str, options: list[str]) -> None:
    assert split_options(text) == options


WORDS = st.lists(st.text("xyz0 -", max_size=8).map(str.strip), min_size=2, max_size=9)


@given(WORDS, st.sampled_from([ascii_uppercase, ascii_lowercase, "123456789"]), st.sampled_from(["({})", "{}.", "{})"]))
def test_options_of_every_style_are_found_again(options: list[str], labels: str, style: str) -> None:
    text = "\n".join(f"{style.format(label)} {option}" for label, option in zip(labels, options, strict=False))
    assert split_options(text) == options


@pytest.mark.parametrize(("answer", "letter"), [("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("blue", "B")])
def test_answers_that_name_an_option(answer: str, letter: str) -> None:
    assert letter_of(answer, ["red", "blue", "green"], "here") == letter


@pytest.mark.parametrize("value", [None, "red", ["red"], ["red", None], ["red", ["blue"]], ["red"] * 27, {}])
def test_what_is_no_list_of_options(value: Any) -> None:
    with pytest.raises(UserError, match=r"^here, 'options': needs a list of 2 to 26 options, got "):
        option_list({"options": value}, "options", "here")


@pytest.mark.parametrize("answer", ["D", "(E)", "yellow", "AB", "twice", "1"])
def test_answers_that_name_none(answer: str) -> None:
    with pytest.raises(UserError, match=r"^here: needs a letter from A to C or an option's text"):
        letter_of(answer, ["red", "twice", "twice"], "here")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{5}", ["5"]),
        ("so \\boxed{\\frac{1}{\\sqrt{2}}} and \\boxed{ A }", ["\\frac{1}{\\sqrt{2}}", "A"]),
        ("\\boxed{5", []),
        ("boxed{5}", []),
    ],
)
def test_answers_in_braces(text: str, found: list[str]) -> None:
    assert in_braces(text, "boxed") == found
