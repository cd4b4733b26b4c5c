"""A page that is made again while its run goes on: it is the one of a first reading, and only what is new is read."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import record_run

from observe_r1.config import TrainSettings, validate
from observe_r1.report.charts import Chart
from observe_r1.report.gallery import choose, steps_shown
from observe_r1.report.memory import Memory
from observe_r1.report.run_page import render_report
from observe_r1.report.run_records import SampledGroup
from observe_r1.run.folder import RunFolder

OPENED: list[str] = []
sys.addaudithook(lambda event, values: OPENED.append(str(values[0])) if event == "open" else None)


class Live:
    """A folder to which a run's steps come one after the other, with the page that is made of it each time."""

    def __init__(self, whole, folder):
        self.whole, self.folder, self.memory = whole, folder, Memory()
        for name in ("rollouts", "evaluations"):
            (folder / name).mkdir(parents=True)
        shutil.copy(whole / "config.yaml", folder)
        shutil.copy(whole / "evaluations" / "step-000000.jsonl", folder / "evaluations")
        self.lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
        self.append(self.lines[0])

    def append(self, text):
        with (self.folder / "metrics.jsonl").open("a") as metrics:
            metrics.write(text)

    def make(self, *steps, change=lambda text: text):
        """Write steps down; `change` tells them from those of the whole run."""
        for step in steps:
            name = f"rollouts/step-{step:06d}.jsonl"
            (self.folder / name).write_text(change((self.whole / name).read_text()))
            self.append(change(self.lines[step]))

    def page(self):
        """The page, and which files of the run were read for it."""
        OPENED.clear()
        page = render_report([self.folder], memory=self.memory)
        read = {str(Path(name).relative_to(self.folder)) for name in OPENED if name.startswith(str(self.folder))}
        assert page == render_report([self.folder])
        return page, read - {"config.yaml", "metrics.jsonl"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("live") / "whole", steps=8)


@pytest.fixture(params=[40, 6], ids=["many cards a step", "fewer cards than steps"])
def live(whole, tmp_path, monkeypatch, request):
    monkeypatch.setattr("observe_r1.report.run_page.MAX_GROUPS", request.param)
    # What the charts are drawn of stands for them: drawing takes a second.
    monkeypatch.setattr("observe_r1.report.run_page.curve_charts", lambda runs: [Chart("", "", repr(runs))])
    monkeypatch.setattr("observe_r1.report.contents.climb_chart", lambda *climb: Chart("", "", repr(climb)))
    monkeypatch.setattr("observe_r1.report.run_page.compared_chart", lambda each: Chart("", "", repr(each)))
    return Live(whole, tmp_path / "run")


def test_each_step_is_read_once(live):
    live.make(1, 2, 3, 4)
    page, read = live.page()
    assert len(read) == 4 + 1 and "4 steps, starting" in page
    assert live.page() == (page, set())
    for step in (5, 6, 7):
        live.make(step)
        page, read = live.page()
        assert read == {f"rollouts/step-{step:06d}.jsonl"} and f"{step} steps, starting" in page


def test_lines_are_read_once_and_when_they_are_whole(live):
    live.make(1, 2)
    live.page()
    with (live.folder / "metrics.jsonl").open("r+") as metrics:
        metrics.write("x" * (len(live.lines[0]) - 1))  # who reads it again complains
    live.append(live.lines[3][:20])
    assert "2 steps, starting" in render_report([live.folder], memory=live.memory)
    live.append(live.lines[3][20:])
    assert "3 steps, starting" in render_report([live.folder], memory=live.memory)
    with pytest.raises(Exception, match=r"metrics\.jsonl line 1"):
        render_report([live.folder])


@pytest.mark.parametrize("meanwhile", [True, False], ids=["looked at meanwhile", "not looked at meanwhile"])
def test_a_resumed_run_is_shown_as_it_is_now(live, meanwhile):
    live.make(1, 2, 3, 4, 5)
    assert "shapes 6 " in live.page()[0]
    settings = validate(TrainSettings, yaml.safe_load((live.folder / "config.yaml").read_text()), "test")
    with RunFolder(live.folder, settings, resume=True) as folder:
        folder.cut_back(1, measured=1)
    if meanwhile:
        page, _ = live.page()
        assert "1 steps, starting" in page and "shapes 6 " not in page
    live.make(2, 3, 4, 5, change=lambda text: text.replace("shapes", "forms").replace('/mean": 1', '/mean": 7'))
    page, read = live.page()
    assert {f"rollouts/step-{step:06d}.jsonl" for step in (2, 3, 4, 5)} <= read
    assert "forms 6 " in page and "shapes 6 " not in page


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_a_longer_run_has_no_more_cards_of_a_step_than_are_kept(count, more, most):
    before = dict(steps_shown(range(1, count + 1), most))
    after = dict(steps_shown(range(1, count + more + 1), most))
    assert all(after.get(step, 0) <= max(1, before.get(step, 0)) for step in range(1, count + 1))


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_fewer_groups_are_the_first_of_more(rights, one, other):
    groups = [
        SampledGroup(1, str(number), tuple({"correct": n < right} for n in range(4)))
        for number, right in enumerate(rights)
    ]
    few, many = sorted((one, other))
    assert choose(groups, many)[:few] == choose(groups, few)
