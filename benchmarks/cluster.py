"""What spreading a run over processes costs: Ray, FSDP2, the transfer of weights, and a killed process.

`step`: one rank and one engine on Ray against the same model in one process, at the race's size (`race.py`): the parts
of a step, the step as a whole, and what handing its batch over takes. *FSDP2* is a sharded policy in this process,
without Ray. Repetitions are interleaved; a ratio is the median of each repetition's. Both sides compute on as many
threads, and one at a time.

`publish`: seconds to hand new weights from the ranks to the engines, by their bytes.

`recovery`: a run whose engine, and later whose rank, is killed in the middle of a step: seconds from the kill to the
end of the next step that ends, beyond what a step takes.

    python benchmarks/cluster.py                            everything: half an hour on two cores
    python benchmarks/cluster.py --only step --tokens 280   one of them, at one length of prompts
    python benchmarks/cluster.py --tiny                     whether it runs
"""

import argparse
import json
import os
import pickle
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from racing.models import SMALL
from racing.our_side import given_batch
from racing.set_up import questions
from racing.timing import seconds
from racing.work import random_responses, script
from torch import distributed

from observe_r1.cluster.placement import open_ray
from observe_r1.cluster.sharded_policy import ShardedPolicy
from observe_r1.cluster.start import start_on_ray
from observe_r1.config import ClusterSettings, TrainSettings
from observe_r1.demo.dataset import write_questions
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Prompt, TrainingBatch
from observe_r1.rollout.engine import sampling_of
from observe_r1.training.parts import Parts, start_here

GRIDS = {280: (28, 32), 1050: (62, 64)}
"""About so many prompt tokens: the image's (height, width) in patches."""
PROMPTS, RESPONSES = 4, 8
TINY = Sizes()
PUBLISHED = {"small": SMALL, "deep": replace(SMALL, layers=60), "wide": replace(SMALL, width=1280, mlp=4096, layers=12)}
"""Models whose weights are published, by name."""
RECOVERY_STEPS, ENGINE_DIES, RANK_DIES = 12, 4, 8
REWARD = "def reward_func(queries, prompts, labels):\n    return [float(len(query) % 2) for query in queries]\n"
Row = dict[str, Any]


def quiet(*_: object) -> str:
    """Tell nobody."""
    return ""


def spread(settings: TrainSettings, arguments: argparse.Namespace, **cluster: Any) -> TrainSettings:
    """Return the settings with the section `cluster`, and threads for every process."""
    run = settings.run.model_copy(update={"threads": arguments.threads})
    return settings.model_copy(update={"cluster": ClusterSettings(dashboard=None, **cluster), "run": run})


@contextmanager
def on_ray(settings: TrainSettings) -> Iterator[Parts]:
    """Start Ray and a run's parts on it."""
    Path(settings.run.output).mkdir(parents=True, exist_ok=True)
    with (
        open_ray(settings.cluster, settings.model.device),
        start_on_ray(settings, quiet, quiet, lambda: False) as parts,
    ):
        yield parts


@contextmanager
def one_rank(settings: TrainSettings) -> Iterator[ShardedPolicy]:
    """Give a sharded policy in this process, the only rank of its group."""
    backend = "gloo" if settings.model.device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        dtype = getattr(torch, settings.model.dtype)
        vlm = load_model(settings.model)
        yield ShardedPolicy(vlm, settings.optimizer, settings.objective, settings.cluster, dtype=dtype)
    finally:
        distributed.destroy_process_group()


def step(arguments: argparse.Namespace) -> Iterator[Row]:
    """The parts of a step on one rank: four prompts, eight responses each."""
    sizes, longest, scale = (TINY, 24, 0.1) if arguments.tiny else (SMALL, 600, 1.0)
    for length in arguments.tokens:
        with (
            questions(sizes, GRIDS[length], PROMPTS, longest=longest, device=arguments.device) as (settings, examples),
            ExitStack() as stack,
        ):
            settings = spread(settings, arguments, gpus=1)
            here = start_here(settings, quiet, quiet, quiet)
            prompts = [encode_prompt(each, here.processor, settings.data, i) for i, each in enumerate(examples)]
            given = script(PROMPTS, RESPONSES, "real", scale=scale)
            vocabulary, end = here.policy.vlm.model.config.text_config.vocab_size, here.policy.vlm.stop_ids[0]
            batch = batch_of(prompts, random_responses(given, vocabulary, end))
            there, sharded = stack.enter_context(on_ray(settings)), stack.enter_context(one_rank(settings))
            sides = sides_of(settings, here, there, sharded, prompts, batch)
            given_tokens = f"{len(prompts[0].ids)} prompt tokens"
            yield from parts_of_a_step(given_tokens, sides, arguments.repetitions, len(pickle.dumps(batch)))


def sides_of(
    settings: TrainSettings,
    here: Parts,
    there: Parts,
    sharded: ShardedPolicy,
    prompts: Sequence[Prompt],
    batch: TrainingBatch,
) -> dict[str, dict[str, Callable[[], object]]]:
    """Return what is timed, by part and side; `call` asks the policy for nothing."""
    policies = {"embedded": here.policy, "FSDP2": sharded, "Ray and FSDP2": there.policy}
    on = {"embedded": here, "Ray and FSDP2": there}
    sampling = sampling_of(settings.rollout, n=RESPONSES, seed=0)
    asked = groups(batch)
    return {
        "call": {name: partial(policy.logprobs, ()) for name, policy in policies.items()},
        "handing over": {"Ray and FSDP2": handing_over(batch)},
        "publishing": {name: partial(parts.sync.publish, 1) for name, parts in on.items()},
        "logprobs": {name: partial(policy.logprobs, asked) for name, policy in policies.items()},
        "update": {name: partial(policy.update, batch) for name, policy in policies.items()},
        "sampling": {name: partial(parts.engine.generate, prompts, sampling) for name, parts in on.items()},
    }


def parts_of_a_step(
    case: str, sides: dict[str, dict[str, Callable[[], object]]], repetitions: int, batch_bytes: int
) -> Iterator[Row]:
    """Time every part on every side in turn, the first round to warm up; the step is the sum of its parts."""
    measured: dict[str, dict[str, list[float]]] = {part: {name: [] for name in runs} for part, runs in sides.items()}
    worked: dict[str, dict[str, list[float]]] = {part: {name: [] for name in runs} for part, runs in sides.items()}
    for turn in range(repetitions + 1):
        for part, runs in sides.items():
            for name in list(runs)[:: -1 if turn % 2 else 1]:
                before = processor_seconds()
                measured[part][name].append(seconds(runs[name]))
                worked[part][name].append(processor_seconds() - before)
    measured, worked = (
        {part: {name: times[1:] for name, times in each.items()} for part, each in kind.items()}
        for kind in (measured, worked)
    )
    whole = ("sampling", "update", "publishing")
    for kind in (measured, worked):
        kind["step"] = {
            name: [sum(times) for times in zip(*(kind[part][name] for part in whole), strict=True)]
            for name in ("embedded", "Ray and FSDP2")
        }
    for part, each in measured.items():
        row = {"measure": "step", "case": case, "part": part, "seconds": medians(each), "all": rounded(each)}
        row["processor"] = rounded(worked[part])
        if "embedded" in each and part not in ("publishing", "call"):
            row["added"], row["added work"] = added(each), added(worked[part])
        yield row | ({"bytes": batch_bytes} if part == "handing over" else {})


def added(measured: dict[str, list[float]]) -> dict[str, float]:
    """Return what each side takes beyond `embedded`, as a share of that: the median over repetitions."""
    return {
        name: round(statistics.median(a / b for a, b in zip(times, measured["embedded"], strict=True)) - 1, 4)
        for name, times in measured.items()
        if name != "embedded"
    }


def processor_seconds() -> float:
    """Return the processor time of this process and of all that it has started: a busy machine changes it little."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))


def batch_of(prompts: Sequence[Prompt], responses: Sequence[torch.Tensor]) -> TrainingBatch:
    """Return a batch in which every second response of a prompt is better than the others."""
    advantages = torch.tensor([1.0, -1.0]).repeat(len(prompts), len(responses) // len(prompts) // 2)
    return given_batch(prompts, responses, advantages)


def groups(batch: TrainingBatch) -> list[Any]:
    """Return the groups that a batch trains on."""
    return [each.group for each in batch.groups]


class Reader:
    """A process that takes a batch."""

    def take(self, batch: TrainingBatch) -> int:
        """Return the number of its groups."""
        return len(batch.groups)


def handing_over(batch: TrainingBatch) -> Callable[[], object]:
    """Return what puts the batch into Ray's store and lets another process read it."""
    reader = ray.remote(Reader).options(num_cpus=0).remote()
    return lambda: ray.get(reader.take.remote(ray.put(batch)))


def publish(arguments: argparse.Namespace) -> Iterator[Row]:
    """Models of several sizes, on one rank and one engine and on two of each."""
    models = {"tiny": TINY} if arguments.tiny else PUBLISHED
    for name, sizes in models.items():
        for gpus in (1, 2) if name in ("tiny", "small") else (1,):
            with questions(sizes, GRIDS[280], 1, device=arguments.device) as (settings, _):
                vlm = load_model(settings.model, frozen=True)
                size = sum(weight.nbytes for weight in vlm.model.parameters())
                del vlm
                with on_ray(spread(settings, arguments, gpus=gpus)) as parts:
                    times = [seconds(lambda: parts.sync.publish(1)) for _ in range(arguments.repetitions + 1)][1:]
            case = f"{name}, {gpus} rank{'s' * (gpus > 1)} and as many engines"
            measured = {"publish": times}
            yield {
                "measure": "publish",
                "case": case,
                "bytes": size,
                "seconds": medians(measured),
                "all": rounded(measured),
            }


def recovery(arguments: argparse.Namespace) -> Iterator[Row]:
    """A run of small steps that saves after each, killed twice."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_tiny_model(folder / "model", sizes=TINY if arguments.tiny else SMALL)
        write_questions(folder / "train", "train", seed=0, count=64)
        (folder / "reward.py").write_text(REWARD)
        paths = ["--model.path", model, "--data.path", folder / "train" / "train.jsonl", "--run.output", folder / "run"]
        rollout = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 60]
        learning = ["--rewards.functions", f"{folder / 'reward.py'}=1", "--optimizer.minibatch", 4]
        length = ["--run.steps", RECOVERY_STEPS, "--run.save_every", 1, "--run.threads", arguments.threads]
        place = ["--model.device", arguments.device, "--cluster.gpus", 1, "--cluster.dashboard", "null"]
        words = ["train", *paths, *rollout, *learning, *length, *place]
        command = [sys.executable, "-m", "observe_r1.cli.main", *map(str, words)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            ended, killed = watch(run, folder / "run" / "metrics.jsonl")
        finally:
            run.kill()
        usual = statistics.median(b - a for a, b in pairwise(ended))
        for victim, moment in killed.items():
            after = min(end for end in ended if end > moment) - moment
            lost = {victim: [max(0.0, after - usual)]}
            yield {"measure": "recovery", "case": victim, "step": round(usual, 3), "seconds": medians(lost)}


def watch(run: subprocess.Popen[str], metrics: Path) -> tuple[list[float], dict[str, float]]:
    """Kill the run's engine and rank half a step after steps of theirs; return when each step ended and each died."""
    ended: list[float] = []
    killed: dict[str, float] = {}
    while run.poll() is None:
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        if lines > len(ended):
            ended += [time.time()] * (lines - len(ended))
            for steps, victim in ((ENGINE_DIES, "engine"), (RANK_DIES, "rank")):
                if lines == steps and victim not in killed:
                    time.sleep((ended[-1] - ended[-2]) / 2)
                    killed[victim] = kill(run.pid, victim)
        time.sleep(0.01)
    if run.returncode:
        raise RuntimeError(run.stderr.read() if run.stderr else "")
    return ended, killed


def kill(run: int, victim: str) -> float:
    """Kill a process that a run has started, by what Ray calls it; return when."""
    name = {"engine": "ray::Engine", "rank": "ray::PolicyRank"}[victim]
    found = [
        each.pid for each in psutil.Process(run).children(recursive=True) if each.cmdline()[:1][0].startswith(name)
    ]
    os.kill(found[0], signal.SIGKILL)
    return time.time()


def medians(measured: dict[str, list[float]]) -> dict[str, float]:
    """Return each side's median."""
    return {name: round(statistics.median(times), 4) for name, times in measured.items()}


def rounded(measured: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return all times, to the tenth of a millisecond."""
    return {name: [round(each, 4) for each in times] for name, times in measured.items()}


def line(row: Row) -> str:
    """Return a row of results as one line."""
    times = ", ".join(f"{name} {value:.3f} s" for name, value in row["seconds"].items())
    more = "".join(
        f", {name} adds {value:+.1%} (processor {row['added work'][name]:+.1%})"
        for name, value in row.get("added", {}).items()
    )
    size = f", {row['bytes'] / 1e6:.1f} MB" if "bytes" in row else ""
    return f"{row['measure']}: {row['case']}{': ' + row['part'] if 'part' in row else ''}: {times}{more}{size}"


MEASURES = {"step": step, "publish": publish, "recovery": recovery}


def main() -> None:
    """Print each figure, and write them to `benchmarks/results/cluster_….json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MEASURES, action="append")
    parser.add_argument("--tokens", type=int, choices=GRIDS, action="append")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    arguments.tokens = arguments.tokens or list(GRIDS)
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or MEASURES:
        rows = []
        for row in MEASURES[name](arguments):
            rows.append(row)
            print(line(row), flush=True)
        result = {
            "threads": arguments.threads,
            "repetitions": arguments.repetitions,
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "versions": {package: version(package) for package in ("torch", "transformers", "ray")},
            "rows": rows,
        }
        path = arguments.output / f"cluster_{name}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {path}", flush=True)


if __name__ == "__main__":
    main()
