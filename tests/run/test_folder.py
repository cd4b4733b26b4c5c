"""The run folder: whole files, one owner, nothing left behind by a run that never began."""

import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from observe_r1.config import TrainSettings
from observe_r1.config.verbs import dump_settings
from observe_r1.errors import UserError
from observe_r1.files import json_line
from observe_r1.run.folder import RunFolder
from observe_r1.yaml_text import parse_yaml

SETTINGS = TrainSettings(model={"path": "m"}, data={"path": "d"})


def test_a_new_folder_has_settings_and_room_for_the_rest(tmp_path):
    with RunFolder(tmp_path / "a" / "b", SETTINGS) as folder:
        written = yaml.safe_load((folder.path / "config.yaml").read_text())
        assert TrainSettings.model_validate(written) == SETTINGS
        assert folder.rollouts.is_dir()
        assert sorted(entry.name for entry in folder.path.iterdir()) == [".lock", "config.yaml", "rollouts"]


def test_the_settings_are_complete(tmp_path):
    with RunFolder(tmp_path / "run", SETTINGS) as folder:
        written = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert written.keys() == TrainSettings.model_fields.keys()
    assert written["optimizer"].keys() == type(SETTINGS.optimizer).model_fields.keys()


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)  # as paths may be


@example(path="1e5", stop=["010", "no", "~"], lr=1e22)
@example(path="\x85", stop=["\u2028"], lr=1e-6)
@given(path=TEXT, stop=st.lists(TEXT.filter(bool), max_size=3), lr=st.floats(min_value=1e-300, max_value=1e300))
def test_any_settings_survive_being_written(path, stop, lr):
    settings = TrainSettings(model={"path": path}, data={"path": "d"}, rollout={"stop": stop}, optimizer={"lr": lr})
    assert TrainSettings.model_validate(yaml.safe_load(dump_settings(settings))) == settings
    assert TrainSettings.model_validate(parse_yaml(dump_settings(settings), "config.yaml")) == settings


def test_an_empty_folder_is_taken(tmp_path):
    with RunFolder(tmp_path, SETTINGS) as folder:
        assert folder.rollouts.is_dir()


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"run\.output = '.*': neither empty nor a run's folder: give another one"):
        RunFolder(tmp_path, SETTINGS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_finished_run_is_not_overwritten(tmp_path):
    with RunFolder(tmp_path, SETTINGS) as folder:
        folder.write_rollouts(1, [{"text": "x"}])
    with pytest.raises(UserError, match="not an empty folder"):
        RunFolder(tmp_path, SETTINGS)
    assert (folder.rollouts / "step-000001.jsonl").is_file()


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"run\.output = '.*file.*': cannot be a run folder: '.*file' is a file$"):
            RunFolder(path, SETTINGS)


@pytest.mark.parametrize("error", [UserError("no such data"), KeyboardInterrupt(), ValueError("ours")])
def test_a_run_that_fails_before_its_first_result_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), RunFolder(tmp_path / "run", SETTINGS) as folder:
        folder.metrics.touch()
        raise error
    with RunFolder(tmp_path / "run", SETTINGS):  # the corrected command can have the folder
        pass


@pytest.mark.parametrize(
    "leave_a_result",
    [
        lambda folder: folder.write_rollouts(1, []),
        lambda folder: folder.metrics.write_text("{}\n"),
        lambda folder: folder.model.mkdir(),
    ],
)
def test_a_run_that_fails_later_keeps_everything(tmp_path, leave_a_result):
    with pytest.raises(ValueError, match="later"), RunFolder(tmp_path / "run", SETTINGS) as folder:
        leave_a_result(folder)
        raise ValueError("later")
    assert (folder.path / "config.yaml").is_file()


# Resuming


UNFINISHED = (
    *(".best.observe-r1-x_1abcde", ".model.observe-r1-abcdefgh"),
    "checkpoints/.step-000005.observe-r1-12345678",
)


def filled(folder, best):
    with folder:
        folder.metrics.write_text("".join(json_line({"step": step}) for step in range(5)) + '{"step": 5, "rew')
        for step in range(5):
            folder.write_rollouts(step, [{}])
            folder.write_evaluation(step, [{}])
        folder.best.mkdir()
        folder.write_best(best, "accuracy", 0.5)
        for unfinished in UNFINISHED:
            (folder.path / unfinished / "new").mkdir(parents=True)
        (folder.rollouts / "step-000005.jsonl.partial").touch()


@pytest.mark.parametrize(("step", "measured"), [(3, 3), (3, 2), (0, -1)])
def test_resuming_removes_what_was_written_later(tmp_path, step, measured):
    filled(RunFolder(tmp_path, SETTINGS), best=min(step, 3))
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        folder.cut_back(step, measured)
        assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [*range(measured + 1)]
        for part, last in ((folder.rollouts, step), (folder.evaluations, measured)):
            assert sorted(int(path.stem[5:]) for path in part.iterdir()) == [*range(last + 1)]
        assert folder.best.is_dir() and folder.best_step() == min(step, 3)
        assert not any((tmp_path / unfinished).exists() for unfinished in UNFINISHED)


def test_a_best_model_from_after_the_step_is_removed(tmp_path):
    filled(RunFolder(tmp_path, SETTINGS), best=4)
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        folder.cut_back(3, 3)
        assert not folder.best.exists() and folder.best_step() is None
        folder.cut_back(3, 3)


FOREIGN = (
    *(".notes", ".my-notes/page", ".git/HEAD", "step-000004 copy/x", "damaged-step/x", ".best.observe-r1-mine/new/x"),
    *("checkpoints/mine/x", "checkpoints/.old-copy/x", "checkpoints/step-000004 copy/x", "checkpoints/step-abc/x"),
    *("checkpoints/step-0000004/x", "checkpoints/.step-000004.observe-r1-abcdefgh/mine", "checkpoints/step-7"),
    *("rollouts/step-abc.jsonl", "rollouts/step-000009 copy.jsonl", "rollouts/step-000009.jsonl/x"),
    *("rollouts/step-9.jsonl", "rollouts/step-000009.txt", "evaluations/step-.jsonl", "evaluations/step-\u0661\u0662"),
)
"""What people may leave in a run folder, whatever it looks like."""


def leave_foreign_files(folder):
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def assert_foreign_files_are_there(folder):
    assert [name for name in FOREIGN if not (folder / name).is_file()] == []


def test_what_people_leave_in_a_run_folder_stays(tmp_path):
    filled(RunFolder(tmp_path, SETTINGS), best=3)
    leave_foreign_files(tmp_path)
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        folder.cut_back(3, 3)
        assert not (folder.rollouts / "step-000004.jsonl").exists()
    assert_foreign_files_are_there(tmp_path)


def test_what_people_leave_in_a_run_that_comes_to_nothing_stays(tmp_path):
    with pytest.raises(UserError, match="no such data"), RunFolder(tmp_path, SETTINGS) as folder:
        for tracker in ("tensorboard", "wandb"):
            (tmp_path / tracker / "run-1").mkdir(parents=True)
        (tmp_path / "trackers.json").write_text("{}")
        folder.evaluations.mkdir()
        folder.write_evaluation(0, [{}])
        (tmp_path / ".my-notes").mkdir()
        (tmp_path / "notes.txt").write_text("mine")
        raise UserError("no such data")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".my-notes", "notes.txt"]


def test_a_folder_that_a_kill_left_moved_away_is_put_back(tmp_path):
    filled(RunFolder(tmp_path, SETTINGS), best=3)
    (tmp_path / "best").rename(tmp_path / UNFINISHED[0] / "old")
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        assert folder.best.is_dir() and folder.best_step() == 3


@pytest.mark.parametrize(("made", "refused"), [(40, False), (41, True)])
def test_steps_that_had_a_checkpoint_are_not_thrown_away_without_it(tmp_path, made, refused):
    """A run of `save_every` 20 that was killed in step 41 has saved one: the second waited for it."""
    with RunFolder(tmp_path, SETTINGS) as folder:
        folder.metrics.write_text("".join(json_line({"step": step}) for step in range(made + 1)))
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        if refused:
            with pytest.raises(UserError, match=r"has made 41 steps, but .*checkpoints no longer holds a checkpoint"):
                folder.cut_back(0, -1)
        else:
            folder.cut_back(0, -1)
        assert bool(folder.metrics.read_text()) == refused


@pytest.mark.parametrize("line", ["{}", "3", '{"step": "x"}', "null"])
def test_metrics_that_are_no_step_s_are_no_traceback(tmp_path, line):
    with RunFolder(tmp_path, SETTINGS) as folder:
        folder.metrics.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
        folder.cut_back(1, 1)
        assert folder.metrics.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("text", ["", "{}", "3", '{"step": []}', "\xff"])
def test_a_record_of_the_best_that_was_tampered_with_is_one_line(tmp_path, text):
    filled(RunFolder(tmp_path, SETTINGS), best=3)
    (tmp_path / "best.json").write_text(text)
    with (
        RunFolder(tmp_path, SETTINGS, resume=True) as folder,
        pytest.raises(UserError, match=r"best\.json is not as the run wrote it: put it back"),
    ):
        folder.cut_back(3, 3)


# Files


def test_rollouts_are_one_file_a_step(tmp_path):
    rows = [{"id": "a", "reward": 1.5, "text": "x\ny"}, {"id": "b", "reward": 0.0, "text": "ü"}]
    with RunFolder(tmp_path, SETTINGS) as folder:
        path = folder.write_rollouts(12, rows)
        assert path == tmp_path / "rollouts" / "step-000012.jsonl"
        assert [json.loads(line) for line in path.read_text().splitlines()] == rows


@given(st.text(st.characters(exclude_categories=[])))
def test_any_response_is_one_line_of_ascii_and_comes_back(text):
    line = json_line({"text": text})
    assert line.isascii()
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line) == {"text": text}


def test_lone_surrogates_are_written(tmp_path):
    with RunFolder(tmp_path, SETTINGS) as folder:
        path = folder.write_rollouts(1, [{"text": "\ud800\x00\x1b[2J\u2028"}])
        assert path.read_bytes() == b'{"text": "\\ud800\\u0000\\u001b[2J\\u2028"}\n'


def test_what_is_no_number_is_null_at_any_depth():
    row = {"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": (float("-inf"), 2)}, "e": True}
    assert json.loads(json_line(row)) == {"a": None, "b": [1.0, None], "c": {"d": [None, 2]}, "e": True}


def test_a_resumed_run_keeps_its_threads_because_sums_depend_on_them(tmp_path):
    with RunFolder(tmp_path, SETTINGS) as folder:
        folder.write_rollouts(1, [{"id": "1"}])
    others = TrainSettings(model={"path": "m"}, data={"path": "d"}, run={"threads": 3})
    with pytest.raises(UserError, match=r"run\.threads was None and is 3 now: give the same settings"):
        RunFolder(tmp_path, others, resume=True)


def rewarding(template, **sections):
    data = {"path": "d", "format_prompt": "none"}
    return TrainSettings(model={"path": "m"}, data=data, rewards={"template": template}, **sections)


@pytest.mark.parametrize("recorded", [None, "observe", "think"])
@pytest.mark.parametrize("given", [None, "observe", "think"])
@pytest.mark.parametrize("asked", ["observe", "think"])
def test_the_template_that_is_rewarded_is_recorded_and_stays(tmp_path, recorded, given, asked):
    """`recorded` None is a folder of an earlier version: there as here, what is not set follows the prompt."""
    with RunFolder(tmp_path, rewarding(recorded)) as folder:
        folder.write_rollouts(1, [{"id": "1"}])
        if recorded:
            folder.complete(rewarding(recorded), {"rewards.template": asked})
            assert yaml.safe_load((tmp_path / "config.yaml").read_text())["rewards"]["template"] == recorded
    with RunFolder(tmp_path, rewarding(given), resume=True) as folder:
        was, now = recorded or asked, given or asked
        if was == now:
            folder.complete(rewarding(now), {"rewards.template": asked})
            folder.cut_back(0, -1)
            assert yaml.safe_load((tmp_path / "config.yaml").read_text())["rewards"]["template"] == now
        else:
            with pytest.raises(UserError, match=f"rewards.template was '{was}' and is '{now}' now"):
                folder.complete(rewarding(now), {"rewards.template": asked})


def test_only_what_data_decides_is_compared_late(tmp_path):
    with RunFolder(tmp_path, rewarding(None)) as folder:
        folder.write_rollouts(1, [{"id": "1"}])
    with pytest.raises(UserError, match=r"rollout\.max_age was .* and is 77 now"):
        RunFolder(tmp_path, rewarding(None, rollout={"max_age": 77}), resume=True)


def test_a_setting_that_an_earlier_version_did_not_have_had_its_default(tmp_path):
    with RunFolder(tmp_path, SETTINGS) as folder:
        folder.write_rollouts(1, [{"id": "1"}])
    config = tmp_path / "config.yaml"
    config.write_text("".join(line for line in config.open() if "max_rounds:" not in line))
    with pytest.raises(UserError, match=r"rollout\.max_rounds was None and is 77 now"):
        RunFolder(tmp_path, TrainSettings(**(SETTINGS.model_dump() | {"rollout": {"max_rounds": 77}})), resume=True)
    with RunFolder(tmp_path, SETTINGS, resume=True) as folder:
        folder.cut_back(0, -1)
        assert "max_rounds:" in config.read_text()
