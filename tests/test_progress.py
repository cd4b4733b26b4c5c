"""The live view: what it draws on a terminal of a given width, and what it prints into a log."""

import io
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from observe_r1.training import progress as module
from observe_r1.training.progress import Progress, sparkline

METRICS = {
    "progress": 0.25,
    "reward/mean": 1.124,
    "reward/accuracy": 0.625,
    "response/well_formed": 1.0,
    "rollout/groups_used": 0.75,
    "response/length": 1041.2,
    "speed/sampling_tokens_per_s": 15210.4,
    "speed/scoring_tokens_per_s": 1240.0,
    "speed/updating_tokens_per_s": 8101.0,
    "time/step": 12.584,
    "policy/entropy": 3.0,
}
SHOWN = [
    "1.124", "62.5%", "100.0%", "75.0%", "1041 tokens",
    "15,210 tokens/s", "1,240 tokens/s", "8,101 tokens/s", "12.58 s",
]  # fmt: skip


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def log_console():
    return Console(file=io.StringIO(), width=80)


def drawn(view, width):
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(view)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_panel_shows_everything_within_the_width(width, clock):
    view = Progress("train · runs/demo", 120, Console(file=io.StringIO(), force_terminal=True))
    with view:
        for step in range(1, 31):
            view.update(step, METRICS)
        clock.now += 3 * 3600
        text = drawn(view, width)
    assert max(map(len, text.splitlines())) == width
    assert "…" not in text
    for part in ["train · runs/demo", "step 30/120", "25%", "3:00:00 elapsed, 9:00:00 left", *SHOWN]:
        assert part in text


def test_a_terminal_is_redrawn_and_notes_stand_above():
    output = io.StringIO()
    with Progress("train", 2, Console(file=output, force_terminal=True, width=80)) as view:
        view.update(1, METRICS)
        view.note("dropped 3 prompts")
    assert "dropped 3 prompts" in output.getvalue()
    assert "step 1/2" in output.getvalue()


def test_before_the_first_step_no_time_left_is_claimed(clock):
    view = Progress("train", None, Console(file=io.StringIO(), force_terminal=True))
    clock.now += 5
    text = drawn(view, 80)
    assert "0:05 elapsed" in text
    assert "left" not in text


def test_a_log_gets_one_whole_line_a_step(clock):
    console = log_console()
    with Progress("train · runs/demo", 4, console) as view:
        for step in range(1, 5):
            clock.now += 10
            view.update(step, METRICS | {"progress": step / 4})
    label, *lines = console.file.getvalue().splitlines()
    assert label == "train · runs/demo"
    assert [line.split("  ")[0] for line in lines] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]
    assert [line.split("  ")[-1] for line in lines[:2]] == ["0:10 elapsed, 0:30 left", "0:20 elapsed, 0:20 left"]
    for part in SHOWN:
        assert part in lines[0]


def test_a_log_of_fast_steps_has_at_most_a_line_a_second_and_the_last(clock):
    console = log_console()
    with Progress("sft", None, console) as view:
        for step in range(1, 36):
            clock.now += 0.1
            view.update(step, {"sft/loss": 1 / step})
    steps = [int(line.split()[1]) for line in console.file.getvalue().splitlines()[1:]]
    assert steps[0] == 1 and steps[-1] == 35
    assert all(later - earlier >= 10 for earlier, later in pairwise(steps[:-1]))
    assert len(steps) <= 6


def test_what_a_step_does_not_have_is_left_out():
    console = log_console()
    with Progress("sft", None, console) as view:
        view.update(1, {"sft/loss": 0.5})
    assert console.file.getvalue().splitlines()[1].startswith("step 1  loss 0.5000  0:00 elapsed")


def test_a_note_is_harmless():
    console = log_console()
    with Progress("train", None, console) as view:
        view.note("\x1b[2J[red]not markup[/red]\x07")
    assert console.file.getvalue().splitlines()[1] == "�[2J[red]not markup[/red]�"


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=100), st.integers(1, 20))
def test_a_trend_has_one_bar_a_stretch(values, width):
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    line = sparkline(values, width)
    assert len(line) == min(width, len(finite))
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_a_trend_rises_and_falls_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 2, 1, 0], 2) == "█▁"  # 2.5, then 0.5
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert sparkline([]) == ""
