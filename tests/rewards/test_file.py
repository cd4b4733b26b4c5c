"""A reward in a file of the user's own: both protocols, and one line for everything that can be wrong with it."""

import os
import re
from pathlib import Path

import pytest

from observe_r1.config import RewardSettings
from observe_r1.errors import UserError
from observe_r1.records import Example
from observe_r1.rewards import Scorer, Scores
from observe_r1.rewards.reward_file import RewardFile

EXAMPLES = Path(__file__).parents[2] / "examples" / "rewards"
EXAMPLE = Example(id="x", messages=(), images=(b"png",), answer="4", difficulty=0.25, origin="rows.jsonl row 3")


@pytest.fixture
def reward(tmp_path, monkeypatch):
    """Write a reward file and give it, not yet entered."""
    monkeypatch.chdir(tmp_path)

    def write(code, **settings):
        (tmp_path / "mine.py").write_text(code)
        return RewardFile("mine.py", RewardSettings(**settings))

    return write


def test_the_original_protocol_gets_lists_and_is_called_once_a_group(reward):
    code = """
    calls = 0
    def reward_func(queries, prompts, labels):
        global calls
        calls += 1
        assert queries == ["Q: <img> a", "Q: <img> b\\ud800"], queries
        assert prompts == ["Q: <img> "] * 2 and labels == ["4"] * 2
        return [calls, 0.5]
    """
    with reward(code.replace("\n    ", "\n")) as mine:
        assert mine.rewards(["a", "b\ud800"], EXAMPLE, "Q: <img> ") == [1.0, 0.5]
        assert mine.rewards(["a", "b\ud800"], EXAMPLE, "Q: <img> ") == [2.0, 0.5]


def test_the_simple_form_gets_each_response_with_its_answer_and_example(reward):
    code = """
def reward(response, answer, example):
    return len(response) + (answer == "4") * 10 + example.difficulty + (example.images == (b"png",)) * 100
"""
    with reward(code) as mine:
        assert mine.rewards(["", "abc"], EXAMPLE, "Q") == [110.25, 113.25]


def test_numbers_of_every_kind_are_taken(reward):
    code = """
import numpy, torch
kinds = [(1, 0.5), [True, 0.5], numpy.array([1, 0.5]), torch.tensor([1, 0.5]), [numpy.float32(1), torch.tensor(0.5)]]
def reward_func(queries, prompts, labels): return kinds.pop()
"""
    with reward(code) as mine:
        for _ in range(5):
            assert mine.rewards(["a", "b"], EXAMPLE, "") == [1.0, 0.5]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ndef f(:\n", "mine.py line 2: SyntaxError: invalid syntax"),
        ("\n\nimport no_such_module", "mine.py line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return 1 / 0\n\nf()", "mine.py line 2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')", "mine.py line 2: JSONDecodeError: Expecting property name"),
        ("raise ValueError('two\\nlines')", "mine.py line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)", "mine.py line 2: SystemExit: 3"),
        ("import os\nos._exit(3)", "mine.py: importing it ended its process"),
        ("\x00", "mine.py: SyntaxError: source code string cannot contain null bytes"),
        ("x = 1", "mine.py defines neither reward_func nor reward; it must define either reward_func(queries, "),
        ("reward = 1", "mine.py defines neither reward_func nor reward"),
        ("reward = reward_func = print", "mine.py defines reward_func and reward; it must define either"),
        (
            "def reward(response): ...",
            "mine.py: reward(response) cannot be called as reward(response, answer, example)",
        ),
        ("def reward_func(queries, prompts, labels, *, k): ...", "cannot be called as reward_func(queries, prompts, "),
    ],
)
def test_a_file_that_cannot_be_used_is_told_when_it_is_entered(reward, code, message):
    with pytest.raises(UserError, match=f"^.*{re.escape(message)}") as caught, reward(code):
        pass
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist(reward):
    with pytest.raises(UserError, match=r"reward file 'no/mine\.py': no such file, looked for in /"):
        RewardFile("no/mine.py", RewardSettings()).__enter__()


def test_an_import_that_never_ends(reward, monkeypatch):
    monkeypatch.setattr("observe_r1.rewards.reward_file.START_LIMIT", 0.5)
    with (
        pytest.raises(UserError, match=r"mine\.py: importing it took over 0\.5 s"),
        reward("while True: pass", call_timeout=0.1),
    ):
        pass


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('a')", "mine.py line 5: KeyError: 'a'"),
        ("deep(queries)", "mine.py line 3: IndexError: list index out of range"),
        ("sys.exit()", "mine.py line 5: SystemExit"),
        ("os._exit(0)", "mine.py: reward_func ended its process"),
        ("os.kill(os.getpid(), 9)", "mine.py: reward_func ended its process"),
        ("time.sleep(60)", "mine.py: reward_func took over 0.5 s; make it faster or raise rewards.call_timeout"),
        ("return 9**9**9", "mine.py: reward_func took over 0.5 s"),
    ],
)
def test_a_call_that_goes_wrong_is_told_in_one_line(reward, body, message):
    code = "import os, sys, time\ndef deep(values):\n    return values[9]\ndef reward_func(queries, prompts, labels):\n"
    limit = 0.5 if "took over" in message else 60
    with reward(f"{code}    {body}", call_timeout=limit) as mine, pytest.raises(UserError) as caught:
        mine.rewards(["a", "b"], EXAMPLE, "")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def giving(tmp_path_factory):
    """A reward file that gives what the prompt says, in Python."""
    path = tmp_path_factory.mktemp("rewards") / "gives.py"
    path.write_text("def reward_func(queries, prompts, labels): return eval(prompts[0])")
    with RewardFile(str(path), RewardSettings()) as giving:
        yield giving


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1]", "gives.py: reward_func gave 1 rewards for 2 responses"),
        ("[1, 2, 3]", "gave 3 rewards for 2 responses"),
        ("None", "gave None; it must give a list of 2 numbers, one per response"),
        ("1.0", "gave 1.0; it must give a list of 2 numbers"),
        ("{0: 1, 1: 2}", "gave {0: 1, 1: 2}; it must give a list"),
        ("[1, None]", "gave reward 2 of 2 as None; it must be a number"),
        ("['1', 1]", "gave reward 1 of 2 as '1'; it must be a number"),
        ("[[1], [2]]", "gave reward 1 of 2 as [1]; it must be a number"),
        ("[0, float('nan')]", "gave reward 2 of 2 as nan; it must be finite"),
        ("[-float('inf'), 0]", "gave reward 1 of 2 as -inf; it must be finite"),
        ("[0, 10**5000]", "gave reward 2 of 2 as inf; it must be finite"),
        ("[0, 1e30]", "gave reward 2 of 2 as 1e+30; it must be finite and not beyond ±1e+12"),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused_in_one_line(giving, returned, message):
    with pytest.raises(UserError) as caught:
        giving.rewards(["a", "b"], EXAMPLE, returned)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_beside_the_file_can_be_imported_but_hides_none_of_pythons(reward, tmp_path):
    (tmp_path / "helper.py").write_text("bonus = 2")
    (tmp_path / "colorsys.py").write_text("bonus = 3")
    with reward(
        "import helper, colorsys\ndef reward(r, a, e): return helper.bonus + hasattr(colorsys, 'rgb_to_hsv')"
    ) as mine:
        assert mine.rewards(["a"], EXAMPLE, "") == [3.0]


def test_what_it_prints_goes_to_stderr_and_may_be_anything(reward, capfd):
    code = (
        "import os\ndef reward(r, a, e):\n    print('from', r, flush=True)\n    os.system('echo shell')\n    return 1"
    )
    with reward(code) as mine:
        assert mine.rewards(["\ud800"], EXAMPLE, "") == [1.0]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "from \\ud800\nshell\n")


def test_it_runs_elsewhere_is_imported_once_a_process_and_may_hold_much(reward, tmp_path):
    code = f"""
import mmap, os
print(os.getpid(), file=open({str(tmp_path / "imports")!r}, "a"))
held = mmap.mmap(-1, 3 << 30, flags=mmap.MAP_PRIVATE)
def reward(response, answer, example): return os.getpid()
"""
    with reward(code, workers=2) as mine:
        pids = {mine.rewards(["a"], EXAMPLE, "")[0] for _ in range(4)}
    imported = [float(line) for line in (tmp_path / "imports").read_text().split()]
    assert len(imported) == len(set(imported)) == 2
    assert pids <= set(imported) and os.getpid() not in pids


# The examples


def test_the_example_of_one_response_scores_the_length_of_the_observation():
    with RewardFile(f"{EXAMPLES}/observation_length.py", RewardSettings()) as example:
        texts = [f"<observe>{'word ' * count}</observe>" for count in (0, 2, 5, 60, 120)]
        assert example.rewards(["", *texts], EXAMPLE, "") == [0.0, 0.0, 0.4, 1.0, 1.0, 0.5]


def test_the_example_of_a_group_scores_what_none_repeats():
    with RewardFile(f"{EXAMPLES}/distinct_responses.py", RewardSettings()) as example:
        assert example.rewards(["a", "b", "a", "c"], EXAMPLE, "Q") == [0.0, 1.0, 0.0, 1.0]


# In the scorer


def test_rewards_are_parts_under_short_names_and_weighted_into_the_total(tmp_path):
    (tmp_path / "length.py").write_text("def reward(response, answer, example): return len(response)")
    (tmp_path / "first.py").write_text(
        "def reward_func(queries, prompts, labels): return [q[0] == 'P' for q in queries]"
    )
    functions = {"accuracy": 2.0, str(tmp_path / "length.py"): -0.5, str(tmp_path / "first.py"): 0.25}
    with Scorer(RewardSettings(functions=functions)) as scorer:
        assert scorer.score(["4", "five"], EXAMPLE, "P") == Scores(
            total=[2.0 - 0.5 + 0.25, 0.0 - 2.0 + 0.25],
            correct=[True, False],
            parts={"accuracy": [1.0, 0.0], "length": [1.0, 4.0], "first": [1.0, 1.0]},
        )
        assert scorer.score([], EXAMPLE).parts == {"accuracy": [], "length": [], "first": []}


def test_correctness_is_accuracys_where_a_file_is_the_whole_reward(tmp_path):
    (tmp_path / "zero.py").write_text("def reward(response, answer, example): return 0")
    with Scorer(RewardSettings(functions={str(tmp_path / "zero.py"): 1.0})) as scorer:
        scores = scorer.score(["4", "5", "\\frac{8}{2}"], EXAMPLE)
    assert (scores.total, scores.correct, scores.parts) == ([0.0] * 3, [True, False, True], {"zero": [0.0] * 3})


def test_a_slow_file_does_not_hold_up_the_sampler_and_an_error_names_the_question(tmp_path):
    code = f"""
import os, time
def reward(r, a, e):
    while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.01)
    return 1 / len(r)
"""
    (tmp_path / "slow.py").write_text(code)
    with Scorer(RewardSettings(functions={str(tmp_path / "slow.py"): 1.0})) as scorer:
        fine, broken = scorer.submit(["a"], EXAMPLE), scorer.submit([""], EXAMPLE)
        (tmp_path / "go").touch()
        assert fine.result().total == [1.0]
        with pytest.raises(UserError, match=r"line 5: ZeroDivisionError: .* \(scoring rows\.jsonl row 3\)$"):
            broken.result()


def test_an_address_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"rewards\.functions: 'http://\[h' is not an address: Invalid IPv6 URL"):
        Scorer(RewardSettings(functions={"http://[h": 1.0}))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.py", "b/x.py"], "'b/x.py' and 'a/x.py' would both be called 'x'; rename one"),
        (["mean.py"], "'mean.py' and a built-in metric would both be called 'mean'"),
        (["accuracy", "accuracy.py"], "would both be called 'accuracy'"),
        (["format.py"], "'format.py' and a built-in metric would both be called 'format'"),
        (["http://h:1/x", "https://me:secret@h:1/x/"], "would both be called 'h:1/x'"),
    ],
)
def test_two_rewards_of_one_name_are_refused(names, message):
    with pytest.raises(UserError, match=r"rewards\.functions: ") as caught:
        Scorer(RewardSettings(functions=dict.fromkeys(names, 1.0)))
    assert message in str(caught.value)
