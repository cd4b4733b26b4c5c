"""Which known name an unknown one is a slip of the keys away from."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from observe_r1.cli.openrlhf.flags import FLAGS
from observe_r1.config import TrainSettings, setting_names
from observe_r1.registry import closest, did_you_mean, nearest

NAMES = sorted({*setting_names(TrainSettings), *FLAGS})
LETTERS = st.sampled_from(string.ascii_lowercase)


@st.composite
def slips(draw, name):
    """One slip of the keys in the last part of `name`, made by hand."""
    first = len(name) - len(name.rpartition(".")[2])
    at = draw(st.integers(first, len(name) - 2))
    kind = draw(st.sampled_from(["missing", "too many", "wrong", "swapped"]))
    if kind == "missing":
        return name[:at] + name[at + 1 :]
    if kind == "too many":
        return name[:at] + draw(LETTERS) + name[at:]
    if kind == "wrong":
        return name[:at] + draw(LETTERS) + name[at + 1 :]
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


@given(st.data(), st.sampled_from([name for name in NAMES if len(name.rpartition(".")[2]) > 5]))
def test_one_slip_in_a_long_name_is_seen(data, name):
    typed = data.draw(slips(name))
    assume(typed not in NAMES)
    assert name in closest(typed, NAMES)


@pytest.mark.parametrize(
    ("typed", "other"),
    [
        ("eval_dataset", "dataset"),
        ("ref_num_nodes", "actor_num_nodes"),
        ("eval_steps", "save_steps"),
        ("critic_learning_rate", "actor_learning_rate"),
        ("min_pixels", "model.min_pixels"),
        ("optimizer.l2", "optimizer.lr"),
        ("beta", "betas"),
        ("seed", "speed"),
        ("", "a"),
    ],
)
def test_names_that_mean_something_else_are_not_offered(typed, other):
    assert closest(typed, [other]) == []


def test_a_dotted_name_says_more_of_what_is_meant():
    assert closest("data.oder", NAMES) == ["data.order"]
    assert closest("model.pth", NAMES) == ["model.path"]
    assert closest("rn.seed", NAMES) == []  # too short to tell
    assert closest("optimizer.beta", NAMES) == ["optimizer.betas"]


def test_all_that_are_as_close_are_offered_three_at_most():
    assert closest("abcdef", ["abcdex", "abcdey", "abcxyz"]) == ["abcdex", "abcdey"]
    assert nearest("abcdef", ["abcdex", "abcdey"]) == " (did you mean 'abcdex' or 'abcdey'?)"
    assert did_you_mean(["a", "b", "c", "d"]) == " (did you mean 'a' or 'b' or 'c'?)"
    assert nearest("abcdef", ["x"]) == ""
