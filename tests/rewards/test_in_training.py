"""Rewards in a run: metrics, rollouts, how a run ends when one fails, and signals to all of its processes."""

import json
import signal

import pytest

from observe_r1.cli.main import main
from observe_r1.rewards import Scorer


def train(world, tmp_path, code, *more):
    reward, output = tmp_path / "mine.py", tmp_path / "run"
    reward.write_text(code)
    paths = ["--model.path", str(world / "warm" / "model"), "--data.path", str(world / "train" / "train.jsonl")]
    size = ["--rollout.prompts", "4", "--rollout.group_size", "2", "--rollout.max_new_tokens", "16", "--run.steps", "3"]
    size += ["--optimizer.minibatch", "4"]
    rewards = ["--rewards.functions", f"format=1,{reward}=-0.5", "--run.output", str(output)]
    return main(["train", *paths, *size, *rewards, "--run.threads", "1", "--model.device", "cpu", *more]), output


def test_each_reward_is_a_part_in_metrics_and_rollouts(world, tmp_path):
    code, output = train(world, tmp_path, "def reward(response, answer, example): return len(response)")
    assert code == 0
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for step, row in enumerate(metrics, 1):
        rollouts = [json.loads(line) for line in (output / "rollouts" / f"step-{step:06d}.jsonl").open()]
        assert [r["parts"]["mine"] for r in rollouts] == [len(r["text"]) for r in rollouts]
        assert [r["reward"] for r in rollouts] == [r["parts"]["format"] - 0.5 * r["parts"]["mine"] for r in rollouts]
        assert row["reward/mine"] == pytest.approx(sum(len(r["text"]) for r in rollouts) / len(rollouts))
        assert row["reward/accuracy"] == pytest.approx(sum(r["correct"] for r in rollouts) / len(rollouts))


def test_a_file_gets_the_columns_that_data_columns_names(world, tmp_path):
    rows = [json.loads(line) for line in (world / "train" / "train.jsonl").read_text().splitlines()[:12]]
    boxes = {row["id"]: [number, number + 1] for number, row in enumerate(rows)}
    data, kept = world / "train" / "boxes.jsonl", tmp_path / "seen"
    data.write_text("".join(json.dumps(row | {"box": {"corner": boxes[row["id"]]}}) + "\n" for row in rows))
    kept.mkdir()
    reward = f"""
import json
def reward(response, answer, example):
    open({str(kept)!r} + "/" + example.id, "w").write(json.dumps(example.columns))
    return 1.0
"""
    given = ["--data.path", str(data), "--data.columns", "box.corner"]
    assert train(world, tmp_path, reward, *given)[0] == 0
    seen = {path.name: json.loads(path.read_text()) for path in kept.iterdir()}
    assert seen == {name: {"box.corner": box} for name, box in boxes.items()}


def test_a_file_that_does_not_import_costs_nothing(world, tmp_path, capsys):
    nowhere = ["--model.path", str(tmp_path / "no-model"), "--data.path", str(tmp_path / "no-data.jsonl")]
    code, output = train(world, tmp_path, "import no_such_module", *nowhere)
    assert code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"observe-r1: error: {tmp_path}/mine.py line 1: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert [path.name for path in output.iterdir()] == []


def test_a_file_that_raises_in_the_middle_ends_the_run_in_one_line_and_keeps_what_was_learned(world, tmp_path, capsys):
    reward = """
calls = 0
def reward_func(queries, prompts, labels):
    global calls
    calls += 1
    return [1 / (7 - calls)] * len(queries)
"""
    code, output = train(world, tmp_path, reward)
    assert code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("observe-r1: error")]
    what = f"{tmp_path}/mine.py line 6: ZeroDivisionError: division by zero (scoring {world}/train/train.jsonl row "
    assert error.startswith(f"observe-r1: error: {what}")
    assert f" (stopped after step 1, its model is in {output / 'model'};" in error
    assert (output / "model" / "model.safetensors").is_file()


def test_signals_to_every_process_of_a_job_change_no_score(world, tmp_path, monkeypatch):
    """The processes of a reward file get the signals while they score."""
    (tmp_path / "length.py").write_text("def reward(response, answer, example): return len(response) % 7")

    def run(output, *more):
        words = ["train", "--model.path", world / "warm" / "model", "--run.output", output]
        words += ["--data.path", world / "train" / "train.jsonl"]
        words += ["--rollout.prompts", 3, "--rollout.group_size", 3, "--rollout.max_new_tokens", 40, "--run.steps", 3]
        words += ["--rewards.functions", f"accuracy=1,{tmp_path / 'length.py'}=0.1"]
        words += ["--rewards.workers", 2, "--optimizer.minibatch", 3, "--run.threads", 1, "--model.device", "cpu"]
        return main([str(word) for word in (*words, *more)])

    assert run(tmp_path / "unbroken") == 0
    submit, calls = Scorer.submit, []

    def disturbed(self, *args):
        pending = submit(self, *args)
        calls.append(1)
        (file,) = self._custom.values()
        for worker in file._pool._workers:
            for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, *[signal.SIGKILL] * (len(calls) in (2, 4))):
                if running := worker._running:  # else it is just being started anew
                    running[0].send_signal(each)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return pending

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "submit", disturbed)
        assert run(tmp_path / "stopped") == 130
    assert run(tmp_path / "stopped", "--run.resume") == 0
    expected, rollouts = (
        [path.read_text() for path in sorted((tmp_path / name / "rollouts").iterdir())]
        for name in ("unbroken", "stopped")
    )
    assert rollouts == expected and len(expected) == 3
    metrics = [json.loads(line) for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["reward/accuracy"] for row in metrics) > 0
