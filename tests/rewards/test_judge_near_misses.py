"""What is close to a right answer, or only has it in it, is wrong."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from observe_r1.rewards import accuracy_reward, verifiable

INTEGERS = st.integers(-(10**12), 10**12)
DECIMALS = st.decimals(-9999, 9999, allow_nan=False, places=3)
UNITS = st.sampled_from(["cm", "m", "kg", "s", "N", "V", "mL", "km/h", "m/s^2", "°", "cm^2"])


def score(text, gold):
    return accuracy_reward(f"<answer>{text}</answer>", gold)


def agrees(text, gold, expected):
    assert verifiable(gold)
    assert score(text, gold) == float(expected), (text, gold)


@given(INTEGERS, INTEGERS)
def test_integers_are_the_same_exactly_if_they_are_equal(a, b):
    agrees(str(a), str(b), a == b)
    agrees(f"{a:,}", str(b), a == b)


@given(st.integers(10**30, 10**40), st.sampled_from([1, -1, 10]))
def test_integers_are_exact_at_any_size(number, step):
    agrees(str(number), str(number), True)
    agrees(str(number + step), str(number), False)


@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500))
def test_fractions_are_the_same_exactly_if_they_are_equal(a, b):
    text = f"\\frac{{{a.numerator}}}{{{a.denominator}}}"
    agrees(text, f"{b.numerator}/{b.denominator}", a == b)


@given(DECIMALS, st.integers(0, 30))
def test_another_sign_digit_or_exponent_is_wrong(number, at):
    assume(number)
    gold = str(number)
    agrees(str(-number), gold, False)
    agrees(f"{gold}e3", gold, False)
    place = at % len(gold)
    if gold[place].isdecimal():
        agrees(gold[:place] + str((int(gold[place]) + 5) % 10) + gold[place + 1 :], gold, False)


@given(st.integers(1, 999), UNITS, UNITS)
def test_another_unit_is_wrong(number, unit, other):
    agrees(f"{number} {unit}", f"{number} {unit}", True)
    agrees(f"{number} {other}", f"{number} {unit}", unit == other)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=4), st.randoms())
def test_points_have_an_order_and_sets_have_none(items, dice):
    shuffled = dice.sample(items, len(items))
    point, moved = ("(" + ", ".join(map(str, each)) + ")" for each in (items, shuffled))
    agrees(moved, point, items == shuffled)
    among, moved = ("\\{" + ", ".join(map(str, each)) + "\\}" for each in (items, shuffled))
    agrees(moved, among, True)
    agrees("\\{" + ", ".join(map(str, [*items[:-1], items[-1] + 1])) + "\\}", among, False)


@given(st.integers(-9, 9), st.integers(1, 9), st.sampled_from("(["), st.sampled_from(")]"))
def test_another_bracket_is_wrong(low, width, opening, closing):
    gold = f"{opening}{low}, {low + width}{closing}"
    agrees(gold, gold, True)
    agrees(("[" if opening == "(" else "(") + gold[1:], gold, False)
    agrees(gold[:-1] + ("]" if closing == ")" else ")"), gold, False)


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 23), st.integers(0, 59))
def test_times_are_the_same_exactly_if_hour_and_minute_are(hour, minute, hour_2, minute_2):
    agrees(f"{hour}:{minute:02}", f"{hour_2:02}:{minute_2:02}", (hour, minute) == (hour_2, minute_2))


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=3), st.lists(st.integers(-5, 5), min_size=3, max_size=3))
def test_polynomials_are_the_same_exactly_if_their_coefficients_are(a, b):
    texts = [f"{c[0]}x^2 + {c[1]}x + {c[2]}".replace("+ -", "- ") for c in (a, b)]
    agrees(texts[0], texts[1], a == b)


HEDGES = [
    "not {}", "{} or {other}", "{other} or {}", "{} or not", "at least {}", "at most {}", "less than {}", "maybe {}",
    "anything but {}", "between {} and {other}", "from {} to {other}", "{}?{other}", "{} {other}", "{}, {other}",
    "either {} or {other}", "{} and {other}", "[{}, {other}]", "{} < {other}", "x \\ne {}", "x > {}", "±{}", "{}!{}",
    "It could be {}.", "It is not {}.", "I doubt the answer is {}.", "The wrong answer is {}.", "{}; {other}",
    "If not {other}, then {}", "{} = {other}", "{other} = {}", "{} ≈ {other}", "{other}{}", "{}{other}", "{}^{other}",
    "the answer is {} or {other}", "the answer is {}. No, {other}.", "\\boxed{{{}}} \\boxed{{{other}}}", "{}~{other}",
    "{}/{other}",
]  # fmt: skip


@pytest.mark.parametrize("hedge", HEDGES)
@given(a=st.integers(3, 60), b=st.integers(3, 60))
@settings(max_examples=10)
def test_what_only_has_the_answer_in_it_is_wrong(hedge, a, b):
    assume(a != b)
    agrees(hedge.format(a, a, other=b), str(a), False)


SCRAPS = ["½", "\\frac", "{", "}", "1", "2", "\\frac{1}{2}", "0.5", "\\sqrt", "^", "_", "\\cdot", "x", "+", "-", "or"]
SCRAPS += ["and", "not", "\\le", "<", "|", "\\pi", "e", "i", "&", "\\\\", "!", "\\sin", "\\log", "?", "maybe"]


def test_noise_around_a_right_answer_is_wrong():
    dice = random.Random(0)
    for _ in range(4000):
        around = dice.choices(SCRAPS, k=dice.randint(1, 6))
        around.insert(dice.randint(0, len(around)), "\\frac{1}{2}")
        text = " ".join(around)
        if score(text, "0.5"):
            values = " ".join(around).replace("\\frac{1}{2}", "0.5").replace("½", "0.5")
            assert _worth_a_half(values), text


PAIRS = [
    ("3", "7"), ("B", "C"), ("red", "blue"), ("\\frac{1}{2}", "\\frac{1}{3}"), ("5 cm", "7 cm"), ("x^2+1", "x^2-1"),
    ("(1, 2)", "(3, 4)"), ("20%", "30%"), ("30%", "0.5"), ("7:30", "8:45"), ("2:3", "5:7"), ("Yes", "No"),
    ("x > 3", "x < 3"), ("\\sqrt{2}", "\\sqrt{3}"), ("$5", "$7"), ("\\{1,2\\}", "\\{3,4\\}"), ("60°", "30°"),
    ("A, C", "B, D"), ("3 apples", "5 apples"), ("2", "\\sqrt{5}"), ("50", "0.25"), ("4 m", "4 s"), ("May 5", "May 6"),
]  # fmt: skip
JOINTS = [
    *SCRAPS, "", ",", ";", ":", ".", "=", "≈", "\\approx", "->", "\\to", "x =", "is", "the answer is", "so", "since",
    "which is", "/", "%", "°", "cm", "(", ")", "[", "]", "\\{", "\\}", "**", "\\text{", "\\boxed{", "\n", "<b>",
    "\\cup", "\\in", "to", "~",
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_text_is_right_for_two_answers(one, other):
    dice = random.Random(f"{one} {other}")
    for _ in range(400):
        pieces = dice.choices(JOINTS, k=dice.randint(1, 4))
        for value in (one, other):
            pieces.insert(dice.randint(0, len(pieces)), value)
        text = dice.choice([" ", ""]).join(pieces)
        assert not (score(text, one) and score(text, other)), text


def _worth_a_half(text):
    """Whether a text is, by Python's own parser, an expression of the value ½."""
    try:
        return abs(eval(text.replace("^", "**").replace("\\cdot", "*").replace("|", ""), {}, {})) == 0.5
    except (SyntaxError, TypeError, NameError, ZeroDivisionError, OverflowError):
        return False


TEXTS = st.text(st.sampled_from("0123456789+-*/^=<>(){}[],.:; \\$%°πx√½ABabcdeimnorst"), max_size=20) | st.text(
    max_size=12
)


@given(TEXTS)
@settings(max_examples=300)
def test_whatever_is_called_verifiable_scores_on_itself_and_nothing_raises(text):
    alone = accuracy_reward(f"<answer>{text}</answer>", text)
    assert verifiable(text) is (alone == 1.0)
    assert score("a text that is no answer to anything at all, really", text) == 0.0
