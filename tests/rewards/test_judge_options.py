"""The accuracy reward where the question lists its options: the text counts for the letter, the letter for the text."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observe_r1.config import RewardSettings
from observe_r1.data import FORMAT_PROMPTS, apply_format_prompt
from observe_r1.records import Example
from observe_r1.rewards import Scorer, accuracy_reward
from observe_r1.rewards.accuracy import gold_answer, labelled_gold
from observe_r1.rewards.judge import options

ANGLE = "Find the angle. (A) 30° (B) 45° (C) 60°"
LINES = (
    "Find the angle.\nA. $30^\\circ$\nB. $45^\\circ$\nC. $60^\\circ$\nAnswer with the letter of the option directly."
)
SMALL = "Find the angle. (a) 30° (b) 45° (c) 60°"
RIGHT = ["C", "(C)", "c", "60°", "60", r"$60^\circ$", "C. 60°", "(C) 60", "The answer is C."]
WRONG = ["B", "(B)", "45", "45°", "B. 45°", "C. 45°", "B. 60°", "D", "C or B", "BC", "60 or 45"]


def asks(question, answer):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return Example(id="x", messages=({"role": "user", "content": content},), images=("a.png",), answer=answer)


@pytest.fixture(scope="module")
def right():
    with Scorer(RewardSettings()) as scorer:
        yield (
            lambda question, gold, *answers: (
                scorer.score([f"<answer>{answer}</answer>" for answer in answers], asks(question, gold)).correct
            )
        )


@pytest.mark.parametrize("gold", ["60", "60°", r"60^\circ", r"$60^\circ$", r"\boxed{60^\circ}", "C", "(C)", "C. 60°"])
@pytest.mark.parametrize("question", [ANGLE, LINES, SMALL], ids=["one line", "lines", "small letters"])
def test_letter_and_text_count_for_each_other(right, question, gold):
    assert right(question, gold, *RIGHT) == [True] * len(RIGHT)
    assert right(question, gold, *WRONG) == [False] * len(WRONG)


@pytest.mark.parametrize(
    ("options", "gold", "good", "bad"),
    [
        ([r"$\frac{1}{2}$", r"$\frac{\sqrt{3}}{2}$"], "B", [r"\frac{\sqrt{3}}{2}", "√3/2", "b"], ["1/2", "0.5", "A"]),
        ([r"x^2-1", r"x^2+1"], "x^2-1", ["A", "(x+1)(x-1)", "A. x^2-1"], ["B", "x^2+1", "A. x^2+1"]),
        (["3:45 p.m.", "4 p.m."], "A", ["3:45 pm", "15:45"], ["4 p.m.", "B"]),
        (["dark blue", "blue"], "B", ["blue", "B. Blue", "The car is blue"], ["dark blue", "B. dark blue", "A"]),
        (["AB", "BC", "AC"], "C", ["AC", "C. AC"], ["AB", "BC", "B"]),
        (["12.566", "15.2"], "12.57", ["A", "12.57", "12.566", "A. 12.566"], ["B", "15.2"]),
    ],
)
def test_formulas_and_words(right, options, gold, good, bad):
    question = "Which?\n" + "\n".join(f"{letter}. {text}" for letter, text in zip("ABC", options, strict=False))
    assert right(question, gold, *good) == [True] * len(good)
    assert right(question, gold, *bad) == [False] * len(bad)


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("(1) Find x. (2) Find y.", "1"),
        ("(a) Find x. (b) Find y.", "a"),
        ("How long? (1) 2 (2) 4", "4"),
        ("How long?", "B"),
        (ANGLE, "75"),
        (ANGLE, "D"),
        (ANGLE, "A, C"),
        ("Which? (A) 5 (B) 5.0 (C) 6", "5"),
        ("Which? (A) 5 (B) 5.0 (C) 6", "A"),
        ("Which? (A) 25% (B) 0.25 (C) 6", "B"),
        ("Which? (A) 5 cm (B) 5 m", "A"),
        ("Which? (A) B (B) A", "A"),
        ("Which? (A) (B) (C)", "A"),
        ("Which? (A) 30° (B) (C) 60°", "C"),
        ("Which? (A) 30° (B) 45° (C) 60°. Choose one.", "C"),
        ("Which? (A) 30° (B) 45° (C) 60° Choose one", "C"),
        ("Which? (A) the first of them\nand last (B) 45°", "B"),
        ("Answer with (A), (B) or (C).\n(A) 30° (B) 45° (C) 60°", "B"),
        ("Which? (A) it is because all of the cars are going to the left (B) no", "A"),
    ],
)
def test_a_gold_answer_that_is_not_plainly_one_option_stays(question, gold):
    assert labelled_gold(question, gold) == gold


@pytest.mark.parametrize("name", FORMAT_PROMPTS)
def test_a_format_prompt_after_the_question_is_no_option(name):
    example = asks(ANGLE, "C")
    messages = apply_format_prompt(example.messages, name, "suffix")
    assert gold_answer(replace(example, messages=messages)) == "C. 60°"


def test_a_letter_that_is_another_options_text_is_no_answer(right):
    assert right("Which? (A) B (B) A", "A", "A", "B") == [True, False]


def test_the_users_own_reward_and_the_example_keep_the_gold_answer(tmp_path):
    (tmp_path / "own.py").write_text(
        "def reward(response, answer, example):\n    return answer == example.answer == '60'\n"
    )
    example = asks(ANGLE, "60")
    with Scorer(RewardSettings(functions={"accuracy": 1.0, str(tmp_path / "own.py"): 1.0})) as scorer:
        scores = scorer.score(["<answer>C</answer>"], example)
    assert scores.parts == {"accuracy": [1.0], "own": [1.0]}
    assert example.answer == "60" and gold_answer(example) == "C. 60"


@pytest.mark.parametrize("unit", ["(A) ", "A. ", "\n(1) x ", "(a) find ", "(a) x (b) find ", "(a) x (b) "])
def test_the_places_at_which_options_are_looked_for_do_not_grow_with_the_question(monkeypatch, unit):
    """Each takes time linear in the question."""
    tried = []
    look = options.options_at
    monkeypatch.setattr(options, "options_at", lambda text, start: tried.append(start) or look(text, start))
    counts = set()
    for repeats in (200, 400):
        options.find_options(unit * repeats + "?")
        counts.add(len(tried))
        tried.clear()
    assert len(counts) == 1 and counts.pop() < 200


TEXTS = st.text("ab12°.% \n", max_size=6)


@settings(max_examples=300)
@given(st.lists(TEXTS, min_size=2, max_size=4), st.data())
def test_a_labelled_gold_answer_takes_nothing_away_and_gives_one_letter(texts, data):
    question = "Which?" + "".join(f" ({letter}) {text}" for letter, text in zip("ABCD", texts, strict=False))
    gold = data.draw(st.sampled_from([*texts, *"ABCD"]) | TEXTS)
    labelled = labelled_gold(question, gold)
    for answer in (*texts, *"ABCD", gold, data.draw(TEXTS)):
        assert accuracy_reward(answer, labelled) >= accuracy_reward(answer, gold)
    assert labelled == gold or sum(accuracy_reward(letter, labelled) for letter in "ABCD") == 1
