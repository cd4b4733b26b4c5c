"""A run killed at any moment continues as if nothing had happened: weights, rollouts and metrics bit by bit."""

import errno
import hashlib
import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from killing import MOMENTS, killed
from safetensors.torch import load_file
from tiny import random_group, random_model, training_group
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from observe_r1.cli.main import main
from observe_r1.config import ObjectiveSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.policy import state
from observe_r1.policy.policy import Policy
from observe_r1.records import TrainingBatch
from observe_r1.run import checkpoint
from observe_r1.run.checkpoint import Checkpoints

STEPS = 6


@pytest.fixture(scope="module")
def unbroken(world, tmp_path_factory):
    """A run that nobody stopped."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(command(world, run)) == 0
    return run


def command(world, output, *options):
    """Dynamic sampling leaves leftovers; two updates a step, of which the second is off-policy; an adaptive order."""
    model, data = world / "warm" / "model", world / "train" / "train.jsonl"
    paths = ["--model.path", str(model), "--data.path", str(data), "--run.output", str(output)]
    rollout = ["--rollout.prompts", "4", "--rollout.group_size", "4", "--rollout.max_new_tokens", "40"]
    dynamic = ["--rollout.dynamic_sampling", "true", "--rollout.max_age", "3", "--data.order", "adaptive"]
    held_out = ["--evaluation.path", str(world / "sft" / "sft.jsonl"), "--evaluation.max_samples", "16"]
    evaluation = ["--evaluation.every", "2", "--evaluation.samples", "4", "--evaluation.best_by", "avg"]
    learning = ["--optimizer.minibatch", "2", "--optimizer.lr", "1e-4", "--run.threads", "1", "--model.device", "cpu"]
    length = ["--run.steps", str(STEPS), "--run.save_every", "2", "--run.keep", "1"]
    return ["train", *paths, *rollout, *dynamic, *learning, *held_out, *evaluation, *length, *options]


def timeless(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(run, other):
    ours, theirs = load_file(run / "model" / "model.safetensors"), load_file(other / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert timeless(run) == timeless(other)
    names = names_in(other / "rollouts")
    assert names_in(run / "rollouts") == names and len(names) == STEPS
    assert all((run / "rollouts" / n).read_bytes() == (other / "rollouts" / n).read_bytes() for n in names)
    for part in ("checkpoints", "evaluations", "best"):
        assert names_in(run / part) == names_in(other / part)
    evaluations = [f"evaluations/{name}" for name in names_in(other / "evaluations")]
    for name in ("best.json", "best/model.safetensors", *evaluations):
        assert (run / name).read_bytes() == (other / name).read_bytes()


def starts(patched):
    """What the view is told from now on that runs begin with: steps, and the share that is done."""
    from observe_r1.run.progress import Progress

    seen, start = [], Progress.start

    def note(self, step, done):
        seen.append((step, done))
        start(self, step, done)

    patched.setattr(Progress, "start", note)
    return seen


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_never_stopped(world, unbroken, tmp_path, moment):
    run = tmp_path / "run"
    assert killed(moment, command(world, run))
    assert main(command(world, run, "--run.resume", "true")) == 0
    assert_same(run, unbroken)


def test_supervised_fine_tuning_resumes_too(world, tmp_path, monkeypatch):
    from observe_r1.run.progress import Progress

    def tune(output, *options):
        data, length = world / "sft" / "sft.jsonl", ["--run.steps", "5", "--run.save_every", "2"]
        paths = ["--model.path", str(world / "tiny"), "--data.path", str(data), "--run.output", str(output)]
        return main(["sft", *paths, *length, "--run.threads", "1", "--data.order", "random", *options])

    def crash(self, step, metrics):
        if step == 4:
            raise RuntimeError("power cut")

    assert tune(tmp_path / "unbroken") == 0
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(Progress, "update", crash)
        tune(tmp_path / "run")
    with monkeypatch.context() as patched:
        seen = starts(patched)
        assert tune(tmp_path / "run", "--run.resume", "true") == 0
    assert seen == [(2, 0.4)]
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "unbroken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert timeless(tmp_path / "run") == timeless(tmp_path / "unbroken")


def test_leftovers_are_part_of_what_is_resumed(unbroken):
    steps = timeless(unbroken)[1:]
    assert any(row["rollout/leftovers"] > 0 for row in steps)
    assert any(row["rollout/age"] > 0 for row in steps)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_continue(world, unbroken, tmp_path, monkeypatch, capsys):
    from observe_r1.run.progress import Progress

    def interrupt(self, step, metrics):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", interrupt)
        assert main(command(world, tmp_path / "run")) == 130
    assert "the same command with --run.resume continues" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        seen = starts(patched)
        assert main(command(world, tmp_path / "run", "--run.resume")) == 0
    assert seen == [(3, 0.5)]
    assert_same(tmp_path / "run", unbroken)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(world, unbroken, tmp_path, capsys):
    run = shutil.copytree(unbroken, tmp_path / "run")  # before its last checkpoint it has the best one
    for name in ("weights/.metadata", "state.json"):
        (run / "checkpoints" / f"step-{STEPS:06d}" / name).write_bytes(b"{")
    assert main(command(world, run, "--run.resume", "true")) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"step-{STEPS:06d} is damaged: state.json has changed since it was written; set aside as damaged-step-" in said
    )
    (run / "checkpoints" / f"damaged-step-{STEPS:06d}").rename(tmp_path / "damaged")
    assert_same(run, unbroken)


def test_ctrl_c_in_an_evaluation_leaves_it_to_the_resumed_run(world, unbroken, tmp_path, monkeypatch, capsys):
    from observe_r1.run.progress import Progress

    run, calls = tmp_path / "run", []

    def interrupt(self, what, *counts):
        calls.extend([what] * (what == "evaluating"))
        if len(calls) == 2:  # the starting model's was the first
            signal.raise_signal(signal.SIGINT)
            calls.append("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "now", interrupt)
        assert main(command(world, run)) == 130
    assert "interrupted after step 2" in capsys.readouterr().out
    assert [("evaluation/accuracy" in row) for row in timeless(run)] == [True, False, False]
    assert names_in(run / "checkpoints") == ["step-000002"] and names_in(run / "evaluations") == ["step-000000.jsonl"]
    recalled, recall = [], Progress.recall
    monkeypatch.setattr(Progress, "recall", lambda view, rows: recall(view, recalled.extend(rows) or recalled))
    assert main(command(world, run, "--run.resume")) == 0
    assert_same(run, unbroken)
    assert [step for step, _ in recalled] == [0, 1] and "evaluation/accuracy" in recalled[0][1]


def digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_the_best_checkpoint_outlives_newer_ones_and_is_exported(unbroken, tmp_path):
    figures = {row["step"]: row["evaluation/avg@4"] for row in timeless(unbroken) if "evaluation/avg@4" in row}
    assert list(figures) == [0, 2, 4, 6]
    best = max(figures, key=figures.get)
    assert 0 < best < STEPS, "of no use: the best has to be one that run.keep would remove"
    assert names_in(unbroken / "checkpoints") == [f"step-{best:06d}", f"step-{STEPS:06d}"]
    assert json.loads((unbroken / "best.json").read_text()) == {"step": best, "by": "avg@4", "accuracy": figures[best]}
    dcp_to_torch_save(unbroken / "checkpoints" / f"step-{best:06d}" / "weights", tmp_path / "weights.pt")
    kept = torch.load(tmp_path / "weights.pt")["model"].values()
    exported, final = (load_file(unbroken / part / "model.safetensors").values() for part in ("best", "model"))
    assert sorted(map(digest, exported)) == sorted(map(digest, kept)) != sorted(map(digest, final))


def test_an_engine_gives_its_memory_back_while_a_checkpoint_is_loaded(world, unbroken, tmp_path, monkeypatch):
    """Loading makes the optimizer's state by a step, and gradients for it: no room is left for them beside vLLM."""
    calls, run = [], tmp_path / "run"
    shutil.copytree(unbroken, run)
    load = Checkpoints.load_newest
    sync = SimpleNamespace(rest=lambda: calls.append("rest"), publish=lambda version: calls.append("publish"))
    monkeypatch.setattr("observe_r1.training.parts.weight_sync", lambda engine, vlm: sync)
    monkeypatch.setattr(Checkpoints, "load_newest", lambda *given: (calls.append("load"), load(*given))[1])
    assert main(command(world, run, "--run.resume")) == 0
    assert calls == ["rest", "load", "publish"]


def test_resume_without_a_run_starts_one(world, unbroken, tmp_path):
    assert main(command(world, tmp_path / "run", "--run.resume", "true")) == 0
    assert_same(tmp_path / "run", unbroken)


def test_a_checkpoint_before_the_first_update_changes_nothing(tmp_path):
    """torch fills an empty optimizer state by a step of its own, which must not count."""

    def learn(*, save):
        vlm = random_model(dtype=torch.float32, scale=0.2)
        policy = Policy(vlm, OptimizerSettings(lr=1e-3), ObjectiveSettings())
        if save:
            checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
            checkpoints.save(1, policy, {}, {"x": torch.zeros(1)})
            checkpoints.finish()
        group = random_group([], [4, 3], dtype=torch.float32)
        for _ in range(2):
            policy.update(TrainingBatch((training_group(group),), learning_rate=1e-3))
        return [parameter.detach() for parameter in vlm.model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(learn(save=True), learn(save=False), strict=True))


def test_a_full_disk_is_one_line_and_loses_nothing(world, unbroken, tmp_path, monkeypatch, capsys):
    run, save, calls = tmp_path / "run", state.dcp.save, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(state.dcp, "save", full)
        assert main(command(world, run)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot write checkpoint" in error and "No space left on device" in error and "--run.resume" in error
    assert names_in(run / "checkpoints") == ["step-000002"]
    assert main(command(world, run, "--run.resume")) == 0
    assert_same(run, unbroken)


@pytest.mark.parametrize("module", ["torch.distributed.checkpoint.filesystem", "safetensors.torch"])
def test_a_second_ctrl_c_while_a_checkpoint_is_written_stops_at_once(world, unbroken, tmp_path, monkeypatch, module):
    """Also within torch's own writing, which wraps whatever is raised in it."""
    run = tmp_path / "run"
    owner, name = (filesystem, "_write_item") if "filesystem" in module else (checkpoint, "save_file")
    write = getattr(owner, name)

    def interrupt(*args, **kwargs):
        if (run / "checkpoints" / "step-000002").exists():
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
        return write(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupt)
        assert main(command(world, run)) == 130
    # The next one may have become whole in its thread before the main thread took the signals.
    assert names_in(run / "checkpoints") in (["step-000002"], ["step-000002", "step-000004"])
    assert not (run / "model").exists()
    assert main(command(world, run, "--run.resume")) == 0
    assert_same(run, unbroken)


def test_a_folder_with_a_run_says_how_to_resume_it(world, unbroken, capsys):
    assert main(command(world, unbroken)) == 2
    assert "not an empty folder; add --run.resume to resume the run in it" in capsys.readouterr().err


def test_what_cannot_be_resumed_is_one_line(world, unbroken, tmp_path, capsys):
    run = shutil.copytree(unbroken, tmp_path / "run")
    newest = run / "checkpoints" / f"step-{STEPS:06d}"
    state = json.loads((newest / "state.json").read_text())

    def refuse(*pieces, options=()):
        capsys.readouterr()
        assert main(command(world, run, "--run.resume", "true", *options)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("observe-r1: error: ") and all(piece in error for piece in pieces), error

    refuse("objective.bonus was 0.2 and is 0.5 now", options=["--objective.bonus", "0.5"])
    other = make_tiny_model(tmp_path / "other", sizes=Sizes(width=64))
    refuse("belongs to another model", options=["--model.path", str(other)])
    kl = ["--objective.kl_coef", "0.1"]
    refuse("objective.kl_coef was 0.0 and is 0.1 now", options=kl)
    (newest / "SHA256SUMS").unlink()
    (newest / "state.json").write_text(json.dumps(state | {"format": 2}))
    refuse("written by an older version")
    for each in (run / "checkpoints").iterdir():
        (each / "state.json").write_text("")
    refuse("is damaged: give another run.output for a new run")


@pytest.mark.parametrize(("setting", "file"), [("data.path", "train/train"), ("evaluation.path", "sft/sft")])
def test_a_dataset_of_other_rows_is_one_line_and_nothing_changes(world, unbroken, tmp_path, capsys, setting, file):
    run, data = shutil.copytree(unbroken, tmp_path / "run"), world / f"{file}.jsonl"
    lines = data.read_text().splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    other = tmp_path / data.name
    other.write_text("".join(lines).replace("images/", f"{data.parent}/images/"))
    config = run / "config.yaml"  # the run shall have begun with that very file
    config.write_text(config.read_text().replace(str(data), str(other)))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(command(world, run, "--run.resume", f"--{setting}", str(other))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        f"{setting}: {other} row 4 is not the row that the saved run had in its place: "
        "resume with the same data" in error
    )
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_reward_file_that_changed_is_named(world, tmp_path, capsys):
    file, run = tmp_path / "brief.py", tmp_path / "run"
    reward = "def reward(response, answer, example):\n    return {}\n"
    paths = [f"--model.path={world / 'warm' / 'model'}", f"--data.path={world / 'train' / 'train.jsonl'}"]
    sizes = ["--rollout.prompts=2", "--rollout.group_size=2", "--rollout.max_new_tokens=8", "--optimizer.minibatch=2"]
    given = ["train", *paths, *sizes, f"--rewards.functions={file}=1", "--run.threads=1", f"--run.output={run}"]
    for steps, value, said in ((1, 0.5, False), (2, 0.5, False), (3, 2.5, True)):
        file.write_text(reward.format(value))
        assert main([*given, f"--run.steps={steps}", "--run.resume"]) == 0
        line = f"{file} has changed: steps after {steps - 1} are scored by its new version"
        assert (line in " ".join(capsys.readouterr().err.split())) == said
    assert [row["reward/brief"] for row in timeless(run)] == [0.5, 0.5, 2.5]
