"""Trackers, each read back by something that did not write it."""

import json
import math
import os
import resource
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from observe_r1.config import RunSettings
from observe_r1.errors import UserError
from observe_r1.run.trackers import open_trackers

METRICS = {"reward/mean": 0.5, "policy/entropy": 1.25, "policy/updates": 2.0}


class FakeWandb(ModuleType):
    """Stands for the wandb package."""

    def __init__(self, error=None):
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.error = error
        self.started = {}
        self.logged = []
        self.finished = False

    def init(self, **arguments):
        if self.error:
            raise self.errors.Error(self.error)
        self.started = arguments
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text("optimizer: {lr: 1.0}\n")
    return tmp_path


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_one_json_object_a_step_on_disk_at_once(folder):
    (tracker,) = open_trackers(folder, RunSettings())
    tracker.write(1, METRICS)
    assert read_lines(folder) == [{"step": 1, **METRICS}]
    tracker.write(2, {"reward/mean": 0.75})
    assert read_lines(folder)[1:] == [{"step": 2, "reward/mean": 0.75}]
    tracker.close()


def test_what_is_no_number_is_null(folder):
    (tracker,) = open_trackers(folder, RunSettings())
    tracker.write(1, {"a": math.nan, "b": math.inf, "c": 1.0})
    tracker.close()
    assert read_lines(folder) == [{"step": 1, "a": None, "b": None, "c": 1.0}]


def test_tensorboard_gets_every_scalar(folder):
    trackers = open_trackers(folder, RunSettings(tensorboard=True))
    for step in (1, 2):
        for tracker in trackers:
            tracker.write(step, {name: value * step for name, value in METRICS.items()})
    for tracker in trackers:
        tracker.close()
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == METRICS.keys()
    for name, value in METRICS.items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [(1, value), (2, 2 * value)]
    assert len(read_lines(folder)) == 2


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_step(folder, tensorboard):
    """Under a limit on the size of files, which fails as a full disk does: after a part of the step."""
    tracker = open_trackers(folder, RunSettings(tensorboard=tensorboard))[-1]
    tracker.write(1, METRICS)
    (path,) = (folder / "tensorboard").iterdir() if tensorboard else [folder / "metrics.jsonl"]
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 300, limits[1]))
    try:
        for step in (2, 3):
            with pytest.raises(UserError, match=f"cannot write '{path}': File too large"):
                tracker.write(step, {f"metric {number}": 1.0 for number in range(100)})
            assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    tracker.write(4, METRICS)
    tracker.close()
    if tensorboard:
        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("reward/mean")] == [1, 4]
    else:
        assert [row["step"] for row in read_lines(folder)] == [1, 4]


def test_wandb_gets_settings_and_metrics(folder, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    _, tracker = open_trackers(folder, RunSettings(wandb="shapes"))
    tracker.write(3, METRICS)
    tracker.close()
    assert wandb.started["project"] == "shapes"
    assert wandb.started["config"] == {"optimizer": {"lr": 1.0}}
    assert wandb.started["dir"] == str(folder)
    assert wandb.logged == [(3, METRICS)]
    assert wandb.finished


def test_a_missing_wandb_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed: pip install -e '\.\[wandb\]'"):
        open_trackers(folder, RunSettings(wandb="shapes"))


def test_a_wandb_that_will_not_start_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("api_key not configured\nmore\nlines"))
    with pytest.raises(UserError, match=r"run\.wandb = 'shapes': api_key not configured \(") as caught:
        open_trackers(folder, RunSettings(wandb="shapes"))
    assert "\n" not in str(caught.value)


def test_a_line_is_on_disk_before_the_next_step_begins(tmp_path, monkeypatch):
    (tracker,) = open_trackers(tmp_path, RunSettings(tensorboard=False))
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    tracker.write(1, METRICS)
    tracker.close()
    assert os.path.samestat(synced[0], (tmp_path / "metrics.jsonl").stat())
    assert synced[0].st_size == (tmp_path / "metrics.jsonl").stat().st_size
