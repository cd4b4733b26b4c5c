"""Multiple choice: a letter counts in every usual dress, and nowhere else."""

import pytest

from observe_r1.rewards import accuracy_reward, verifiable


def score(text: str, gold: str) -> float:
    return accuracy_reward(f"<think>A, B, C or D?</think> <answer>{text}</answer>", gold)


DRESSES = [
    "A",
    "a",
    "(A)",
    "(a)",
    "[A]",
    "A.",
    "A)",
    "A:",
    "**A**",
    "*A*",
    "`A`",
    '"A"',
    "'A'",
    "$A$",
    "\\(A\\)",
    "\\boxed{A}",
    "\\text{A}",
    "\\text{(A)}",
    "\\textbf{A}",
    "\\mathrm{A}",
    "$\\boxed{\\text{A}}$",
    "A. 12 cm",
    "A.12 cm",
    "A) 12",
    "(A) 12 cm",
    "(A) 120 mm",
    "A: 12",
    "a) twelve",
    "\\boxed{A. 12\\text{ cm}}",
    "**A. 12 cm**",
    "The answer is A",
    "The answer is A.",
    "The correct answer is (A).",
    "the answer is: **A**",
    "Answer: A",
    "answer is a",
    "Option A",
    "option (a)",
    "Option A is correct",
    "The correct option is A",
    "I choose A",
    "I think A",
    "A is correct",
    "A because the angle is right",
    "The answer is A because the line is parallel",
    "The answer is A because B is too small",
    "It must be (A)",
    "Ans. (a)",
    "选A",
    "答案：Ａ",
    "\n A \n",
]


WITH_TEXTS = ["A. (1, 2)", "A. Points B and C", "A. The line through C.", "Answer: A) 45°", "(A) -3"]


@pytest.mark.parametrize("text", WITH_TEXTS)
def test_beside_a_gold_letter_any_text_may_stand(text):
    assert score(text, "A") == 1.0
    assert score(text, "B") == 0.0


@pytest.mark.parametrize("text", WITH_TEXTS)
def test_a_letter_with_another_text_than_the_gold_has_is_wrong(text):
    assert score(text, "A. 12 cm") == 0.0


@pytest.mark.parametrize("text", DRESSES)
@pytest.mark.parametrize("gold", ["A", "(A)", "a", "A. 12 cm"])
def test_the_letter_counts_in_every_usual_dress(text, gold):
    assert score(text, gold) == 1.0
    assert score(text, gold.replace("A", "E").replace("a", "e")) == 0.0


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("both", "b"),
        ("bad", "b"),
        ("AB", "A"),
        ("A1", "A"),
        ("Aé", "A"),
        ("A and B", "A"),
        ("A or B", "A"),
        ("A, C", "A"),
        ("A, C", "C"),
        ("A,B", "B"),
        ("A B", "A"),
        ("A & B", "A"),
        ("A/B", "A"),
        ("A-B", "A"),
        ("(A) and (B)", "A"),
        ("(A)(B)", "A"),
        ("A. and B.", "A"),
        ("A. B. C. D.", "D"),
        ("A. 12 B. 13", "A"),
        ("A.12 B.13", "A"),
        ("(A) 12 (B) 13", "A"),
        ("a) 12 b) 13", "a"),
        ("A. 12 cm or (C)", "A"),
        ("The answer is A or B", "A"),
        ("The answer is A, B", "A"),
        ("The answer is A or perhaps C", "A"),
        ("The answer is A. The answer is B.", "A"),
        ("Option A Option B", "A"),
        ("A. The answer is B", "A"),
        ("Either A or C", "C"),
        ("A, B, C, D", "D"),
        ("a triangle", "A"),
        ("A triangle has three sides", "A"),
        ("It is a circle", "A"),
        ("The answer is a triangle", "A"),
        ("Yes. A circle is round", "A"),
        ("I see a circle", "I"),
        ("not A", "A"),
        ("The answer is not A", "A"),
        ("It isn't A", "A"),
        ("A = 3", "A"),
        ("A + B", "A"),
        ("A'", "A"),
        ("x = C_1", "C"),
        ("25 °C", "C"),
        ("3 A", "A"),
        ("e.g. 5", "E"),
        ("", "A"),
        ("12 cm", "A"),
    ],
)
def test_no_letter_counts_in_words_formulas_or_among_several(text, gold):
    assert score(text, gold) == 0.0


@pytest.mark.parametrize(
    "gold", ["A", "a", "(A)", "A.", "A) 12", "A. 12 cm", "\\text{(A)}", "**A**", "Option A", "$A$"]
)
def test_gold_answers_may_be_dressed_themselves(gold):
    assert verifiable(gold)
    assert score("A", gold) == 1.0
    assert score("B", gold) == 0.0


def test_without_a_letter_the_text_of_the_gold_option_counts():
    assert score("12 cm", "A. 12 cm") == 1.0
    assert score("0.5", "(B) \\frac{1}{2}") == 1.0
    assert score("a Red circle", "C. red circle") == 1.0
    assert score("13 cm", "A. 12 cm") == 0.0
    assert score("B. 12 cm", "A. 12 cm") == 0.0
    assert score("A or B, 12 cm", "A. 12 cm") == 0.0


def test_lacking_tags_the_response_is_read():
    assert accuracy_reward("Let me see. The answer is (C).", "C") == 1.0
    assert accuracy_reward("Let me see. The answer is (C).", "D") == 0.0
