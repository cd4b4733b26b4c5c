"""The command itself on the world's tiny model: warm start, training, what is written, and what is refused."""

import ast
import errno
import json
import math
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

from observe_r1.cli.main import main
from observe_r1.config import DataSettings, ModelSettings, TrainSettings
from observe_r1.data import FORMAT_PROMPTS, load_data
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Example, Sampling
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.run.folder import RunFolder
from observe_r1.run.next_steps import snippet

CPU = ["--run.threads", "1", "--model.device", "cpu"]


def run_sft(world, output, *options):
    common = ["sft", "--model.path", world / "tiny", "--data.path", world / "sft" / "sft.jsonl", "--run.output", output]
    return main([*map(str, common), *CPU, "--optimizer.lr", "3e-3", *options])


def run_train(world, output, *options):
    common = ["train", "--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    sizes = ["--rollout.prompts", "4", "--rollout.group_size", "4", "--rollout.max_new_tokens", "40"]
    learning = ["--optimizer.minibatch", "2", "--optimizer.lr", "1e-4", *CPU]
    return main([*map(str, common), *sizes, *learning, "--run.output", str(output), *options])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_warm_start_learns(world):
    loss = [row["sft/loss"] for row in lines(world / "warm" / "metrics.jsonl")]
    assert len(loss) == 40 and loss[0] > 5 and sum(loss[-5:]) / 5 < 2


def test_training_writes_everything_and_the_model_loads(world, tmp_path, capsys):
    output = tmp_path / "run"
    assert run_train(world, output, "--run.steps", "3", "--run.tensorboard", "true") == 0
    assert f"done after step 3: model in {output / 'model'}" in capsys.readouterr().out

    metrics = lines(output / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3]
    for name in (
        "reward/accuracy",
        "response/length",
        "response/truncated",
        "response/well_formed",
        "rollout/groups_used",
        "policy/entropy",
        "policy/clip_fraction",
        "policy/approx_kl",
        "policy/grad_norm",
        "policy/sampler_difference",
        "speed/sampling_tokens_per_s",
        "speed/updating_tokens_per_s",
    ):
        assert all(math.isfinite(m[name]) for m in metrics), name
    assert all(m["policy/sampler_difference"] < 1e-5 for m in metrics)
    assert list((output / "tensorboard").iterdir())

    rollouts = lines(output / "rollouts" / "step-000001.jsonl")
    assert len(rollouts) == 4 * 4
    assert {"id", "text", "reward", "correct", "advantage", "weight", "parts", "version"} <= set(rollouts[0])
    assert all((row["read_as"] is None) is row["correct"] for row in rollouts)
    recorded = yaml.safe_load((output / "config.yaml").read_text())
    assert recorded["run"]["steps"] == 3
    assert recorded["model"]["dtype"] == "float32"  # what `auto` was on this machine
    assert recorded["rewards"]["template"] == "observe"  # what the prompt asks for

    trained = AutoModelForImageTextToText.from_pretrained(output / "model")
    before = AutoModelForImageTextToText.from_pretrained(world / "warm" / "model")
    assert AutoProcessor.from_pretrained(output / "model").tokenizer.eos_token
    changed = [not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.parametrize("place", ["system", "suffix"])
def test_the_snippet_that_is_printed_runs_and_asks_as_training_did(world, tmp_path, capsys, place):
    place = ["--data.format_prompt_place", place]
    assert run_train(world, tmp_path / "run", "--run.steps", "1", "--data.max_samples", "8", *place) == 0
    printed = capsys.readouterr().out
    code, _, rest = printed.partition("load it, in Python:\n\n")[2].partition("\n\nevaluate it: ")
    assert f"`observe-r1 report {tmp_path / 'run'}`" in rest
    assert FORMAT_PROMPTS["observe"] in code and "HELD_OUT.jsonl --against" in printed
    exec(code, {})
    said = capsys.readouterr().out.strip()

    path = str(world / "train" / "train.jsonl")
    data = DataSettings(path=path, format_prompt_place=place[1], max_samples=8)
    vlm = load_model(ModelSettings(path=str(tmp_path / "run" / "model"), device="cpu"), frozen=True)
    prompt = encode_prompt(load_data(data, 0)[0], vlm.processor, data)
    ((expected,),) = EmbeddedEngine(vlm).generate([prompt], Sampling(temperature=0, max_new_tokens=40))
    assert said == expected.text.strip() and said.startswith("<observe>")


def test_a_snippet_is_harmless_whatever_a_question_holds(world):
    question = "a \"quote\" 'and' \\ \x1b[2J {braces} \u2028 \ud800 end"
    for images in (("/a/pic'ture\n.png", b"bytes"), ("https://host/x.png", "data:image/png;base64,AA"), ()):
        content = [*[{"type": "image"} for _ in images], {"type": "text", "text": question}]
        example = Example("x", ({"role": "user", "content": content},), images, "1")
        settings = TrainSettings(model={"path": "m", "dtype": "bfloat16"}, data={"path": "d"})
        code = snippet(settings, example, "cuda")
        assert all(char.isprintable() or char == "\n" for char in code)
        assert (
            ast.literal_eval(code.partition("chat = ")[2].partition("\nimages")[0])[1]["content"][-1]["text"]
            == question
        )
        assert "dtype='bfloat16').to('cuda')" in code and code.count("Image.open(") == len(images)
    long = replace(example, messages=({"role": "user", "content": [{"type": "text", "text": "x" * 9999}]},))
    assert "xxx" not in snippet(settings, long, "cpu") and "Your question?" in snippet(settings, long, "cpu")


@pytest.mark.parametrize("room_for_the_model", [True, False])
def test_a_disk_that_is_full_ends_the_run_in_one_line(world, tmp_path, capsys, monkeypatch, room_for_the_model):
    """Whatever was being written, what was learned so far is saved if it can be."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "somewhere"))

    def later(self, step, rows):
        return write(self, step, rows) if step < 3 else full()

    write = RunFolder.write_rollouts
    monkeypatch.setattr(RunFolder, "write_rollouts", later)
    if not room_for_the_model:
        monkeypatch.setattr("observe_r1.model.saving.replacing", full)
    assert run_train(world, tmp_path / "run", "--run.steps", "9") == 2
    what = f"its model is in {tmp_path / 'run' / 'model'}" if room_for_the_model else "its model cannot be saved either"
    refuse(capsys, "somewhere': No space left on device (stopped after step 2, ", what, "; there is no checkpoint yet)")
    assert (tmp_path / "run" / "model").exists() == room_for_the_model


def timeless(metrics):
    return [{k: v for k, v in m.items() if not k.startswith(("time/", "speed/"))} for m in metrics]


def test_the_written_settings_repeat_the_run(world, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_train(world, first, "--run.steps", "2", "--rollout.dynamic_sampling", "true") == 0
    assert main(["train", str(first / "config.yaml"), "--run.output", str(second)]) == 0
    assert timeless(lines(first / "metrics.jsonl")) == timeless(lines(second / "metrics.jsonl"))
    for name in ("step-000001.jsonl", "step-000002.jsonl"):
        assert (first / "rollouts" / name).read_bytes() == (second / "rollouts" / name).read_bytes()


def test_a_run_in_prompts_draws_each_prompt_once(world, tmp_path):
    assert run_train(world, tmp_path / "run", "--run.prompts", "10", "--data.order", "random") == 0
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["rollout/prompts_drawn"] for m in metrics] == [4, 8, 10]
    assert metrics[-1]["progress"] == 1
    ids = {row["id"] for path in (tmp_path / "run" / "rollouts").iterdir() for row in lines(path)}
    assert len(ids) == 10


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_kl_keeps_the_policy_near_the_starting_model(world, tmp_path, place):
    def divergence(coefficient):
        output = tmp_path / coefficient
        kl = ["--objective.kl_in", place, "--objective.kl_estimator", "k3", "--objective.kl_coef", coefficient]
        options = ["--run.steps", "10", "--data.order", "random", "--optimizer.lr", "1e-3"]
        assert run_train(world, output, *options, *kl) == 0
        return [m["policy/reference_kl"] for m in lines(output / "metrics.jsonl")]

    free, bound = divergence("1e-9"), divergence("10")
    assert free[0] == pytest.approx(0, abs=1e-5) == bound[0]
    assert sum(free) > 1.5 * sum(bound)


def test_bfloat16_computes_on_float32_weights(world, tmp_path):
    options = ["--run.steps", "2", "--data.order", "random", "--model.dtype", "bfloat16"]
    assert run_train(world, tmp_path / "run", *options, "--model.gradient_checkpointing", "true") == 0
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert all(0 < m["policy/sampler_difference"] < 0.01 for m in metrics)
    trained = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")
    assert {p.dtype for p in trained.parameters()} == {torch.float32}


def test_ctrl_c_saves_after_the_step_and_a_second_one_stops_at_once(world, tmp_path, capfd, monkeypatch):
    from observe_r1.run.progress import Progress

    def interrupt(*signals):
        def update(self, step, metrics):
            if step == 2:
                for each in signals:
                    signal.raise_signal(each)

        monkeypatch.setattr(Progress, "update", update)

    for each in (signal.SIGINT, signal.SIGTERM):  # schedulers and containers send the latter
        run = tmp_path / each.name
        interrupt(each)
        assert run_train(world, run, "--run.steps", "9") == 130
        printed = capfd.readouterr()
        assert "interrupted after step 2: model in" in printed.out and "Ctrl-C stops at once" in printed.err
        assert len(lines(run / "metrics.jsonl")) == 2
        assert AutoModelForImageTextToText.from_pretrained(run / "model")
    interrupt(signal.SIGINT, signal.SIGINT)
    assert run_train(world, tmp_path / "twice", "--run.steps", "9") == 130
    assert not (tmp_path / "twice" / "model").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_learned_before_a_bad_row_is_saved(world, tmp_path, capsys):
    rows = (world / "train" / "train.jsonl").read_text().splitlines()[:8]
    bad = [json.loads(row) for row in rows]
    for row in bad:  # the pictures stand beside the original file
        row["message"] = row["message"].replace("images/", f"{world}/train/images/")
    bad[6]["answer"] = "one of those answers that nobody could ever verify by comparing"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    assert run_train(world, tmp_path / "run", "--data.path", str(path)) == 2
    refuse(capsys, "rows.jsonl row 7", "cannot be verified", "stopped after step 1, its model is in")
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model")


def test_dropped_prompts_are_counted_at_the_end(world, tmp_path, capsys):
    long = json.dumps({"message": [{"role": "user", "content": "red " * 90}], "answer": "1"})
    demonstration = [{"role": "user", "content": "red " * 90}, {"role": "assistant", "content": "x"}]
    (tmp_path / "long.jsonl").write_text(long + "\n")
    (tmp_path / "demo.jsonl").write_text(json.dumps({"message": demonstration}) + "\n")
    train = f"{tmp_path / 'long.jsonl'},{world / 'train' / 'train.jsonl'}"
    sft = f"{tmp_path / 'demo.jsonl'},{world / 'sft' / 'sft.jsonl'}"
    short = ["--data.max_prompt_tokens", "90", "--run.steps", "1"]
    assert run_train(world, tmp_path / "a", "--data.path", train, *short) == 0
    assert run_sft(world, tmp_path / "b", "--data.path", sft, *short) == 0
    printed = capsys.readouterr()
    assert printed.out.count("; 1 prompts over data.max_prompt_tokens were dropped") == 2
    assert "dropped: " in printed.err and "long.jsonl row 1: the prompt has " in printed.err


def refuse(capsys, *pieces):
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("observe-r1: error: ")
    for piece in pieces:
        assert piece in error, error
    return error


def test_bad_input_is_one_line_and_leaves_nothing(world, tmp_path, capsys):
    output = tmp_path / "run"

    def bad(name, rows):
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return ["--data.path", str(path), "--run.steps", "2"]

    text = [{"role": "user", "content": "How many?"}]
    picture = [{"role": "user", "content": [{"type": "image", "image": "missing.png"}]}]
    cases = [
        (["--data.path", str(tmp_path / "none.jsonl")], ["none.jsonl: no such file"]),
        (bad("a.jsonl", [{"message": text, "answer": "1"}, "{broken"]), ["a.jsonl", "line 2"]),
        (bad("b.jsonl", [{"message": "hello", "answer": "1"}]), ["b.jsonl row 1", "message"]),
        (bad("c.jsonl", [{"message": picture, "answer": "1"}]), ["c.jsonl row 1", "missing.png"]),
        (
            bad("f.jsonl", [{"message": text, "answer": "because it is so much longer than all of the others here"}]),
            ["f.jsonl row 1", "cannot be verified"],
        ),
        (bad("d.jsonl", [""]), ["d.jsonl", "empty"]),
        (["--objective.bonuss", "1"], ["--objective.bonuss", "did you mean"]),
        (["--objective.bonus", "much"], ["objective.bonus", "'much'"]),
        (["--model.path", str(tmp_path)], ["model.path", str(tmp_path)]),
        (["--data.max_prompt_tokens", "5", "--run.steps", "2"], ["every prompt is over data.max_prompt_tokens"]),
        (["--optimizer.lr", "1e30", "--run.steps", "9"], ["not finite", "optimizer.lr"]),
        (["--data.max_prompt_tokens", "5", "--run.prompts", "4"], ["every prompt is over"]),
        (["--run.seed", "-1"], ["run.seed", "'-1'"]),
        (["--run.epochs", "inf"], ["run.epochs", "finite"]),
        (["--optimizer.betas", "1,1"], ["optimizer.betas", "less than 1"]),
        (["--rollout.top_p", "0.9"], ["rollout.top_p", "old_logprobs: policy"]),
    ]
    for options, pieces in cases:
        shutil.rmtree(output, ignore_errors=True)
        assert run_train(world, output, *options) == 2, options
        refuse(capsys, *pieces)
        assert not output.exists() or not list(output.iterdir()), options
    broken = tmp_path / "e.jsonl"
    (tmp_path / "page.png").write_text("<html>not found</html>")
    picture[0]["content"][0]["image"] = "page.png"
    broken.write_text(json.dumps({"message": picture, "answer": "1"}) + "\n")
    assert run_train(world, output, "--data.path", str(broken), "--run.steps", "2") == 2
    refuse(capsys, "e.jsonl row 1", "page.png")


def test_demonstrations_are_needed_for_sft(world, tmp_path, capsys):
    assert run_sft(world, tmp_path / "x", "--data.path", str(world / "train" / "train.jsonl")) == 2
    refuse(capsys, "train.jsonl row 1", "assistant turn")


def test_training_says_that_it_leaves_demonstrations_out(world, tmp_path, capsys):
    too_short = ["--run.prompts", "1"]  # so that it ends before a model is loaded
    for name, said in (("sft", 1), ("train", 0)):
        assert run_train(world, tmp_path / "x", "--data.path", str(world / name / f"{name}.jsonl"), *too_short) == 2
        line = f"{name}.jsonl row 1: the chat ends with an assistant turn, a demonstration: it is left out"
        assert capsys.readouterr().err.count(line) == said
