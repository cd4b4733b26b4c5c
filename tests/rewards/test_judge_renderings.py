"""A value is the same in any two notations of it, and another value is not, in whichever notation."""

from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from observe_r1.rewards import accuracy_reward, verifiable
from observe_r1.rewards.accuracy import read_as
from observe_r1.rewards.judge.comparing import verdict
from tests.hostile import TEXTS

DRESSES = [
    "{}", "\\boxed{{{}}}", "${}$", "\\({}\\)", "**{}**", "The answer is {}.", "Answer: {}", "答案是{}", "<b>{}</b>",
    "So, the answer is ${}$.", "Therefore: {}", "**Final Answer:** {}", "$$\\boxed{{{}}}$$", " {} \n", "It is {}",
]  # fmt: skip


def integers(number):
    yield from (f"{number}", f"{number:,}", f"{number}.0", f"{number}.00", f"({number})", f"{2 * number}/2")
    yield from (f"\\frac{{{3 * number}}}{{3}}", f"{number - 7} + 7", f"x = {number}", f"\\text{{{number}}}")
    yield from (f"{number}".replace("-", "−"), f"{number:,}".replace(",", "{,}"), f"-(-({number}))", f"{number}e0")
    yield from (
        f"{number} \\times 1",
        f"{number * 100}%",
        f"{number}".translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    )


def fractions(number):
    over, under = number.numerator, number.denominator
    yield from (f"{over}/{under}", f"\\frac{{{over}}}{{{under}}}", f"\\dfrac{{{2 * over}}}{{{2 * under}}}")
    yield from (f"{over} / {under}", f"{over}*{under}^{{-1}}", f"({over})/({under})", f"{over} ÷ {under}")
    yield from (f"\\tfrac{{{-over}}}{{{-under}}}", f"y = \\left(\\frac{{{over}}}{{{under}}}\\right)", f"{over}⁄{under}")
    whole, rest = divmod(abs(over), under)
    if whole and rest:
        sign = "-" * (over < 0)
        yield from (f"{sign}{whole}\\frac{{{rest}}}{{{under}}}", f"{sign}{whole} {rest}/{under}")


def decimals(number):
    over, under = number.as_integer_ratio()
    power = number.adjusted()
    mantissa = number.scaleb(-power)
    yield from (f"{number}", f"{number}0", f"\\frac{{{over}}}{{{under}}}", f"{number} = {number}")
    yield from (f"{mantissa}e{power}", f"{mantissa} \\times 10^{{{power}}}", f"{mantissa} * 10^{power}")
    yield from (f"{mantissa}×10^({power})", f"x={number}", f"{number.scaleb(2):f}%")


def points(items):
    inner = ", ".join(map(str, items))
    yield from (
        f"({inner})",
        f"\\left( {inner} \\right)",
        f"P({inner})",
        f"P = ({inner})",
        f"({inner.replace(' ', '')})",
    )
    yield from ("(" + ", ".join(f"{item}.0" for item in items) + ")", f"（{inner.replace(', ', '，')}）")


def sets(items):
    yield from ("\\{" + ", ".join(map(str, each)) + "\\}" for each in (items, items[::-1]))
    yield from (", ".join(map(str, items)), "{" + ",".join(map(str, items)) + "}")
    yield from (" and ".join(map(str, items)), " or ".join(f"x = {item}" for item in items[::-1]))


def intervals(bounds):
    low, high = sorted(bounds)
    yield from (f"({low}, {high}]", f"x \\in ({low}, {high}]", f"{low} < x \\le {high}", f"{high} ≥ x > {low}")
    yield from (f"x > {low} and x <= {high}", f"\\left({low},{high}\\right]")


def angles(degrees):
    yield from (f"{degrees}°", f"{degrees}^\\circ", f"{degrees}^{{\\circ}}", f"{degrees} degrees", f"∠A = {degrees}°")
    yield from (
        f"\\frac{{{degrees}\\pi}}{{180}}",
        f"{degrees + 10}° - 10°",
        f"{degrees}度",
        f"\\angle A={degrees}\\degree",
    )


def lengths(centimeters):
    yield from (
        f"{centimeters} cm",
        f"{centimeters}\\text{{ cm}}",
        f"{centimeters * 10}mm",
        f"{centimeters}\\,\\mathrm{{cm}}",
    )
    yield from (
        f"{Decimal(centimeters) / 100} m",
        f"{centimeters}厘米",
        f"{centimeters} centimeters",
        f"AB = {centimeters}cm",
    )


def money(dollars):
    yield from (f"${dollars}", f"\\${dollars}", f"{dollars} dollars", f"US${dollars}", f"{dollars * 100} cents")
    yield from (f"{dollars} USD", f"${dollars}.00")


def polynomials(coefficients):
    a, b, c = coefficients
    yield from (f"{a}x^2 + ({b})x + ({c})", f"({c}) + {b}*x + {a}*x**2", f"x({a}x+({b}))+({c})")
    yield from (f"y = {a}x^{{2}}+({b})x-({-c})", f"\\frac{{{2 * a}x^2+({2 * b})x+({2 * c})}}{{2}}")


SMALL = st.integers(-99, 99)
KINDS = {
    integers: st.integers(-(10**9), 10**9),
    fractions: st.fractions(-50, 50, max_denominator=60).filter(lambda number: number.denominator > 1),
    decimals: st.decimals(Decimal("-999.999"), Decimal("999.999"), places=3).filter(lambda number: number % 1),
    points: st.lists(SMALL, min_size=2, max_size=3).map(tuple),
    sets: st.lists(SMALL, min_size=2, max_size=4, unique=True).map(sorted).map(tuple),
    intervals: st.lists(SMALL, min_size=2, max_size=2, unique=True).map(sorted).map(tuple),
    angles: st.integers(1, 359),
    lengths: st.integers(1, 999),
    money: st.integers(1, 9999),
    polynomials: st.tuples(st.integers(1, 9), SMALL, SMALL),
}


@pytest.mark.parametrize("render", KINDS, ids=lambda render: render.__name__)
@given(data=st.data())
@settings(max_examples=40)
def test_a_value_is_right_in_any_notation_and_another_in_none(render, data):
    value, other = data.draw(KINDS[render]), data.draw(KINDS[render])
    gold = data.draw(st.sampled_from([*render(value)]))
    assume("%" not in gold or render is not decimals)
    dress = data.draw(st.sampled_from(DRESSES))
    assume("$" not in dress or render is not money)
    text, wrong = (data.draw(st.sampled_from([*render(each)])) for each in (value, other))
    assert verifiable(gold)
    assert accuracy_reward(f"<answer>{dress.format(text)}</answer>", gold) == 1.0, (dress.format(text), gold)
    scored = accuracy_reward(f"<answer>{dress.format(wrong)}</answer>", gold)
    assert scored == float(value == other), (dress.format(wrong), gold)


@given(TEXTS, st.sampled_from(["3", "x^2+1", "5 cm", "red", "(1, 2)"]))
@settings(max_examples=150)
def test_no_text_makes_a_reading_or_its_explanation_raise(text, gold):
    accuracy_reward(f"<answer>{text}</answer>", gold)
    read_as(text)
    verdict(text[-2000:], gold)
