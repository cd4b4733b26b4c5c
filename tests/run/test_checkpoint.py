"""A checkpoint is damaged where its digests prove it, and only then; the damaged one is set aside, never removed."""

import errno
import json
import os
import resource
import shutil
import subprocess
from hashlib import sha256
from threading import Event, Timer
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import random_group, random_model, training_group

from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.policy import state
from observe_r1.policy.policy import Policy
from observe_r1.records import TrainingBatch
from observe_r1.run import checkpoint
from observe_r1.run.checkpoint import Checkpoints

FILES = ("SHA256SUMS", "leftovers.safetensors", "state.json", "weights/.metadata", "weights/__0_0.distcp")
STEPS = (2, 4)


def new_policy():
    return Policy(random_model(dtype=torch.float32, scale=0.2), OptimizerSettings(lr=1e-3), ObjectiveSettings())


@pytest.fixture(scope="module")
def policy():
    """One that loads: it has never taken a step."""
    return new_policy()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    policy, folder = new_policy(), tmp_path_factory.mktemp("saved")
    group = random_group([], [4, 3], dtype=torch.float32)
    policy.update(TrainingBatch((training_group(group),), learning_rate=1e-3))
    for step in STEPS:
        save(folder, policy, step)
    return folder


def save(folder, policy, step, keep=9, **options):
    checkpoints = Checkpoints(folder, keep)
    checkpoints.save(step, policy, {"position": step}, {"x": torch.arange(64.0)}, **options)
    checkpoints.finish()


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def load(folder, policy):
    """Return the step that is loaded, and what is said."""
    said = []
    loaded = Checkpoints(folder, keep=9).load_newest(policy, said.append)
    return loaded and loaded[0]["step"], said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    return folder / f"step-{STEPS[-1]:06d}"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_that_flips_in_any_file_is_found(saved, policy, tmp_path, name, place, bit):
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    file = newest(shutil.copytree(saved, run)) / name
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    file.write_bytes(data)
    step, said = load(run, policy)
    assert step == 2 and names(run) == ["damaged-step-000004", "step-000002"]
    assert said == [
        f"checkpoint {newest(run)} is damaged: {name} has changed since it was written; "
        "set aside as damaged-step-000004; trying the one before it"
    ]
    assert (run / "damaged-step-000004" / name).read_bytes() == data


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "break_", [lambda f: f.unlink(), lambda f: f.write_bytes(b""), lambda f: f.write_bytes(f.read_bytes()[:-1])]
)
def test_a_file_that_is_missing_or_cut_short_is_found(run, policy, name, break_):
    break_(newest(run) / name)
    step, said = load(run, policy)
    assert step == 2 and f"is damaged: {name} " in said[0]
    assert names(run) == ["damaged-step-000004", "step-000002"]


def test_the_digests_are_what_sha256sum_checks(saved):
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=newest(saved), check=True, capture_output=True
    )
    *lines, last = (newest(saved) / "SHA256SUMS").read_text().splitlines(keepends=True)
    assert last == f"# {sha256(''.join(lines).encode()).hexdigest()}\n"
    assert sorted(line.split()[1] for line in lines) == list(FILES[1:])


def test_damaged_ones_are_no_steps_and_are_never_removed(run, policy):
    (newest(run) / "state.json").unlink()
    assert load(run, policy)[0] == 2
    save(run, policy, 4)
    (newest(run) / "state.json").unlink()
    assert load(run, policy)[0] == 2
    save(run, policy, 6, keep=1)
    assert names(run) == ["damaged-step-000004", "damaged-step-000004-2", "step-000006"]


def test_where_all_are_damaged_nothing_is_begun_anew(run, policy):
    for step in STEPS:
        (run / f"step-{step:06d}" / "state.json").unlink()
    for _ in range(2):  # nor when it is tried again
        with pytest.raises(
            UserError, match=r"every checkpoint in .* is damaged: give another run.output for a new run"
        ):
            load(run, policy)
    assert names(run) == ["damaged-step-000002", "damaged-step-000004"]


def test_no_checkpoints_are_none(tmp_path, policy):
    assert load(tmp_path / "missing", policy) == (None, [])
    (tmp_path / "damaged-step-notes").mkdir()
    assert load(tmp_path, policy) == (None, [])


# What proves nothing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA error: unspecified")])
@pytest.mark.parametrize("inside_torch", [True, False])
def test_what_stops_the_reading_is_raised_and_the_checkpoint_stays(run, policy, monkeypatch, error, inside_torch):
    def stop(*_, **__):
        raise error

    if inside_torch:  # which wraps whatever is raised there
        monkeypatch.setattr(state.dcp.FileSystemReader, "read_data", stop)
    else:
        monkeypatch.setattr(checkpoint, "file_digest", stop)
    with pytest.raises(type(error)) as raised:
        load(run, policy)
    assert raised.value is error
    assert names(run) == ["step-000002", "step-000004"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("place", ["open", "read", "list", "inside torch"])
def test_a_disk_that_does_not_answer_is_one_line_and_the_checkpoint_stays(run, policy, monkeypatch, number, place):
    path = str(newest(run) / "state.json")

    def fail(*_, **__):
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        if place == "open":
            patched.setattr("pathlib.Path.open", fail)
        elif place == "read":
            patched.setattr(checkpoint, "file_digest", fail)
        elif place == "list":
            patched.setattr("os.scandir", fail)
        else:
            patched.setattr(state.dcp.FileSystemReader, "read_data", fail)
        with pytest.raises(UserError, match=f"cannot read '{path}': {os.strerror(number)}"):
            load(run, policy)
    assert names(run) == ["step-000002", "step-000004"]
    assert load(run, policy) == (4, [])


@pytest.mark.parametrize(("found", "message"), [(99, "written by a newer version"), (2, "written by an older version")])
@pytest.mark.parametrize("digests", ["none", "of its own kind", "as ours"])
def test_another_format_is_no_damage(run, policy, found, message, digests):
    state = newest(run) / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": found}))
    (newest(run) / "SHA256SUMS").unlink()
    if digests == "as ours":
        checkpoint._write_digests(newest(run))
    elif digests == "of its own kind":
        (newest(run) / "SHA256SUMS").write_text("xxh3 0123\n")
    with pytest.raises(UserError, match=message):
        load(run, policy)
    assert names(run) == ["step-000002", "step-000004"]


# Writing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_stops_the_writing_is_raised_as_it_was(run, policy, monkeypatch, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(state.dcp.FileSystemWriter, "write_data", stop)
    with pytest.raises(type(error)) as raised:
        save(run, policy, 6)
    assert raised.value is error
    assert names(run) == ["step-000002", "step-000004"]


@pytest.mark.parametrize(("size", "reason"), [(1, "File too large"), (1 << 20, "the disk may be full")])
def test_a_disk_that_fills_up_within_torch_is_one_line(run, policy, monkeypatch, size, reason):
    """A limit on the size of a file stands for it. Torch's writer of large tensors loses what the system says."""
    limit = 1 << 9 if size == 1 else 1 << 20
    monkeypatch.setattr(state, "_state", lambda policy: {"model": {"x": torch.zeros(size)}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match=rf"cannot write checkpoint '.*step-000006': {reason}$"):
            save(run, policy, 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(run) == ["step-000002", "step-000004"]


def test_older_ones_go_but_for_the_best_and_what_others_put_there(run, policy, tmp_path):
    (run / "step-000002" / "notes.txt").write_text("mine")
    (run / "step-000002" / "weights" / "mine").mkdir()
    (run / "step-000001").symlink_to(shutil.copytree(run / "step-000004", tmp_path / "elsewhere"))
    for name in ("step-000000", "mine", "step-000003 copy"):
        (run / name).mkdir()
        (run / name / "x").touch()
    save(run, policy, 6, keep=1, best=4)
    assert names(run / "step-000004") == names(run / "step-000006") == names(tmp_path / "elsewhere")
    assert names(run / "step-000002") == ["notes.txt", "weights"] and names(run / "step-000002" / "weights") == ["mine"]
    save(run, policy, 8, keep=1)
    others = ["mine", "step-000000", "step-000001", "step-000002", "step-000003 copy"]
    assert names(run) == [*others, "step-000008"]
    assert load(run, policy) == (8, [])


def test_a_folder_of_somebody_else_is_not_written_over(run, policy):
    (run / "step-000006").mkdir()
    (run / "step-000006" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write checkpoint '.*step-000006': something else is there"):
        save(run, policy, 6)
    assert names(run / "step-000006") == ["notes.txt"] and load(run, policy) == (4, [])


def test_what_a_kill_left_of_an_old_one_goes_with_the_next(run, policy):
    for name in ("weights/__0_0.distcp", "weights/.metadata", "leftovers.safetensors"):
        (run / "step-000002" / name).unlink()
    save(run, policy, 6, keep=2)
    assert names(run) == ["step-000004", "step-000006"]


# In the background


@pytest.fixture
def held(monkeypatch):
    """Torch's writing waits until this is set."""
    held, save = Event(), state.dcp.save
    monkeypatch.setattr(state.dcp, "save", lambda *given, **named: (held.wait(), save(*given, **named))[1])
    yield held
    held.set()


def values(policy):
    """Weights, and moments of those that have any."""
    state = policy.optimizer.state
    named = [{"weight": each.detach()} | state.get(each, {}) for each in policy.parameters]
    return {(number, name): value for number, each in enumerate(named) for name, value in each.items()}


def test_what_is_written_are_the_values_of_the_moment_of_saving(tmp_path, held):
    policy, resumed, checkpoints = new_policy(), new_policy(), Checkpoints(tmp_path, keep=9)
    policy.update(TrainingBatch((training_group(random_group([], [4, 3], dtype=torch.float32)),), learning_rate=1e-3))
    before, position, tensors = {k: v.clone() for k, v in values(policy).items()}, {"of": [1]}, {"x": torch.arange(4.0)}
    checkpoints.save(2, policy, position, tensors)
    with torch.no_grad():
        for value in (*values(policy).values(), tensors["x"]):
            value.fill_(7)
    position["of"].append(2)
    assert not list(tmp_path.glob("step-*")) and checkpoints.newest == 0
    checkpoints.look()
    held.set()
    checkpoints.finish()
    assert checkpoints.newest == 2 and names(tmp_path) == ["step-000002"]
    found, kept = Checkpoints(tmp_path, keep=9).load_newest(resumed, print)
    after = values(resumed)
    assert [key for key in before if not torch.equal(after[key], before[key])] == []
    assert any(name == "exp_avg" for _, name in before)
    assert found["of"] == [1] and torch.equal(kept["x"], torch.arange(4.0))


def test_one_is_written_at_a_time_and_old_ones_go_when_it_is_there(run, policy, held):
    checkpoints = Checkpoints(run, keep=1)
    checkpoints.save(6, policy, {}, {"x": torch.zeros(1)})
    assert load(run, policy) == (4, []) and (run / "step-000002").is_dir()
    Timer(0.2, held.set).start()
    checkpoints.save(8, policy, {}, {"x": torch.zeros(1)})
    assert checkpoints.newest == 6 and "step-000006" in names(run) and "step-000002" not in names(run)
    checkpoints.finish()
    assert names(run) == ["step-000008"]


def test_an_error_in_the_background_is_one_line_at_the_next_look(run, policy, held, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(state.dcp.FileSystemWriter, "write_data", full)
    checkpoints = Checkpoints(run, keep=9)
    checkpoints.save(6, policy, {}, {"x": torch.zeros(1)})
    checkpoints.look()
    held.set()
    checkpoints.settle()
    with pytest.raises(UserError, match=r"cannot write checkpoint '.*step-000006': No space left on device"):
        checkpoints.look()
    assert names(run) == ["step-000002", "step-000004"] and checkpoints.newest == 0
    checkpoints.finish()  # it was said once


def test_what_never_ends_can_be_given_up(run, policy):
    endless = SimpleNamespace(save_state=lambda folder, copy: SimpleNamespace(done=lambda: False))
    checkpoints = Checkpoints(run, keep=1)
    checkpoints.save(6, endless, {}, {"x": torch.zeros(1)})
    checkpoints.settle(give_up=True)
    assert names(run) == ["step-000002", "step-000004"]


def test_without_a_copy_it_is_there_at_once(run, policy):
    checkpoints = Checkpoints(run, keep=9, copy=False)
    checkpoints.save(6, policy, {}, {"x": torch.zeros(1)})
    assert checkpoints.newest == 6 and load(run, policy) == (6, [])
