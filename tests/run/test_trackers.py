"""Trackers, whatever the library: no step is lost, none is there twice, and what fails is one line."""

import json
import math
import os
import resource
import sys

import pytest
from scripted_server import scripted
from tracked import METRICS, mlflow, opened, tables, tensorboard

from observe_r1.errors import UserError


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_is_one_json_object_on_disk_at_once(folder, value, monkeypatch):
    synced = []
    trackers = opened(folder)
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    trackers.write(1, METRICS | {"a": value}, [], whole=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == [{"step": 1, **METRICS, "a": None}]
    assert os.path.samestat(synced[0], (folder / "metrics.jsonl").stat())
    assert synced[0].st_size == (folder / "metrics.jsonl").stat().st_size
    trackers.close()
    assert not (folder / "trackers.json").exists()


@pytest.mark.parametrize("settings", [{}, {"tensorboard": True}])
def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_step(folder, settings):
    """Under a limit on the size of files, which fails as a full disk does: after a part of the step."""
    trackers = opened(folder, **settings)
    trackers.write(1, METRICS, tables(), whole=True)
    path = next((folder / "tensorboard").iterdir()) if settings else folder / "metrics.jsonl"
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 2000, limits[1]))
    try:
        many = {f"metric {number}": 1.0 for number in range(150)}
        with pytest.raises(UserError, match=f"cannot write '{path}': File too large"):
            for step in range(2, 9):
                before = path.read_bytes()
                trackers.write(step, many, [], whole=True)
        assert path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trackers.close()


def test_a_tracker_that_does_not_answer_gets_its_steps_later(folder, monkeypatch):
    notes = []
    trackers = opened(folder, notes.append, mlflow="shapes", tensorboard=True)
    trackers.write(1, METRICS, [], whole=True)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def down(*_, **__):
        raise MlflowException("API request failed\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", down)
        for step in (2, 3):
            trackers.write(step, METRICS, [], whole=True)
        (note,) = notes
        assert note.startswith("mlflow: shapes: API request failed; training goes on") and "\n" not in note
        trackers.close()
    assert notes[1:] == ["mlflow: shapes: lacks the last steps: the same command with --run.resume hands them over"]
    trackers = opened(folder, mlflow="shapes", tensorboard=True)
    trackers.write(4, METRICS, [], whole=True)
    trackers.close()
    assert sorted(mlflow("shapes")[0]) == sorted(tensorboard(folder)[0]) == [1, 2, 3, 4]


def test_one_that_is_away_is_not_asked_at_every_step(folder, monkeypatch):
    """Nor does MLflow itself try for minutes."""
    from mlflow import MlflowClient

    trackers = opened(folder, print, mlflow="shapes")
    tries = []
    with scripted(lambda question: tries.append(question) or (503, b"busy"), "") as server:
        trackers._open[0]._tracker._client = MlflowClient(server.url)
        for step in range(1, 9):
            trackers.write(step, METRICS, [], whole=True)
        assert 1 <= len(tries) <= 2
        tries.clear()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with pytest.raises(UserError, match=r"run\.mlflow = 'more': .*503"):
            opened(folder, mlflow="more")
        assert 1 <= len(tries) <= 2


def test_one_that_is_asked_for_later_gets_the_whole_curve_and_an_unfinished_step_once(folder):
    trackers = opened(folder)
    for step in (1, 2):
        trackers.write(step, METRICS, [], whole=True)
    trackers.close()
    resumed = opened(folder, tensorboard=True)
    resumed.write(3, {"reward/mean": 1.0}, tables(), whole=False)  # Ctrl-C during its evaluation
    resumed.close()
    assert sorted(tensorboard(folder)[0]) == [1, 2]
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))  # as `RunFolder.cut_back` does
    again = opened(folder, tensorboard=True)
    again.write(3, {"reward/mean": 1.0, "evaluation/accuracy": 0.5}, [], whole=True)
    again.close()
    assert tensorboard(folder)[0] == {1: METRICS, 2: METRICS, 3: {"reward/mean": 1.0, "evaluation/accuracy": 0.5}}


def test_groups_are_shown_at_the_first_step_and_every_so_many(folder):
    trackers = opened(folder, tensorboard=True, track_every=3)
    assert [step for step in range(8) if trackers.shows(step)] == [0, 1, 3, 6]
    trackers.close()
    assert not opened(folder).shows(1) and not opened(folder, tensorboard=True, track_groups=0).shows(1)


@pytest.mark.parametrize("kind", ["wandb", "trackio", "mlflow"])
def test_a_missing_library_names_the_extra(folder, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(UserError, match=rf"run\.{kind} = 'p': {kind} is not installed: pip install -e '\.\[{kind}\]'"):
        opened(folder, **{kind: "p"})


def test_a_folder_that_cannot_be_made_is_one_line(folder):
    (folder / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match=r"run\.tensorboard: cannot write '.*/tensorboard': File exists"):
        opened(folder, tensorboard=True)


@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        ({"wandb": "p"}, {"WANDB_MODE": "online", "WANDB_API_KEY": "short"}, "run.wandb = 'p': .*wandb login"),
        ({"mlflow": "p"}, {"MLFLOW_TRACKING_URI": "nowhere://x"}, "run.mlflow = 'p': .*MLFLOW_TRACKING_URI says"),
        ({"mlflow": "p"}, {"MLFLOW_TRACKING_URI": "sqlite:////proc/no/x.db"}, "run.mlflow: cannot write '/proc/no': "),
        ({"wandb": "p"}, {"WANDB_MODE": "nonsense"}, "run.wandb = 'p': .*nonsense"),
        ({"trackio": "p_system"}, {}, "run.trackio = 'p_system': Project name 'p_system' is not allowed"),
    ],
)
def test_a_tracker_that_will_not_start_is_one_line(folder, trackio, monkeypatch, settings, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        opened(folder, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "x", "tensorboard": {"id": ""}}'])
def test_changed_notes_of_the_trackers_are_one_line(folder, content):
    (folder / "trackers.json").write_text(content)
    with pytest.raises(UserError, match=r"trackers\.json: not as the run wrote it"):
        opened(folder, tensorboard=True)


def test_mlflow_says_where_the_run_is_not(folder, tmp_path, monkeypatch):
    opened(folder, mlflow="shapes").close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(UserError, match=r"run\.mlflow = 'shapes': .*MLFLOW_TRACKING_URI says"):
        opened(folder, mlflow="shapes")
