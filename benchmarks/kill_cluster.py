"""Kill ranks and engines of one run at random moments, and compare its end with that of a run that nobody disturbed.

Both runs are the same command: two policy ranks and one engine, on the CPU, a checkpoint every step. Again and again a
random process of the second one, rank or engine, receives SIGKILL, a random time after the run has recovered from the
last kill. Nobody restarts anything: the run does. At the end every question must have been sampled as often as in the
undisturbed run. Each response is drawn with the same random numbers, so texts, rewards and advantages must be the same,
too, but for a token in a great many: a dead engine's prompts are sampled again in another batch, float32 rounds
otherwise there, and a draw that lies between two tokens may fall on the other side. So at most 1 % of the responses may
be lost, added or different.

Seconds to recover are from the kill to the first checkpoint after all processes are back.

    python benchmarks/kill_cluster.py --kills 20
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch
from kill_and_resume import observe_r1, prepare
from safetensors.torch import load_file

VICTIMS = ("PolicyRank", "Engine")
"""How the names of the processes begin that are killed, as Ray shows them."""
PROCESSES = 3
"""Ranks and engines together."""
_LONGEST_RECOVERY = 300.0


def train(world: Path, run: Path, steps: int) -> list[str]:
    """Return the command of a run."""
    paths = ["--data.path", world / "train" / "train.jsonl", "--model.path", world / "warm" / "model"]
    rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 40]
    dynamic = ["--rollout.dynamic_sampling", "true", "--rollout.max_age", 3]
    held_out = ["--evaluation.path", world / "held_out" / "held_out.jsonl", "--evaluation.every", 4]
    learning = ["--optimizer.minibatch", 2, "--optimizer.lr", "1e-4", "--run.threads", 1, "--model.device", "cpu"]
    cluster = ["--cluster.gpus", 2, "--cluster.engines", 1, "--cluster.restarts", 1000, "--cluster.dashboard", "null"]
    length = ["--run.steps", steps, "--run.save_every", 1, "--run.keep", 2, "--run.output", run]
    return observe_r1("train", *paths, *rollout, *dynamic, *held_out, *learning, *cluster, *length)


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint; 0 where there is none."""
    names = [path.name.removeprefix("step-") for path in run.glob("checkpoints/step-??????")]
    return max(map(int, names), default=0)


def victims(command: psutil.Process) -> list[psutil.Process]:
    """Return the ranks and engines of a run."""
    found = []
    for process in command.children(recursive=True):
        try:
            name = process.cmdline()[:1]
        except psutil.NoSuchProcess:
            continue
        if name and name[0].startswith(tuple(f"ray::{victim}" for victim in VICTIMS)):
            found.append(process)
    return found


def undisturbed(world: Path, run: Path, steps: int) -> float:
    """Make the run that nobody disturbs, and return how many seconds one of its steps takes."""
    with subprocess.Popen(train(world, run, steps), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        begun: float | None = None
        while process.poll() is None:
            if begun is None and newest(run):
                begun = time.monotonic()
            time.sleep(0.01)
    if process.returncode or begun is None:
        sys.exit(f"the undisturbed run ended with exit code {process.returncode}")
    return (time.monotonic() - begun) / (steps - 1)


class Killer:
    """Disturbs one run.

    Args:
        run: Its folder.
        moments: Where the random moments come from.
        step: Seconds of one of its steps.
    """

    def __init__(self, run: Path, moments: random.Random, step: float) -> None:
        self.run, self.moments, self.step = run, moments, step
        self.recoveries: list[float] = []

    def disturb(self, process: "subprocess.Popen[str]", steps: int, kills: int) -> None:
        """Kill one of the run's processes after the other, until the run has ended."""
        there = self._recovered(process, set())
        for number in range(kills):
            time.sleep(self.moments.uniform(0, 2 * self.step))
            done = newest(self.run)
            if process.poll() is not None or done >= steps - 1:
                break
            victim = self.moments.choice(there)
            name = victim.cmdline()[0].removeprefix("ray::").split(".")[0]
            victim.kill()
            killed = time.monotonic()
            there = self._recovered(process, {victim})
            if not there:
                break
            self.recoveries.append(time.monotonic() - killed)
            print(f"{number + 1:>4}  {name:<12} after step {done:>3}: {self.recoveries[-1]:5.1f} s", flush=True)

    def _recovered(self, process: "subprocess.Popen[str]", lost: set[psutil.Process]) -> list[psutil.Process]:
        """Wait for all processes, none of them lost, and then a checkpoint; return them, or none if the run ends."""
        until = time.monotonic() + _LONGEST_RECOVERY
        there: list[psutil.Process] = []
        done: int | None = None
        while done is None or newest(self.run) <= done:
            if process.poll() is not None:
                return []
            if time.monotonic() > until:
                process.kill()
                sys.exit(f"the run has not recovered in {_LONGEST_RECOVERY:.0f} s")
            found = victims(psutil.Process(process.pid))
            if found != there:
                there = found
                done = newest(self.run) if len(found) == PROCESSES and not lost & set(found) else None
            time.sleep(0.2)
        return there


def rows(run: Path) -> Counter[tuple[str, str]]:
    """Return what a run wrote about its responses: step and line."""
    return Counter((path.name, line) for path in run.glob("rollouts/*") for line in path.read_text().splitlines())


def questions(rows: Counter[tuple[str, str]]) -> Counter[tuple[str, str, int]]:
    """Return how often each question was sampled in each step, by the number of the response."""
    return Counter((step, row["id"], row["response"]) for step, line in rows.elements() for row in [json.loads(line)])


def change(run: Path, begin: Path) -> torch.Tensor:
    """Return by how much a run changed the model it began with."""
    before, after = (read_weights(folder) for folder in (begin, run / "model"))
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in sorted(before)])


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint, by name."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def main() -> None:
    """Print a line a kill and the total at the end; the exit code is 1 if the disturbed run ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the run; by default three a kill, and two more")
    arguments = parser.parse_args()
    steps = arguments.steps or 3 * arguments.kills + 2
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        prepare(world)
        step = undisturbed(world, world / "undisturbed", steps)
        killer = Killer(world / "run", random.Random(arguments.seed), step)
        command = train(world, world / "run", steps)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            killer.disturb(process, steps, arguments.kills)
            said = process.communicate()[1]
        found, expected = rows(world / "run"), rows(world / "undisturbed")
        undisturbed_change = change(world / "undisturbed", world / "warm" / "model")
        apart = change(world / "run", world / "warm" / "model") - undisturbed_change
    lost = (questions(expected) - questions(found)).total()
    added = (questions(found) - questions(expected)).total()
    differing = (found - expected).total()
    if process.returncode:
        print(said)
    times = killer.recoveries or [0.0]
    print(
        f"{len(killer.recoveries)} kills in {steps} steps of {step:.1f} s: recovered in {statistics.median(times):.1f} "
        f"s (median; {min(times):.1f} to {max(times):.1f}); exit code {process.returncode}; {expected.total():,} "
        f"responses, {lost} lost, {added} too many, {differing} differ; "
        f"the weights' change differs by {apart.norm() / undisturbed_change.norm():.1e}"
    )
    wrong = process.returncode or max(lost, added, differing) > 0.01 * expected.total()
    sys.exit(bool(wrong) or len(killer.recoveries) < arguments.kills)


if __name__ == "__main__":
    main()
