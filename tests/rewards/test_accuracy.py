"""Accuracy: numbers, words and formulas, against math-verify itself where it can read them, and hostile text."""

import math_verify
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observe_r1 import registry
from observe_r1.errors import UserError
from observe_r1.rewards import accuracy_reward, verifiable

EQUAL = [
    ("3/4", "0.75"),
    ("3/4", "\\frac{3}{4}"),
    ("3/4", "\\dfrac{3}{4}"),
    ("0.75", "75\\%"),
    ("75\\%", "75%"),
    ("x=3", "3"),
    ("x=3", "x = 3"),
    ("\\frac{1}{2}", "0.5"),
    ("\\frac{1}{2}", "½"),
    ("12 cm", "12"),
    ("12 cm", "12\\text{ cm}"),
    ("12 cm", "120 mm"),
    ("25 cm^2", "25"),
    ("25 cm²", "2500 mm^2"),
    ("5 m/s", "5"),
    ("1,000", "1000"),
    ("1,000", "1{,}000"),
    ("1,000", "1 000"),
    ("(1,2)", "(1, 2)"),
    ("(1,2)", "\\left(1, 2\\right)"),
    ("[1,2)", "[1, 2)"),
    ("\\sqrt{2}", "√2"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("2√3", "2\\sqrt{3} cm"),
    ("2\\sqrt{3}", "2 sqrt(3)"),
    ("-5", "−5"),
    ("12", "12.0"),
    ("12", "twelve"),
    ("12", "+12."),
    ("007", "7"),
    (".5", "0.50"),
    ("60^\\circ", "60°"),
    ("60", "60 degrees"),
    ("2\\pi", "2π"),
    ("\\infty", "∞"),
    ("3, 5", "5, 3"),
    ("3, 5", "3 and 5"),
    ("3, 5", "x = 3 or x = 5"),
    ("1 1/2", "1.5"),
    ("1 1/2", "1\\frac{1}{2}"),
    ("3e8", "3 \\times 10^8"),
    ("y=2x+1", "y = 2x + 1"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x>3", "3<x"),
    ("1/3", "0.333333"),
    ("3:5", "\\frac{3}{5}"),
]

UNEQUAL = [
    ("3/4", "0.76"),
    ("0.75", "75"),
    ("x=3", "4"),
    ("x=3", "y=3"),
    ("\\frac{1}{2}", "\\frac{1}{3}"),
    ("12 cm", "13 cm"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "[1,2]"),
    ("\\sqrt{2}", "2"),
    ("2√3", "2"),
    ("2\\sqrt{3}", "3"),
    ("1 1/2", "1"),
    ("1/3", "0.33"),
    ("12", "13"),
    ("12", "112"),
    ("12 cm", "12 square meters"),
    ("25 cm²", "25 m^2"),
    ("3, 5", "5"),
    ("5", "2 3"),
    ("9", "9**9**9"),
    ("x+1", "1"),
]

DRESSES = ["{}", "${}$", "\\({}\\)", "\\[ {} \\]", "\\boxed{{{}}}", "$\\boxed{{{}}}$", "The answer is {}", "{}."]


def score(text: str, gold: str) -> float:
    return accuracy_reward(f"<think>1 + 1 = 2</think> <answer>{text}</answer>", gold)


@pytest.mark.parametrize(("gold", "text"), EQUAL)
def test_equal_answers_count_both_ways(gold, text):
    assert verifiable(gold)
    assert score(text, gold) == 1.0
    assert score(gold, text) == 1.0


@pytest.mark.parametrize(("gold", "text"), UNEQUAL)
def test_unequal_answers_do_not(gold, text):
    assert score(text, gold) == 0.0
    assert score(gold, text) == 0.0


@pytest.mark.parametrize("gold", ["12", "\\frac{1}{2}", "\\sqrt{2}", "(1,2)", "x=3", "2\\sqrt{3}", "75\\%"])
@pytest.mark.parametrize("dress", DRESSES)
def test_latex_counts_in_every_dress(gold, dress):
    assert score(dress.format(gold), gold) == 1.0
    assert score(dress.format(gold), "77") == 0.0
    assert score(gold, dress.format(gold)) == 1.0


FORMULAS = ["3/4", "0.75", "75\\%", "x=3", "3", "(1,2)", "[1,2)", "\\sqrt{2}", "1.414214", "\\{1, 2\\}", "x > 3"]
FORMULAS += ["2^{10}", "1024"]


def test_formulas_compare_as_math_verify_compares_them():
    parsed = {formula: math_verify.parse(f"${formula}$") for formula in FORMULAS}
    for gold in FORMULAS:
        for text in FORMULAS:
            if {gold, text} == {"(1,2)", "\\{1, 2\\}"}:
                continue  # it takes a point for a set
            expected = math_verify.verify(parsed[gold], parsed[text])
            assert score(text, gold) == expected, (gold, text)


decimals = st.decimals(-9999, 9999, allow_nan=False, places=2) | st.integers(-9999, 9999) | st.integers(0, 20)


@given(decimals, decimals)
def test_plain_numbers_are_compared_by_their_values(first, second):
    assert score(str(first), str(second)) == float(first == second)


@pytest.mark.parametrize("gold", ["12", "-7", "0.5", "1,000"])
@pytest.mark.parametrize("text", ["12", "-7.0", "0.50", "1000", "1,000.0", "+12", "seven", "12.000001", ".5"])
def test_math_verify_compares_plain_numbers_alike(gold, text):
    assert score(text, gold) == math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(f"${text}$"))


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("red", "Red", 1.0),
        ("red", "**red**.", 1.0),
        ("red", "\\text{red}", 1.0),
        ("red", "The answer is red.", 1.0),
        ("red circle", "a red  circle", 1.0),
        ("Yes", "yes", 1.0),
        ("N/A", "n/a", 1.0),
        ("红", "红", 1.0),
        ("2 hours 30 minutes", "2 hours 30 minutes", 1.0),
        ("2 hours 30 minutes", "30", 0.0),
        ("red", "blue", 0.0),
        ("red", "red or blue", 0.0),
        ("red", "bored", 0.0),
        ("blue", "lube", 0.0),
        ("yes", "no", 0.0),
    ],
)
def test_words_compare_literally(gold, text, expected):
    assert verifiable(gold)
    assert score(text, gold) == expected


PROSE = "it depends on how the observer looks at the whole figure"
UNVERIFIABLE = ["", "  ", "???", "-", "$", "\\frac{", "\\sqrt", "1/0", "5 ??? 7", PROSE, "1" * 3000, "\ud800", "\x00"]


@pytest.mark.parametrize("gold", UNVERIFIABLE)
def test_gold_answers_that_cannot_be_verified_score_zero_for_anything(gold):
    assert not verifiable(gold)
    for text in (gold, "anything", "7", "A", ""):
        assert score(text, gold) == 0.0


GOLDS = [gold for pair in EQUAL for gold in pair] + ["A", "(B)", "C. 12 cm", "red", "5 ∪ 3", "x ∈ (1,2)", "AB ⊥ CD"]


@pytest.mark.parametrize("gold", GOLDS)
def test_a_gold_answer_can_be_verified_exactly_if_it_counts_for_itself(gold):
    assert score(gold, gold) == float(verifiable(gold))


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("<answer>3</answer> no: <answer>4</answer>", "4", 1.0),
        ("<answer>3</answer> no: <answer>4</answer>", "3", 0.0),
        ("<answer>4</answer> and <answer>3", "4", 1.0),
        ("<answer><answer>4</answer>", "4", 1.0),
        ("<answer>4</answer></answer>", "4", 1.0),
        ("4</answer>", "4", 1.0),
        ("So the answer is 4.", "4", 1.0),
        ("So the final answer is $\\frac{1}{2}$.", "0.5", 1.0),
        ("1 + 2 = 3", "3", 1.0),
        ("no number at all", "3", 0.0),
        ("<answer></answer> 3", "3", 0.0),
    ],
)
def test_the_last_complete_pair_of_tags_is_read_or_else_the_response(response, gold, expected):
    assert accuracy_reward(response, gold) == expected


def test_only_the_end_of_a_long_answer_is_read():
    assert score("3 " * 100_000 + "so the answer is 4", "4") == 1.0
    assert accuracy_reward("<answer>4</answer>" + "x" * 1_000_000, "4") == 1.0
    assert score("x" * 1_000_000, "4") == 0.0


def test_a_response_that_is_no_string_scores_zero():
    for response in (None, 4, b"4", ["4"]):
        assert accuracy_reward(response, "4") == 0.0


def test_a_gold_answer_may_be_a_number_as_in_a_dataset():
    for gold in (4, 4.0, np.int64(4), np.float64(4)):
        assert accuracy_reward("<answer>4</answer>", gold) == 1.0
        assert accuracy_reward("<answer>5</answer>", gold) == 0.0
    assert accuracy_reward("<answer>0.00001</answer>", 1e-5) == 1.0


@pytest.mark.parametrize("gold", [None, True, ["4"], b"4", float("nan"), float("inf")])
def test_a_gold_answer_of_another_type_is_refused_not_never_met(gold):
    with pytest.raises(UserError, match="the gold answer needs text or a finite number, not "):
        accuracy_reward("<answer>4</answer>", gold)
    assert not verifiable(gold)


def test_the_registered_function_needs_no_pool():
    reward = registry.load("reward", "accuracy")
    assert reward("<answer>0.5</answer>", "\\frac{1}{2}", "observe") == 1.0
    assert reward("<answer>B</answer>", "A", "observe") == 0.0


@pytest.mark.parametrize("text", ["9^{9^{9^9}}", "10000000000!", "2^{10^{20}}", "0.1^{10^{20}}"])
def test_numbers_that_never_end_score_zero(text):
    assert score(text, "\\frac{1}{2}") == 0.0
    assert not verifiable(text)
