"""Kill a run at random moments, resume it, and compare with a run that nobody stopped, bit by bit.

Each round starts the same short run of a tiny model, kills the process (SIGKILL) a random time after it has opened its
folder, runs the same command with `--run.resume`, and compares weights, rollouts, evaluations, the best model, and
metrics aside from times.

    python benchmarks/kill_and_resume.py --rounds 100
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
from pathlib import Path

from observe_r1.world.dataset import write_demonstrations, write_questions
from observe_r1.world.tiny_model import make_tiny_model

STEPS = 12


def observe_r1(*words: object) -> list[str]:
    """The command line of `observe-r1`, in a process of its own."""
    return [sys.executable, "-m", "observe_r1.cli.main", *map(str, words)]


def train(world: Path, run: Path) -> list[str]:
    """Adaptive order, dynamic sampling, leftovers, two updates a step; every two steps an evaluation, a checkpoint."""
    paths = ["--data.path", world / "train" / "train.jsonl", "--model.path", world / "warm" / "model"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 40]
    dynamic = ["--rollout.dynamic_sampling", "true", "--rollout.max_age", 3, "--data.order", "adaptive"]
    held_out = ["--evaluation.path", world / "held_out" / "held_out.jsonl", "--evaluation.every", 2]
    evaluation = [*held_out, "--evaluation.samples", 2, "--evaluation.best_by", "avg"]
    learning = ["--optimizer.minibatch", 2, "--optimizer.lr", "1e-4", "--run.threads", 1, "--model.device", "cpu"]
    length = ["--run.steps", STEPS, "--run.save_every", 2, "--run.keep", 2, "--run.output", run]
    return observe_r1("train", *paths, *rollout, *dynamic, *evaluation, *learning, *length)


def results(run: Path) -> dict[str, object]:
    """Everything that must be the same: weights, rollouts and evaluations as bytes, metrics without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="ascii").splitlines()]
    return {
        "metrics": [{k: v for k, v in row.items() if not k.startswith(("time/", "speed/"))} for row in rows],
        **{
            str(path.relative_to(run)): path.read_bytes()
            for pattern in ("rollouts/*", "evaluations/*", "*/model.safetensors", "best.json")
            for path in run.glob(pattern)
        },
    }


def kill_after(command: list[str], run: Path, seconds: float) -> bool:
    """Start `command` and kill it `seconds` after it has opened its folder; False where it had ended by then."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (run / "config.yaml").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
    return process.returncode == -signal.SIGKILL


def main() -> None:
    """Print a line a round and the sum at the end; exit code 1 where a resumed run differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        make_tiny_model(world / "tiny")
        data = write_demonstrations(world / "sft", seed=0, count=200)
        write_questions(world / "train", "train", seed=0, count=200)
        write_questions(world / "held_out", "held_out", seed=0, count=16)
        options = ["--run.steps", 40, "--optimizer.lr", "3e-3", "--run.threads", 1, "--run.output", world / "warm"]
        subprocess.run(
            observe_r1("sft", "--model.path", world / "tiny", "--data.path", data, *options),
            check=True,
            capture_output=True,
        )
        subprocess.run(train(world, world / "unbroken"), check=True, capture_output=True)
        expected = results(world / "unbroken")
        last = json.loads((world / "unbroken" / "metrics.jsonl").read_text(encoding="ascii").splitlines()[-1])
        longest = 1.5 * STEPS * last["time/step"] + 3

        killed = differing = 0
        for number in range(1, arguments.rounds + 1):
            run, seconds = world / "run", moments.uniform(0, longest)
            shutil.rmtree(run, ignore_errors=True)
            was_killed = kill_after(train(world, run), run, seconds)
            resumed = subprocess.run([*train(world, run), "--run.resume"], capture_output=True, text=True, check=False)
            same = resumed.returncode == 0 and results(run) == expected
            killed, differing = killed + was_killed, differing + (not same)
            print(f"{number:>4}  killed after {seconds:5.2f} s  {'same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                print(resumed.stderr)
    print(f"{arguments.rounds} rounds, {killed} killed while running, {differing} differing")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
