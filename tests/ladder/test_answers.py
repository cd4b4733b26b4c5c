"""Which gold answers can be verified, and multiple choice brought to its letter."""

from dataclasses import replace
from string import ascii_lowercase, ascii_uppercase, digits

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from observe_r1.ladder.answers import checked_answer, find_options, in_capitals, question_of
from observe_r1.ladder.sources.fields import with_options
from observe_r1.records import Example
from observe_r1.rewards import accuracy_reward


def example(question, answer):
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    return Example(id="x", messages=({"role": "user", "content": parts},), images=("a.png",), answer=answer)


CHOICE = "Which length?\nA. 12 cm\nB. 13 cm\nC. dark blue"


@pytest.mark.parametrize(
    ("question", "answer", "checked"),
    [
        ("How many?", " 3 ", "3"),
        ("How long?", r"$\frac{1}{2}$", r"$\frac{1}{2}$"),
        ("Solve.", "x=1 or x=2", "x=1 or x=2"),
        ("Where?", "(1, 2)", "(1, 2)"),
        ("How long?", r"3\;cm", r"3\;cm"),
        ("Which segment?", "AC", "AC"),
        ("Which colour?", "dark blue", "dark blue"),
        ("How long?", "<think>1, 2</think> <answer>3</answer>", "3"),
        (CHOICE, "<answer>13 cm</answer>", "B"),
        (CHOICE, "B", "B"),
        (CHOICE, "(B)", "B"),
        (CHOICE, "B. 13 cm", "B"),
        (CHOICE, "13 cm", "B"),
        (CHOICE, "Dark blue.", "C"),
        ("Which? (A) 1 (B) 2", "2", "B"),
        ("Which?\n(A) AC (B) BD", "BD", "B"),
        ("Which?\nA. B\nB. A", "A", "A"),
        ("Which?\nA. 5\nB. x", "B. x", "B"),
        (CHOICE, "CAB", "CAB"),
        ("Which point is highest? (A) P (B) Q (C) R", "Q", "B"),
        ("Prove that AB is parallel to CD. What is the angle?", "90", "90"),
    ],
)
def test_answers_that_stay(question, answer, checked):
    assert checked_answer(example(question, answer)) == (checked, None)
    assert accuracy_reward(f"<answer>{checked}</answer>", checked) == 1


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (CHOICE, "D", "names no option"),
        ("Which?\nA. 5\nB. 5.0\nC. 6", "5", "fits multiple options"),
        (CHOICE, "AC", "multiple answers"),
        (CHOICE, "A and C", "multiple answers"),
        ("Which are right?", "A and C", "multiple answers"),
        ("Which are right?", "A, B, and C", "multiple answers"),
        ("Solve.", "x=1; y=2", "multiple answers"),
        ("Solve both.", "(1) 5 (2) 6", "multiple answers"),
        ("Solve both.", "5\n6", "multiple answers"),
        ("Prove that the triangles are alike.", "by the sine rule", "asks for a proof"),
        ("Why?", "because both of them are always moving towards the left of it", "free text"),
        ("Solve.", r"\frac{", "cannot be parsed"),
        ("Solve.", "1/0", "cannot be parsed"),
    ],
)
def test_answers_that_go_and_why(question, answer, reason):
    assert checked_answer(example(question, answer))[1] == reason


STYLES = {"(A)": ascii_uppercase, "(a)": ascii_lowercase, "(1)": digits[1:]}


@pytest.mark.parametrize("labels", STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("gap", [" ", "\n", "; "])
def test_options_and_answers_of_every_style_become_capitals(labels, gap):
    texts = ["12 cm", "13 cm", "dark blue"]
    question = "Which length?" + gap + gap.join(f"({label}) {text}" for label, text in zip(labels, texts, strict=False))
    capitals = "Which length?" + gap + gap.join(f"({label}) {text}" for label, text in zip("ABC", texts, strict=True))
    for answer in (labels[1], f"({labels[1]})", f"({labels[1]}) 13 cm", f"{labels[1]}. 13 cm", "13 cm", "B", "(B)"):
        asked = example(question, answer)
        assert checked_answer(asked) == ("B", None)
        assert in_capitals(asked, "B") == example(capitals, "B")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Solve. (1) Find x. (2) Find y.", "1"),
        ("Solve. (1) x + 1 = 3 (2) What is y?", "2"),
        ("By (1) and (2), how long is it?", "1"),
        ("Name the larger of f (a) and f (b).", "f"),
        ("Two lines:\n(1) y = x\n(2) y = 3. Where is f(1)?", "1"),
        ("Which colour? (a) red (b) blue", "12"),
        ("How long is AB? (1) 3 (2) 4", "AB"),
        ("Of the statements: (1) AB = CD; (2) AC = BD; (3) AB > CD, the number that are true is ____.", "2"),
        ("Which?\n(1) AB = CD\n(2) AC = BD\nThe number of true ones is", "1"),
        ("Given: (1) AB = 3; (2) BC = 4. AC - 3 =", "2"),
        ("(1) AB = CD (2) AC = BD, 其中正确的个数是", "2"),
    ],
)
def test_labels_that_are_no_options_stay(question, answer):
    asked = example(question, answer)
    assert checked_answer(asked) == (answer, None)
    assert in_capitals(asked, answer) == asked


def test_a_number_that_is_a_label_and_another_option_is_dropped():
    question = "How many? (1) 2 (2) 4 (3) 3"
    assert checked_answer(example(question, "2"))[1] == "fits multiple options"
    assert checked_answer(example(question, "(2)")) == ("B", None)
    assert checked_answer(example(question, "3")) == ("C", None)
    assert checked_answer(example(question, "4")) == ("B", None)


def test_labels_between_images_become_capitals():
    def asked(first, second, answer):
        texts = [{"type": "text", "text": f"Which? ({first}) "}, {"type": "text", "text": f" ({second}) "}]
        content = [texts[0], {"type": "image"}, texts[1], {"type": "image"}]
        return replace(example("", answer), messages=({"role": "user", "content": content},), images=("a.png", "b.png"))

    assert checked_answer(asked("1", "2", "2")) == ("B", None)
    assert in_capitals(asked("1", "2", "2"), "B") == asked("A", "B", "B")


SEVERAL = ["5 and 6", "5 & 6", "5, 6, and 7", "3,4", "5 and 6 cm", "12 m and 5 m", "60° and 30°", "1,000 and 2,000"]
SEVERAL += [r"$5$ and $6$", r"5 \text{ and } 6", r"60^\circ, 30^\circ", r"\(\sqrt{2}, \sqrt{3}\)", r"\frac{1}{2}, 3"]
SEVERAL += ["x = 1, y = 2", r"$x=1$, $y=2$", "x = 3 and y = 4", "width = 5, height = 6", "area: 5 and perimeter: 9"]
SEVERAL += [r"x = 1,\, y = 2", r"5\,\mathrm{m}, 6\,\mathrm{m}"]
SEVERAL += ["(1, 2) and (3, 4)", "(1, 2), (3, 4)", "AB and CD", "a, b", "5和6", "5、6"]


@pytest.mark.parametrize("answer", SEVERAL)
def test_several_answers(answer):
    assert checked_answer(example("What are they?", answer)) == (answer, "multiple answers")
    assert checked_answer(example(with_options("What are they?", ["1", answer]), answer)) == ("B", None)


ONE = ["(3, 4)", r"\left(3, 4\right)", "A(3, 4)", r"\boxed{(3, 4)}", "[1, 2)", "f(1, 2)", "{1, 2}", r"\{1, 2\}"]
ONE += [r"5\,\mathrm{m}", r"9.8\,\text{N}", r"25\,\%", r"4\,\pi", r"12\,000", r"12,\!000", r"30\,^{\circ}"]
ONE += [r"x \in [1, 2]", r"S = \{1, 2\}", r"(-\infty, 2) \cup (3, \infty)", r"\begin{pmatrix} 1, 2 \end{pmatrix}"]
ONE += ["1,000", "-1,234,567", "12,345.6", r"\$1,000", "1,000 m", "x=1 or x=2", "x > 1 and x < 3", "f(x) = 2x, x > 0"]
ONE += [
    "2 hours and 30 minutes",
    "5 feet, 3 inches",
    "12 m/s, north",
    "yes, it is",
    "May 5, 2020",
    "3:4:5",
    "5 cm × 3 cm",
]
ONE += [r"\pm 3", "Andes", "sand", "3 thousand"]


@pytest.mark.parametrize("answer", ONE)
def test_one_answer_with_separators_in_it(answer):
    assert checked_answer(example("What is it?", answer)) == (answer, None)
    assert accuracy_reward(f"<answer>{answer}</answer>", answer) == 1


WORDS = st.text(st.sampled_from("bcdfgmnpst "), min_size=2, max_size=8).map(str.strip).filter(lambda t: len(t) > 1)


@settings(max_examples=150)
@given(st.lists(WORDS | st.integers(0, 999).map(str), min_size=2, max_size=6, unique=True), st.data())
def test_the_text_of_an_option_becomes_its_letter(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    question = with_options("Which one?", options)
    assume((found := find_options(question)) and found.texts == options)
    assert checked_answer(example(question, options[index])) == (ascii_uppercase[index], None)


@settings(max_examples=150)
@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_gets_a_verdict(question, answer):
    checked, reason = checked_answer(example(question, answer))
    assert isinstance(checked, str) and (reason is None or reason)


@settings(max_examples=300)
@given(st.text("(abc123) .?\n", max_size=60), st.text("abc123ABC().", max_size=6))
def test_capitals_change_nothing_but_labels(question, answer):
    asked = example(f"Which? (1) x (2) y {question}", answer)
    checked, _ = checked_answer(asked)
    written = in_capitals(asked, checked)
    before, after = question_of(asked), question_of(written)
    differing = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    letters = "".join(new for _, new in differing)
    assert letters == ascii_uppercase[: len(differing)]
    assert "".join(old for old, _ in differing) in (digits[1 : len(letters) + 1], ascii_lowercase[: len(letters)])
    assert checked_answer(written) == checked_answer(asked)
