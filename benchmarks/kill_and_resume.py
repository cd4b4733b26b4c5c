"""Kill a run at random moments, resume it, and compare it bit by bit with a run that nobody stopped.

Rounds alternate between training all weights, LoRA adapters, and optimizer offload in bfloat16. Each starts a short run
of a tiny model, stops it a random time after it has opened its folder, runs the same command with `--run.resume`, and
compares every file of the final and of the best model, rollouts, evaluations, and metrics except times.

Two of three rounds kill only the process (SIGKILL). The third stops it as service managers and schedulers do: SIGTERM
to the process and everything that it started, and SIGKILL to whatever is left a random time later.

    python benchmarks/kill_and_resume.py --rounds 60
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from observe_r1.demo.dataset import write_demonstrations, write_questions
from observe_r1.demo.tiny_model import make_tiny_model

STEPS = 12
KINDS = {
    "full": ["--optimizer.lr", "1e-4"],
    "lora": ["--model.lora_rank", 4, "--optimizer.lr", "1e-3"],
    "offload": ["--optimizer.offload", "true", "--model.dtype", "bfloat16", "--optimizer.lr", "1e-4"],
}
GRACE = 3.0
"""Seconds, at most, between SIGTERM and SIGKILL."""
TOO_LATE = "had ended"


def observe_r1(*words: object) -> list[str]:
    """Return the command line of `observe-r1` with these words."""
    return [sys.executable, "-m", "observe_r1.cli.main", *map(str, words)]


def train(world: Path, run: Path, kind: str) -> list[str]:
    """Return the command of a run of one of `KINDS`.

    It has everything that a resumed run must restore: adaptive order, dynamic sampling, leftovers, two updates a step,
    a reward file in a process of its own, and an evaluation and a checkpoint every two steps.
    """
    paths = ["--data.path", world / "train" / "train.jsonl", "--model.path", world / "warm" / "model"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 40]
    dynamic = ["--rollout.dynamic_sampling", "true", "--rollout.max_age", 3, "--data.order", "adaptive"]
    held_out = ["--evaluation.path", world / "held_out" / "held_out.jsonl", "--evaluation.every", 2]
    evaluation = [*held_out, "--evaluation.samples", 2, "--evaluation.best_by", "avg"]
    learning = ["--optimizer.minibatch", 2, *KINDS[kind], "--run.threads", 1, "--model.device", "cpu"]
    rewards = ["--rewards.functions", f"accuracy=1,format=1,{world / 'length.py'}=0.01"]
    length = ["--run.steps", STEPS, "--run.save_every", 2, "--run.keep", 2, "--run.output", run]
    return observe_r1("train", *paths, *rollout, *dynamic, *evaluation, *rewards, *learning, *length)


def results(run: Path) -> dict[str, object]:
    """Return all that must be the same: models, rollouts and evaluations as bytes, metrics without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="ascii").splitlines()]
    return {
        "metrics": [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows],
        **{
            str(path.relative_to(run)): path.read_bytes()
            for pattern in ("rollouts/*", "evaluations/*", "model/**/*", "best/**/*", "best.json")
            for path in run.glob(pattern)
            if path.is_file()
        },
    }


@contextmanager
def started(command: list[str], run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start `command` as the head of a process group of its own, and continue once it has opened its folder."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, start_new_session=True) as process:
        while not (run / "config.yaml").exists() and process.poll() is None:
            time.sleep(0.01)
        yield process


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def stop_after(command: list[str], run: Path, seconds: float, grace: float | None) -> str:
    """Start `command`, stop it `seconds` after it has opened its folder, and return how it ended.

    Without `grace` the process is killed. Otherwise it and all that it started receive SIGTERM, and SIGKILL after
    `grace` seconds.
    """
    with started(command, run) as process:
        time.sleep(seconds)
        if process.poll() is None and grace is None:
            process.kill()
        elif process.poll() is None and grace is not None:
            job = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for each in job:
                send(each, signal.SIGTERM)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                for each in job:
                    send(each, signal.SIGKILL)
    ends = {-signal.SIGKILL: "killed", -signal.SIGTERM: "terminated", 130: "saved", 0: TOO_LATE}
    return ends.get(process.returncode, f"exit code {process.returncode}")


def prepare(world: Path) -> None:
    """Write questions, held-out questions, and a model trained on demonstrations."""
    make_tiny_model(world / "tiny")
    (world / "length.py").write_text("def reward(response, answer, example): return len(response) % 7")
    data = write_demonstrations(world / "sft", seed=0, count=200)
    write_questions(world / "train", "train", seed=0, count=200)
    write_questions(world / "held_out", "held_out", seed=0, count=16)
    options = ["--run.steps", 40, "--optimizer.lr", "3e-3", "--run.threads", 1, "--run.output", world / "warm"]
    command = observe_r1("sft", "--model.path", world / "tiny", "--data.path", data, *options)
    subprocess.run(command, check=True, capture_output=True)


def unbroken(world: Path, kind: str) -> tuple[dict[str, object], float]:
    """Return the results of a run that nobody stopped, and how many seconds it took after it had opened its folder."""
    run = world / kind
    with started(train(world, run, kind), run) as process:
        begun = time.monotonic()
        if process.wait():
            sys.exit(f"the unbroken run ended with exit code {process.returncode}")
    return results(run), time.monotonic() - begun


def differences(command: list[str], run: Path, expected: dict[str, object]) -> list[str]:
    """Resume a run, and return which of its results are not as `expected`."""
    resumed = subprocess.run([*command, "--run.resume"], capture_output=True, text=True, check=False)
    if resumed.returncode:
        print(resumed.stderr)
        return [f"exit code {resumed.returncode}"]
    return compare(results(run), expected)


def compare(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """Return the names of what is not as `expected`."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main() -> None:
    """Print a line a round and the total at the end; the exit code is 1 where a resumed run differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    differing = 0
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        prepare(world)
        expected = {kind: unbroken(world, kind) for kind in KINDS}
        for number in range(arguments.rounds):
            kind, run = list(KINDS)[number % len(KINDS)], world / "run"
            to_all = (number // len(KINDS) + number) % 3 == 0
            same, length = expected[kind]
            command, ended = train(world, run, kind), TOO_LATE
            while ended == TOO_LATE:  # then the run was quicker than the one that nobody stopped
                shutil.rmtree(run, ignore_errors=True)
                seconds, grace = moments.uniform(0, length), moments.uniform(0, GRACE)
                ended = stop_after(command, run, seconds, grace if to_all else None)
            different = differences(command, run, same)
            ends[ended] += 1
            differing += bool(different)
            how = f"SIGTERM to all, {grace:.1f} s of grace" if to_all else "SIGKILL"
            verdict = f"DIFFERENT: {', '.join(different)}" if different else "same"
            print(f"{number + 1:>4}  {kind:<8} {how:<31} after {seconds:5.2f} s: {ended:<10} {verdict}", flush=True)
    how = ", ".join(f"{count} {end}" for end, count in ends.items())
    print(f"{arguments.rounds} rounds ({how}), {differing} differing")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
