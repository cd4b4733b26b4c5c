"""The whole build on the world's tiny model: killed, interrupted, refused, gone on with, measured again."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from observe_r1.cli import ladder as ladder_commands
from observe_r1.cli.main import main
from observe_r1.config import LadderSettings, ModelSettings
from observe_r1.ladder import mix
from observe_r1.ladder.folder import locked
from observe_r1.ladder.inference import random_stream
from observe_r1.ladder.questions import read_questions
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Sampling
from observe_r1.rewards import accuracy_reward, format_reward
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.run.progress import Progress

QUESTIONS, N, BATCH = 22, 4, 6
FILES = ("questions", "screening", "screened", "measured", "responses", "dropped", "unsolved", "ladder")


def words(world, output, *options):
    models = ["--model", world / "warm" / "model", "--screen.models", world / "tiny"]
    sizes = ["--data.max_samples", QUESTIONS, "--rollout.group_size", N, "--rollout.batch", BATCH]
    lengths = ["--rollout.max_new_tokens", 40, "--screen.max_new_tokens", 10, "--arrange.min_complexity", 0]
    cpu = ["--data.columns", "kind,level", "--run.threads", 1, "--model.device", "cpu"]
    common = ["ladder", "build", world / "train" / "train.jsonl", "--output", output, *models, *sizes, *lengths, *cpu]
    return [str(word) for word in (*common, *options)]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder):
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A build that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "ladder"
    assert main(words(world, folder)) == 0
    return folder


@pytest.fixture
def quiet(monkeypatch):
    """Without the pages, whose drawing takes longer than a small build."""
    monkeypatch.setattr(ladder_commands, "write_ladder_report", lambda folder: [])


def test_figures_are_those_of_the_responses(whole):
    questions = {row["id"]: row for row in read(whole / "questions.jsonl")}
    responses = read(whole / "responses.jsonl")
    assert len(responses) == N * len(read(whole / "screened.jsonl"))
    for row in read(whole / "measured.jsonl"):
        own = [r for r in responses if r["id"] == row["id"]]
        assert [r["number"] for r in own] == list(range(N)) and row["tries"] == N
        right = [accuracy_reward(r["text"], questions[row["id"]]["answer"]) == 1 for r in own]
        assert [r["correct"] for r in own] == right and row["correct"] == sum(right)
        assert row["difficulty"] == pytest.approx(1 - sum(right) / N)
        assert row["complexity"] == pytest.approx(sum(r["tokens"] for r in own) / N)
        of_correct = [r["tokens"] for r, ok in zip(own, right, strict=True) if ok]
        expected = sum(of_correct) / len(of_correct) if of_correct else None
        assert row["complexity_correct"] == (expected if expected is None else pytest.approx(expected))
        assert row["well_formed"] == sum(format_reward(r["text"]) > 0 for r in own) / N
        assert all((r["tokens"] == 40) >= (r["finish"] == "length") for r in own)


def test_the_ladder_holds_what_was_solved_in_the_order_of_the_mixing_rule(world, whole):
    measured = read(whole / "measured.jsonl")
    levels = [[row for row in measured if row["correct"] == N - level] for level in range(N)] + [[]]
    slots = mix(levels, 0, key=lambda row: row["complexity"])
    ladder = read(whole / "ladder.jsonl")
    assert [(r["id"], r["slot"]) for r in ladder] == [(r["id"], s) for s, slot in enumerate(slots) for r in slot]
    assert len({row["difficulty"] for row in ladder}) >= 3
    asked = {row["id"]: (row["kind"], row["level"]) for row in read(world / "train" / "train.jsonl")}
    assert all((row["kind"], row["level"]) == asked[row["id"]] for row in ladder)
    everywhere = [row["id"] for name in ("ladder", "unsolved", "dropped") for row in read(whole / f"{name}.jsonl")]
    assert len(everywhere) == len(set(everywhere)) == QUESTIONS
    assert yaml.safe_load((whole / "ladder.yaml").read_text())["rollout"]["group_size"] == N
    assert "# " in (whole / "README.md").read_text() and (whole / "ladder.html").exists()


def test_a_screening_model_takes_out_what_it_gets_right(world, tmp_path, whole, quiet):
    """The tiny model that was never trained answers nothing; the warm one is sure to get some right."""
    assert all(row["correct"] == 0 for row in read(whole / "screening.jsonl"))
    options = ["--screen.models", f"{world / 'tiny'},{world / 'warm' / 'model'}", "--screen.max_new_tokens", "40"]
    tries = ["--screen.tries", "3", "--screen.threshold", "2", "--screen.temperature", "1"]
    argv = words(world, tmp_path / "out", *options, *tries)
    assert main(["ladder", "screen", *argv[2 : argv.index("--arrange.min_complexity")], *options, *tries]) == 0
    answers = read(tmp_path / "out" / "screening.jsonl")
    questions = {row["id"]: row for row in read(tmp_path / "out" / "questions.jsonl")}
    first, second = ([row for row in answers if row["model"] == model] for model in options[1].split(","))
    left = set(questions) - {row["id"] for row in first if row["correct"] >= 2}
    assert len(first) == QUESTIONS and {row["id"] for row in second} == left and len(second) == len(left)
    for row in answers:
        gold = questions[row["id"]]["answer"]
        assert row["correct"] == sum(accuracy_reward(text, gold) == 1 for text in row["answers"])
    simple = {row["id"] for row in answers if row["correct"] >= 2}
    assert 0 < len(simple) < QUESTIONS
    assert {row["id"] for row in read(tmp_path / "out" / "dropped.jsonl") if row["reason"] == "simple"} == simple
    assert {row["id"] for row in read(tmp_path / "out" / "screened.jsonl")} == set(questions) - simple


def test_responses_depend_on_item_seed_and_number_alone(world, whole):
    """Drawn again one question at a time, by the engine alone."""
    asked = LadderSettings(data={"format_prompt": "observe"}).data  # as the model's folder says
    vlm = load_model(ModelSettings(path=str(world / "warm" / "model"), device="cpu"), frozen=True)
    engine = EmbeddedEngine(vlm)
    responses = read(whole / "responses.jsonl")
    for example in list(read_questions(whole / "screened.jsonl"))[5:9]:
        prompt = encode_prompt(example, vlm.processor, asked, random_stream(example))
        (group,) = engine.generate([prompt], Sampling(n=N, max_new_tokens=40, seed=0))
        assert [c.text for c in group] == [r["text"] for r in responses if r["id"] == example.id]


MOMENTS = {
    "reading": lambda folder, progress: (folder / "questions.jsonl").exists(),
    "screening": lambda folder, progress: progress.get("screen 1", {}).get("done", 0) >= BATCH,
    "first batch": lambda folder, progress: (folder / "measured.jsonl").exists(),
    "measuring": lambda folder, progress: progress.get("measure", {}).get("done", 0) >= 2 * BATCH,
    "arranging": lambda folder, progress: (folder / "unsolved.jsonl").exists(),
}


def kill_at(moment, folder, argv):
    """Run the command in a process of its own and kill it at the moment; returns how many rows were measured then."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["observe_r1.ladder.building", "observe_r1.cli.ladder"])
    process = context.Process(target=main, args=(argv,))
    process.start()
    while process.is_alive():
        written = folder / "progress.json"
        if MOMENTS[moment](folder, json.loads(written.read_text()) if written.exists() else {}):
            break
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, moment
    for name in ("measured", "responses"):  # as if it had died within a line
        if (folder / f"{name}.jsonl").exists() and moment != "arranging":
            with (folder / f"{name}.jsonl").open("a") as file:
                file.write('{"id": "half')


def test_a_build_killed_at_five_moments_ends_in_the_same_ladder(world, tmp_path, whole):
    folder = tmp_path / "killed"
    for moment in MOMENTS:
        kill_at(moment, folder, words(world, folder))
    assert main(words(world, folder)) == 0
    assert contents(folder) == contents(whole)


def test_what_is_measured_is_not_measured_again(world, tmp_path, whole, quiet, monkeypatch):
    asked, calls = [], []
    generate = EmbeddedEngine.generate

    def counting(self, prompts, sampling, on_group=None):
        calls.append(len(prompts))
        if len(calls) == 6:  # the second batch of the measuring model
            raise KeyboardInterrupt
        asked.extend((sampling.n, prompt.stream) for prompt in prompts)
        return generate(self, prompts, sampling, on_group)

    monkeypatch.setattr(EmbeddedEngine, "generate", counting)
    assert main(words(world, tmp_path / "out")) == 130
    assert main(["ladder", "build", str(tmp_path / "out")]) == 0
    assert set(Counter(asked).values()) == {1} and len(asked) == 2 * QUESTIONS
    assert contents(tmp_path / "out") == contents(whole)


def test_ctrl_c_ends_after_the_batch_and_says_how_to_go_on(world, tmp_path, whole, quiet, monkeypatch, capsys):
    show = Progress.stage

    def interrupt(self, stage, done, total):
        show(self, stage, done, total)
        if stage == "measure" and done == BATCH:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "stage", interrupt)
    assert main(words(world, tmp_path / "out")) == 130
    assert f"measure: {BATCH} of {QUESTIONS} questions; the same command resumes" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(ladder_commands, "write_ladder_report", lambda folder: [])
    assert main(words(world, tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == contents(whole)


def test_other_settings_and_folders_in_use_are_refused_in_one_line(world, tmp_path, whole, capsys):
    def refused(*options):
        assert main(words(world, whole, *options)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "rollout.seed was 0 and is 1 now: use the same value; `observe-r1 ladder refresh" in refused(
        "--rollout.seed", "1"
    )
    assert "data.label_key was 'answer' and is 'gold' now" in refused("--data.label_key", "gold")
    assert "screen.models was" in refused("--screen.models", "")
    assert "arrange.size was None and is 5 now" in refused("--arrange.size", "5")
    assert "observe-r1 ladder arrange" in refused("--arrange.size", "5")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    assert main(words(world, tmp_path / "full")) == 2
    assert "neither empty nor a ladder's folder" in capsys.readouterr().err
    assert main(["ladder", "build", str(world / "train" / "train.jsonl"), "--output", str(tmp_path / "new")]) == 2
    assert "setting 'model.path' is missing" in capsys.readouterr().err
    context = get_context("forkserver")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(whole), ready))
    process.start()
    assert ready.wait(30)
    assert f"process {process.pid} is writing there" in refused()
    process.kill()
    process.join()


@pytest.mark.parametrize("changed", ["warm/model/model.safetensors", "tiny/model.safetensors", "train/train.jsonl"])
def test_a_finished_ladder_is_not_taken_for_one_of_other_weights_or_questions(
    world, tmp_path, whole, quiet, capsys, changed
):
    output, file = shutil.copytree(whole, tmp_path / "ladder"), world / changed
    before = file.stat().st_mtime_ns
    os.utime(file, ns=(before, before + 10**9))
    try:
        assert main(words(world, output)) == 2
    finally:
        os.utime(file, ns=(before, before))
    name = file if file.suffix == ".jsonl" else file.parent
    assert f"{name} changed since the ladder in '{output}' began with it: " in capsys.readouterr().err
    assert contents(output) == contents(whole) and main(words(world, output)) == 0
    assert "ladder.jsonl (it was finished already, so no model was asked)\n" in capsys.readouterr().out


def hold(folder, ready):
    with locked(Path(folder)):
        ready.set()
        time.sleep(60)


def test_a_question_over_the_prompt_limit_is_dropped_and_said(world, tmp_path, quiet, capsys):
    content = [{"type": "text", "text": "red " * 200}]
    long = {"message": [{"role": "user", "content": content}], "answer": "1", "id": "long", "kind": "x", "level": 1}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    argv = words(world, tmp_path / "out", "--data.max_prompt_tokens", "150", "--screen.models", "")
    argv.insert(3, str(tmp_path / "long.jsonl"))
    argv[argv.index("--data.max_samples") + 1] = "6"
    assert main(argv) == 0
    assert "skipped: " in (said := capsys.readouterr().err) and "screened.jsonl row 7: the prompt has " in said
    (dropped,) = [row for row in read(tmp_path / "out" / "dropped.jsonl") if row["id"] == "long"]
    assert (dropped["stage"], dropped["reason"]) == ("measure", "prompt too long")
    assert len(read(tmp_path / "out" / "measured.jsonl")) == 6


def test_the_ladder_is_shown_level_by_level(whole, capsys, quiet):
    assert main(["ladder", "arrange", str(whole)]) == 0
    shown = [line[1:-1].split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    levels = {float(difficulty): (int(count), mean.strip(), bar) for difficulty, count, mean, bar in shown}
    rows = read(whole / "ladder.jsonl")
    counts = Counter(row["difficulty"] for row in rows)
    assert {level: count for level, (count, _, _) in levels.items()} == {i / N: counts[i / N] for i in range(N + 1)}
    for level, (count, mean, bar) in levels.items():
        assert bar.count("█") == pytest.approx(30 * count / max(counts.values()), abs=1)
        tokens = [row["complexity"] for row in rows if row["difficulty"] == level]
        assert mean == (f"{sum(tokens) / count:.0f}" if count else "")


def test_refresh_measures_again_and_shows_what_moved(world, whole, capsys, quiet):
    before = contents(whole)
    assert main(["ladder", "refresh", str(whole), "--model", str(world / "tiny")]) == 0
    printed = capsys.readouterr().out
    ladder = read(whole / "ladder.jsonl") + read(whole / "unsolved.jsonl")
    assert contents(whole) == before and "was \\ is" in printed
    again = read(whole / "refreshed-1" / "measured.jsonl")
    assert [row["id"] for row in again] == [row["id"] for row in ladder]
    harder = sum(new["difficulty"] > old["difficulty"] for new, old in zip(again, ladder, strict=True))
    assert f"{harder:,} harder" in printed and harder > 0
    assert main(["ladder", "refresh", str(whole), "--model", str(world / "warm" / "model")]) == 0
    newest = read(whole / "refreshed-2" / "measured.jsonl")
    old = {row["id"]: row for row in read(whole / "measured.jsonl")}
    assert sum(row["difficulty"] == old[row["id"]]["difficulty"] for row in newest) >= 0.8 * len(newest)
    assert main(["ladder", "arrange", str(whole), "--arrange.measured", "refreshed-2"]) == 0
    assert {row["id"] for row in read(whole / "ladder.jsonl")} <= {row["id"] for row in ladder}
    assert main(["ladder", "arrange", str(whole), "--arrange.measured", "."]) == 0
    assert contents(whole) == before


def test_a_stage_is_done_anew_where_asked_for(world, tmp_path, whole, quiet):
    argv = words(world, tmp_path / "out", "--data.max_samples", "10")
    assert main(argv) == 0
    first = contents(tmp_path / "out")
    assert main(["ladder", "measure", str(tmp_path / "out"), "--rollout.seed", "1"]) == 2
    assert main(["ladder", "measure", str(tmp_path / "out"), "--seed", "1", "--anew"]) == 0
    assert main(["ladder", "arrange", str(tmp_path / "out")]) == 0
    second = contents(tmp_path / "out")
    assert second["screened"] == first["screened"] and second["responses"] != first["responses"]
    assert main(["ladder", "measure", str(tmp_path / "out"), "--seed", "0", "--anew"]) == 0
    assert main(["ladder", "arrange", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == first


def test_sources_are_listed(capsys):
    assert main(["ladder", "sources"]) == 0
    assert "mathvision" in capsys.readouterr().out
