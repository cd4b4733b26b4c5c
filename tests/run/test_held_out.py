"""Evaluation in training: what it writes, that it leaves training alone, and when it ends a run."""

import html
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from observe_r1.cli.main import main
from observe_r1.config import RewardSettings, TrainSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.rewards import Scorer
from observe_r1.run import progress
from observe_r1.run.folder import RunFolder
from observe_r1.run.held_out import HeldOutEvaluator, evaluation_rewards, load_held_out
from observe_r1.run.progress import Progress


def train(world, output, *options):
    paths = ["--model.path", str(world / "warm" / "model"), "--data.path", str(world / "train" / "train.jsonl")]
    sizes = ["--rollout.prompts", "4", "--rollout.group_size", "4", "--rollout.max_new_tokens", "40"]
    learning = ["--optimizer.minibatch", "4", "--optimizer.lr", "1e-4", "--run.threads", "1", "--model.device", "cpu"]
    return main(["train", *paths, *sizes, *learning, "--run.output", str(output), *options])


def held_out(world, *options):
    return ["--evaluation.path", str(world / "sft" / "sft.jsonl"), "--evaluation.max_samples", "5", *options]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_written_and_leave_training_alone(world, tmp_path, capsys):
    length = ["--run.steps", "3", "--rewards.functions", "{format: 1.0}"]
    options = ["--evaluation.every", "2", "--evaluation.samples", "3", "--run.tensorboard", "true"]
    assert train(world, tmp_path / "with", *length, *held_out(world, *options)) == 0
    assert train(world, tmp_path / "without", *length) == 0

    events = EventAccumulator(
        str(tmp_path / "with" / "tensorboard"), {"images": 0, "tensors": 0, "scalars": 0}
    ).Reload()
    assert [event.step for event in events.Tensors("evaluation/text_summary")] == [0, 2, 3]
    assert [event.step for event in events.Tensors("groups/text_summary")] == [1]
    assert {f"groups/image {number}" for number in (1, 2, 3, 4)} <= set(events.Tags()["images"])
    rows = lines(tmp_path / "with" / "rollouts" / "step-000001.jsonl")[:4]
    shown = html.unescape(events.Tensors("groups/text_summary")[0].tensor_proto.string_val[0].decode())
    assert all(f"| {row['advantage']:.4g} | {row['tokens']} |" in shown for row in rows)
    assert [event.step for event in events.Scalars("evaluation/accuracy")] == [0, 2, 3]
    metrics = {row["step"]: row for row in lines(tmp_path / "with" / "metrics.jsonl")}
    figures = {f"evaluation/{name}" for name in ("accuracy", "format", "length", "avg@3", "pass@3")}
    assert list(metrics) == [0, 1, 2, 3]
    assert metrics[0].keys() == {"step", "time/evaluation"} | figures
    for step, row in metrics.items():
        assert (figures | {"time/evaluation"} <= row.keys()) == (step != 1)
    names = [f"step-00000{step}.jsonl" for step in (0, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "with" / "evaluations").iterdir()) == names
    for step, name in zip((0, 2, 3), names, strict=True):
        rows = lines(tmp_path / "with" / "evaluations" / name)
        assert [row["sampling"] for row in rows] == ["greedy", "sampled", "sampled", "sampled"] * 5
        greedy, sampled = ([row["correct"] for row in rows if bool(row["response"]) is s] for s in (False, True))
        assert metrics[step]["evaluation/accuracy"] == sum(greedy) / 5
        assert metrics[step]["evaluation/avg@3"] == pytest.approx(sum(sampled) / 15)
        lengths = [row["tokens"] for row in rows if row["sampling"] == "greedy"]
        assert metrics[step]["evaluation/length"] == sum(lengths) / 5
    assert "held-out" in capsys.readouterr().err

    ours, theirs = tmp_path / "with", tmp_path / "without"
    for name in [f"rollouts/step-00000{step}.jsonl" for step in (1, 2, 3)] + ["model/model.safetensors"]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert not (theirs / "evaluations").exists() and not (theirs / "best").exists()


def test_patience_ends_the_run_and_is_part_of_what_is_resumed(world, tmp_path, capsys, monkeypatch):
    """At so small a learning rate every evaluation is the same, and the starting model's, the first, is the best."""
    run, update = tmp_path / "run", Progress.update
    options = held_out(world, "--evaluation.every", "1", "--evaluation.patience", "3", "--optimizer.lr", "1e-15")
    length = ["--run.steps", "9", "--run.save_every", "1"]

    def crash(self, step, metrics):
        update(self, step, metrics)
        if step == 2:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(Progress, "update", crash)
        train(world, run, *length, *options)
    for _ in range(2):  # the second has nothing left to do
        assert train(world, run, *length, *options, "--run.resume") == 0
        assert [row["step"] for row in lines(run / "metrics.jsonl")] == [0, 1, 2, 3]
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped early"))
        assert line.startswith(f"stopped early after step 3: model in {run / 'model'}")
        assert " of the starting model, evaluations since without a better one: 3" in line
    assert not (run / "best").exists() and (run / "model").exists()
    assert train(world, run, *length, *options, "--evaluation.patience", "5", "--run.resume") == 0  # may be changed
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [0, 1, 2, 3, 4, 5]


def test_a_held_out_answer_that_cannot_be_verified_ends_the_run_before_it_begins(world, tmp_path, capsys):
    text = [{"role": "user", "content": "How many?"}]
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"message": text, "answer": "because it is so much longer than all the others"}) + "\n")
    assert train(world, tmp_path / "run", "--run.steps", "2", "--evaluation.path", str(path)) == 2
    assert "held_out.jsonl row 1: the gold answer" in capsys.readouterr().err
    assert train(world, tmp_path / "run", "--run.steps", "2", "--evaluation.path", str(tmp_path / "none.jsonl")) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())


def settings(world, **evaluation):
    return TrainSettings(
        model={"path": "m"},
        data={"path": "a.jsonl,b.jsonl", "probs": (0.5, 0.5), "max_samples": 1, "label_key": "answer"},
        evaluation={"path": str(world / "sft" / "sft.jsonl")} | evaluation,
    )


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"path": None, "patience": 2}, r"evaluation\.patience needs evaluation\.path"),
        ({"best_by": "avg"}, r"evaluation\.best_by: avg needs evaluation\.samples"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(world, evaluation, message):
    with pytest.raises(ValueError, match=message):
        settings(world, **evaluation)


def test_held_out_rows_are_read_as_data_is_but_for_mixing_and_limit(world):
    config = settings(world, max_samples=7)
    assert len(load_held_out(config)) == 7
    assert load_held_out(config)[3] == load_data(config.data.model_copy(
        update={"path": config.evaluation.path, "probs": None, "max_samples": None}), 0)[3]  # fmt: skip
    with pytest.raises(UserError, match="no gold answer in 'gold'"):
        load_held_out(config.model_copy(update={"data": config.data.model_copy(update={"label_key": "gold"})}))


def test_only_accuracy_and_format_grade():
    own = RewardSettings(functions={"mine.py": 2.0, "format": 0.3}, template="think", workers=2)
    expected = RewardSettings(functions={"accuracy": 1.0, "format": 1.0}, template="think", workers=2)
    assert evaluation_rewards(own) == expected


class Silent:
    version = finished = 0

    def generate(self, prompts, sampling, on_group=None):
        from torch import ones

        from observe_r1.records import Completion

        self.finished += 100  # steps are sampled ahead meanwhile
        for index in range(len(prompts)):
            on_group(index, [Completion(ones(1), ones(1), "?", 0, "stop")] * sampling.n)
        return [[Completion(ones(1), ones(1), "?", 0, "stop")] * sampling.n for _ in prompts]


def test_questions_over_the_prompt_limit_are_counted_and_said_once(world, tmp_path, monkeypatch):
    from observe_r1.records import Prompt

    config, console = settings(world, max_samples=6), Console(file=io.StringIO(), width=200)
    prompt = Prompt(ids=None, token_types=None)

    def encode(example, row):
        if row < short:
            raise PromptTooLongError("too long", tokens=900)
        return replace(prompt, stream=row)

    short = 2
    with RunFolder(tmp_path, config) as folder, Scorer(RewardSettings()) as scorer:
        view, counts = Progress("train", console=console), []
        show = view.now
        monkeypatch.setattr(view, "now", lambda *what: (counts.append(what[2]), show(*what)))
        part = HeldOutEvaluator(config, load_held_out(config), Silent(), encode, scorer, folder, view, lambda: False)
        for step in (0, 20):
            assert part.evaluate(step)["evaluation/accuracy"] == 0
            assert len(lines(folder.evaluations / f"step-{step:06d}.jsonl")) == counts[-1]() == 4
        left_out = "2 of 6 held-out questions are over data.max_prompt_tokens and left out of every evaluation"
        assert console.file.getvalue().splitlines() == ["train: evaluating", left_out]
        short = 6
        with pytest.raises(UserError, match=r"evaluation\.path = .*6 of 6 held-out questions are over"):
            part.evaluate(40)


def test_the_view_keeps_the_latest_figure_and_shows_how_far_an_evaluation_is(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    log = Console(file=io.StringIO(), width=200)
    view = Progress("train", 4, log)
    view.update(0, {"evaluation/accuracy": 0.25, "evaluation/length": 9.0})
    view.update(1, {"reward/mean": 1.0})
    view.update(2, {"reward/mean": 1.0, "evaluation/accuracy": 0.5})
    for line, figure in zip(log.file.getvalue().splitlines(), ("25.0%", "25.0%", "50.0%"), strict=True):
        assert f"held-out {figure}" in line
    panel = Progress("train", 4, Console(file=io.StringIO(), force_terminal=True))

    def drawn():
        console = Console(file=io.StringIO(), width=80, record=True)
        console.print(panel)
        return console.export_text()

    panel.now("evaluating", 2000, lambda: 1128)
    panel.update(1, {"evaluation/accuracy": 0.5})
    assert "evaluating 1,128/2,000" in drawn() and "50.0%" in drawn()
