"""Pairs that were judged wrongly once, one row for each cause; the labels are mathematics and English, not ours."""

from itertools import product

import pytest

from observe_r1.rewards import accuracy_reward, verifiable

PAIRS = {  # gold answer: right, wrong
    # numbers in words
    "3/4": ["three fourths | Three-Quarters | three quarters", "three | three fifths | 3 fourths of it | thirty-four"],
    "1/2": ["half | a half | One-half | The answer is one half.", "half a dozen | two halves | one or half"],
    "1/4": ["one quarter | one fourth", "a quarter | quarter past | one fourth of 2 | one quarter or one half"],
    "7/3": ["two and one third | two and a third", "two and three | two, one third | two and two thirds"],
    "7/2": ["three and a half | 3 and a half | x = three and a half", "three or a half | three, a half | three half"],
    "250": ["two hundred and fifty | two hundred fifty apples", "two hundred or fifty | two fifty | fifty two hundred"],
    "12345": ["twelve thousand three hundred forty-five | 12'345 | 12’345", "12'34'5 | twelve thousand | 1'2345"],
    "1000000": ["a million | one million people", "a thousand | millions | a hundred million"],
    "-2": ["negative two | minus two", "two | negative twenty"],
    "20": ["twenty | twenty people", "twenty-third | twenty thirds | twenty-three | twenty five hundred"],
    "0.07": ["seven hundredths", "seven hundred | seven hundredth | seven tenths"],
    "300": ["3 hundred | three hundred", "3 hundreds of | 3 hundredths | three"],
    # what changes the number before it is nothing that is counted
    "3": [
        "3 roots | 3 pairs | 3 negative numbers | 3 months | 3 teeth",
        "3 tens | 3 tenths | 3 fifths | 3 dozens | 3 millions | 3 factorial | 3 mod 2 | 3 eleven | three point five",
    ],
    # what takes an answer back, or leaves it open
    "5": [
        "5, not 6 | My guess: 5 | 5 probable winners",
        "5 hardly | 5 unless | 5 perhaps | 5 either | 5, not sure | 5, not | Rejected: 5 | Eliminated: 5"
        " | Unlike: 5 | Far from: 5 | The excluded value is 5 | 5 instead",
    ],
    "Yes": [
        "Yes, they are not parallel, so the area is positive.",
        "Yes, not really | Yes. I am not sure. | Yes, impossible | Yes, wait, I doubt it.",
    ],
    # degrees in a product of units are differences
    "5 °C/s": ["5 K/s | 9 °F/s | 5", "5 °F/s | 5 m/s | 5 °C"],
    "2 J/(kg °C)": ["2 J/(kg·K) | 2 J/kg/K | 0.002 kJ/(kg K)", "2 J/(kg °F) | 2 J/kg | 2 J/(kg K | 2 J kg K"],
    "9.8 m/s^2": ["9.8 meters per second squared | 9.8 m/(s^2)", "9.8 m/s | 9.8 meters per second cubed | 9.8 m/(s^2"],
    "5 °C": ["41 °F | 278.15 K", "9 °F | 5 K | 5 °F°C | 5 °C^2"],
    "35 J": ["35J | 35 J | 35", "35 N | 3, 5, J"],
    "1.5 V": ["1.5 | 1500 mV", "150% | 1.5%"],
    "5%": ["0.05 | 5 | 1/20", "0.05 m | $0.05 | 0.05 apples"],
    "5 apples": ["5", "500%"],
    "50 s": ["50s | 50 s", "50 m | the 50s | 1950s | 51s"],
    "1990s": ["the 1990s | 1990s", "1990 | 1990 s | 1980s"],
    # relations between names
    r"\triangle ABC \sim \triangle DEF": ["△ABC ∼ △DEF | △ABC ∽ △DEF", r"△ABC ≅ △DEF | △ABC = △DEF | \triangle DEF"],
    r"\triangle ABC \cong \triangle DEF": ["△ABC ≅ △DEF | △ABC≌△DEF", r"△ABC ∼ △DEF | △ABC ≈ △DEF | \triangle DEF"],
    r"\angle 1 = \angle 2": ["∠1 = ∠2 | ∠2 = ∠1", r"\angle 2 | \angle 1 | ∠1 = ∠3"],
    "AB = CD": ["CD = AB", "CD | AB | AB = CE"],
    r"AB \parallel CD": ["AB ∥ CD", "AB ⊥ CD"],
    r"k \in (1, 2)": ["(1, 2) | 1 < k < 2 | k∈(1,2)", r"1 < x < 2 | x \in (1, 2) | [1, 2]"],
    "x = y": ["y", "x"],
    "x = 3": ["3 = x", "4 = x | 3 = y | 3 = wrong"],
    "±3": ["+/-3 | x = +/- 3", "+/-4 | 3 | +3"],
    "A = B": ["A=B | B=A", "A | A = C"],
    "12.57": [r"\sim 12.57 | ∼ 12.57 | C ≅ 12.57", r"\sim 12.6"],
    # a verdict and a number; a label and an ellipsis
    "No. 5": ["No. 5", "No. 7 | No | No. 50"],
    "No": ["No, 5 < 6 | No. They differ.", "No. 5"],
    "A": ["A. 5 | A.5 | A. Point C | A. B", "A...D | A..B | A. No, C | A. Actually C | A: not (A), wait, C"],
    # notation
    "42": ["\u200e42\u200f | 𝟒𝟐", "\u202e24 | 𝟒𝟑"],
    "B": ["𝐁 | 𝑩", "𝐀 | 𝐁𝐂 | A = B | C = B | (B)(C)"],
    "B, D": ["(B)(D) | (D)(B)", "(B) | (B)(C)"],
    "12:5": ["12:5 | 24:10", "12:05"],
    r"\mathbb{R}": ["ℝ", "ℤ"],
    r"3 \times 10^8": ["3 x 10^8 | 3x10^{8} | 3 X 10⁸", "3 x 10^9 | 3 x 108 | 3 x 10^-8"],
    "1/3": [r"0.\bar{3} | 0.\dot{3} | one third", r"third | a third | 0.\bar{4} | 0.3\bar{4}"],
    "2008": ["The year 2008 | in the year 2008", "The year 2009"],
}  # fmt: skip


def score(text, gold):
    return accuracy_reward(f"<observe>A figure.</observe> <think>So.</think> <answer>{text}</answer>", gold)


@pytest.mark.parametrize("gold", PAIRS)
def test_right_ones_score_and_wrong_ones_do_not(gold):
    assert verifiable(gold)
    right, wrong = (texts.split(" | ") for texts in PAIRS[gold])
    assert [text for text in right if score(text, gold) != 1] == []
    assert [text for text in wrong if score(text, gold) != 0] == []


def test_no_two_units_make_the_judge_raise():
    parts = ["m", "°C", "°F", "K", "J", "s^2", "%", "dollars", "units", "rad"]
    units = [*parts, *(f"{a}{sign}{b}" for a, b in product(parts, parts) for sign in ("/", "·", " "))]
    for one, other in product(parts, units):
        assert score(f"5 {one}", f"7 {other}") == score(f"7 {other}", f"5 {one}") == 0, (one, other)
