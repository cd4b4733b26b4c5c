"""The live view: what it draws on a terminal of a given width, and what it prints into a log."""

import io
import re
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from observe_r1.errors import UserError
from observe_r1.run import progress as module
from observe_r1.run.panel import sparkline
from observe_r1.run.progress import Progress

METRICS = {
    "progress": 0.25,
    "reward/mean": 1.124,
    "reward/accuracy": 0.625,
    "response/well_formed": 1.0,
    "rollout/groups_used": 0.75,
    "response/length": 1041.2,
    "speed/sampling_tokens_per_s": 15210.4,
    "speed/scoring_tokens_per_s": 1240.0,
    "policy/reference_kl": 0.01234,
    "response/truncated": 0.125,
    "speed/updating_tokens_per_s": 8101.0,
    "time/step": 12.584,
    "policy/entropy": 3.0,
}
SHOWN = [
    "1.124", "62.5%", "100.0%", "75.0%", "1041 tokens",
    "15,210 tokens/s", "8,101 tokens/s", "12.58 s", "KL", "0.0123", "entropy", "3.000", "truncated", "12.5%",
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
    view = Progress("train", 120, Console(file=io.StringIO(), force_terminal=True))
    with view:
        view.about(model="Qwen/Qwen2.5-VL-3B-Instruct", data="geo.jsonl (12,345 rows)", folder="runs/demo")
        for step in range(1, 31):
            view.update(step, METRICS)
        clock.now += 3 * 3600
        view.now("sampling", 1024, lambda: 312)
        clock.now += 7
        text = drawn(view, width)
    assert max(map(len, text.splitlines())) == width
    assert "…" not in text and "1,240" not in text
    about = ["train", "Qwen/Qwen2.5-VL-3B-Instruct", "geo.jsonl (12,345 rows)", "runs/demo"]
    now = ["step 30/120", "25%", "3:00:07 elapsed, 9:00:21 left", "sampling 312/1,024  0:07"]
    for part in [*about, *now, *SHOWN]:
        assert part in text


def test_a_terminal_is_redrawn_and_notes_stand_above():
    output = io.StringIO()
    with Progress("train", 2, Console(file=output, force_terminal=True, width=80)) as view:
        view.update(1, METRICS)
        view.note("dropped 3 prompts")
    assert "dropped 3 prompts" in output.getvalue()
    assert "step 1/2" in output.getvalue()


class Screen:
    """What a terminal of 80 columns shows after `text`: enough of its codes to follow rich's."""

    def __init__(self, text):
        self.lines, self.row, self.hidden = [""], 0, False
        for code, plain in re.findall("\x1b\\[([0-9;?]*[A-Za-z])|([^\x1b])", text):
            if plain == "\n":
                self.row += 1
                self.lines += [""] * (self.row == len(self.lines))
            elif plain.strip("\r"):
                self.lines[self.row] += plain
            elif code == "2K":
                self.lines[self.row] = ""
            elif code.endswith("A"):
                self.row -= int(code[:-1])
            elif code in ("?25l", "?25h"):
                self.hidden = code == "?25l"

    @property
    def shown(self):
        return [line for line in self.lines if line]


@pytest.mark.parametrize("error", [UserError("no such model"), KeyboardInterrupt(), ValueError("ours")])
@pytest.mark.parametrize("steps", [0, 1])
def test_an_error_leaves_no_torn_panel(error, steps):
    output = io.StringIO()
    view = Progress("train", 2, Console(file=output, force_terminal=True, width=80))
    with pytest.raises(type(error)), view:
        view.about(model="m")
        view.now("loading the model")
        view.note("a line above")
        for step in range(steps):
            view.update(step + 1, METRICS)
        view.now("sampling")
        raise error
    screen = Screen(output.getvalue())
    assert not screen.hidden and "now" not in "".join(screen.shown)
    above, *panel = screen.shown
    assert above == "a line above"
    assert not panel if steps == 0 else panel[0].startswith("╭") and panel[-1].startswith("╰")
    assert len([line for line in panel if line.startswith("╭")]) == steps


def test_before_the_first_step_no_time_left_is_claimed(clock):
    view = Progress("train", None, Console(file=io.StringIO(), force_terminal=True))
    view.about(model="m")
    clock.now += 5
    text = drawn(view, 80)
    assert "0:05 elapsed" in text
    assert "left" not in text


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize(("before", "left"), [(0.0, "3:00"), (0.5, "1:00")])
def test_what_comes_before_the_first_step_is_no_part_of_the_pace(clock, before, left, evaluated):
    """Loading, restoring a checkpoint, the evaluation of the starting model or of the step that is resumed from."""
    view = Progress("train", None, Console(file=io.StringIO(), force_terminal=True))
    view.about(model="m")
    clock.now += 600
    view.start(round(12 * before), before)
    if evaluated:
        clock.now += 300
        view.update(round(12 * before), {"evaluation/accuracy": 0.5} | ({"progress": before} if before else {}))
    assert "left" not in drawn(view, 80)
    clock.now += 60
    view.update(round(12 * before) + 3, {"progress": before + 0.25})
    assert f"{16 if evaluated else 11}:00 elapsed, {left} left" in drawn(view, 80)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_resumed_run_starts_at_its_step(clock, terminal):
    view = Progress("train", 12, Console(file=io.StringIO(), force_terminal=terminal, width=80))
    view.about(model="m")
    view.start(6, 0.5)
    clock.now += 60
    text = drawn(view, 80)
    assert "step 6/12" in text and "50%  1:00 elapsed" in text and "left" not in text
    view.update(7, {"progress": 0.75})
    assert "75%  1:00 elapsed, 1:00 left" in drawn(view, 80)  # a quarter took a minute here


def test_a_resumed_run_shows_what_it_did_before(clock):
    view = Progress("train", 12, Console(file=io.StringIO(), force_terminal=True, width=80))
    view.about(model="m")
    for _ in range(2):  # a run that has lost a rank starts again
        rows = [(step, {"reward/mean": float(step), "progress": step / 12}) for step in range(1, 7)]
        view.recall([(0, {"evaluation/accuracy": 0.72}), *rows])
        view.start(6, 0.5)
    clock.now += 60
    text = drawn(view, 80)
    assert "held-out" in text and "72.0%" in text and "6.000" in text and text.count("▁▂▄▅▇█") == 1
    assert "step 6/12" in text and "left" not in text
    view.update(7, {"reward/mean": 7.0, "progress": 7 / 12})
    assert "1:00 elapsed, 5:00 left" in drawn(view, 80)


def test_a_resumed_run_that_does_nothing_more_has_no_line_of_a_step(clock):
    console = log_console()
    with Progress("train", 6, console) as view:
        view.about(model="m")
        view.recall([(step, {"reward/mean": 1.0}) for step in range(1, 7)])
        view.start(6, 1.0)
    assert console.file.getvalue() == "train: model m\n"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("metric", "value"),
    [("policy/reference_kl", -1e-9), ("policy/approx_kl", -0.0), ("policy/entropy", -1e-9), ("reward/mean", -1e-9)],
)
def test_zero_has_no_sign(metric, value, terminal, clock):
    console = log_console()
    view = Progress("train", 6, console)
    view.update(6, {metric: value})
    text = drawn(view, 80) if terminal else console.file.getvalue()
    assert re.search(" 0([.]0+)? ", text) and "-" not in text


def test_a_log_gets_one_whole_line_a_step(clock):
    console = log_console()
    with Progress("train", 4, console) as view:
        view.about(model="m", data="d (7 rows)")
        for step in range(1, 5):
            clock.now += 10
            view.update(step, METRICS | {"progress": step / 4})
    label, *lines = console.file.getvalue().splitlines()
    assert label == "train: model m; data d (7 rows)"
    assert [line.split("  ")[0] for line in lines] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]
    assert [line.split("  ")[-1] for line in lines[:2]] == ["0:10 elapsed, 0:30 left", "0:20 elapsed, 0:20 left"]
    for part in SHOWN:
        assert part in lines[0]


def test_a_log_of_fast_steps_has_a_line_every_five_seconds_and_the_last(clock):
    console = log_console()
    with Progress("sft", None, console) as view:
        for step in range(1, 142):
            clock.now += 0.1
            view.update(step, {"sft/loss": 1 / step})
    steps = [int(line.split()[1]) for line in console.file.getvalue().splitlines()]
    assert steps == [1, 51, 101, 141]


def test_the_first_sign_of_life_does_not_wait():
    console = log_console()
    Progress("train", console=console).now("loading torch and transformers")
    assert console.file.getvalue() == "train: loading torch and transformers\n"


def lines_of_a_log(clock, *doings):
    """What a log holds after doings and seconds, looked at every quarter of a second."""
    console = log_console()
    view = Progress("train", 9, console)
    view.about(model="m")
    for doing in doings:
        if isinstance(doing, int):
            for _ in range(4 * doing):
                clock.now += 0.25
                view._say_what_is_new()
        else:
            doing(view)
    return console.file.getvalue().splitlines()[1:]


def test_a_log_is_never_silent_for_long_and_never_flooded(clock):
    done = iter(range(100, 1024, 100))
    sampling = lines_of_a_log(clock, lambda view: view.now("sampling", 1024, lambda: next(done)), 35)
    assert sampling == [f"sampling {n}00/1,024  0:{n}0 elapsed" for n in (1, 2, 3)]
    quick = [lambda view, what=what: view.now(what) for what in "ab"]
    assert lines_of_a_log(clock, *(part for what in quick for part in (what, 1))) == []
    known = lines_of_a_log(clock, lambda view: view.update(3, {}), lambda view: view.now("updating"), 11)
    assert known == ["step 3/9  0:00 elapsed", "step 3/9  updating  0:10 elapsed"]


def test_a_stage_says_how_far_it_is_within(clock):
    shown = lines_of_a_log(
        clock, lambda view: view.stage("measure", 64, 300), lambda view: view.now("sampling", 512, lambda: 9), 10
    )
    assert shown == ["measure: 64 of 300 questions", "measure: 64 of 300 questions, sampling 9/512  0:10 elapsed"]


def test_a_terminal_shows_what_goes_on_without_being_told_anew(monkeypatch):
    monkeypatch.setattr(module, "_BEAT", 0.001)
    output, seen = io.StringIO(), Event()

    def count():
        seen.set() if "sampling 1/9" in output.getvalue() else None
        return 1

    with Progress("train", 2, Console(file=output, force_terminal=True, width=80)) as view:
        view.now("sampling", 9, count)
        assert seen.wait(60)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_draws_bars_of_its_own_has_the_terminal_alone(terminal):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with Progress("export", console=console) as view:
        view.now("copying")
        view.hand_over("uploading 5 files")
        console.file.write("BARS\n")
        if terminal:
            assert not view._live.is_started
        else:
            assert view._status.activity.what == "uploading 5 files"  # a line every ten seconds
    before, after = console.file.getvalue().split("BARS")
    assert "uploading 5 files" in before and after.strip() == ""


def test_what_a_step_does_not_have_is_left_out():
    console = log_console()
    with Progress("sft", None, console) as view:
        view.update(1, {"sft/loss": 0.5})
    assert console.file.getvalue().startswith("step 1  loss 0.5000  0:00 elapsed")


def test_a_note_is_harmless():
    console = log_console()
    with Progress("train", None, console) as view:
        view.note("\x1b[2J[red]not markup[/red]\x07")
    assert console.file.getvalue() == "�[2J[red]not markup[/red]�\n"


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
